"""Every option of a plan, a vCenter and a start, by the run that it makes."""

import time
from datetime import timedelta

import pytest
from django.utils import timezone

from backups.errors import InvalidRequest
from backups.models import LoadSample, Plan, Recovery, Run, RunItem, SnapshotRecord, VCenter
from backups.models.runs import ItemState, RunState
from backups.services.plans import apply_plan, create_plan, revoke_plan
from backups.services.runs import start_run
from backups.tasks.coordinate import coordinate
from backups.tasks.read import _why_stop, claim, read_waiting
from backups.tasks.tick import tick
from tests.fakes.platform import FakePlatform

pytestmark = pytest.mark.django_db(transaction=True)


def with_options(plan: Plan, **options: object) -> Plan:
    Plan.objects.filter(pk=plan.pk).update(**options)
    plan.refresh_from_db()
    return plan


def outside_vapps(plan: Plan) -> Plan:
    """The same three VMs, each by itself."""
    revoke_plan(None, plan.tenant, vapps=list(plan.vapps.all()))
    plan.tenant.vms.update(vapp=None)
    apply_plan(None, plan, vms=list(plan.tenant.vms.all()))
    return plan


def order_of(run: Run) -> list[str]:
    return [item.vm_name for item in run.items.exclude(position=None).order_by("position")]


def states_of(run: Run) -> dict[str, str]:
    return dict(run.items.values_list("vm_name", "state"))


def test_by_name_archives_in_alphabetical_order(plan: Plan, finish) -> None:
    assert order_of(finish(start_run(None, with_options(plan, policy="name")))) == ["shop-db", "shop-idle", "shop-web"]


def test_least_disturbance_goes_by_what_has_changed(plan: Plan, platform: FakePlatform, finish) -> None:
    """The database writes most, but only its archive has much to read: load ÷ duration puts the web server first."""
    with_options(plan, policy="least_disturbance")
    finish(start_run(None, plan))
    now = timezone.now()
    RunItem.objects.update(archiving_at=now - timedelta(seconds=1), removed_at=now)
    platform.set_load("shop-db", 41.0)
    LoadSample.objects.all().delete()
    vm_ref = next(vm.ref for vm in platform.inventory().vms if vm.name == "shop-db")
    platform.write(vm_ref, 2000, 0, bytes(range(256)) * 8192)
    run = start_run(None, plan)
    coordinate(str(run.pk))
    expected = dict(run.items.values_list("vm_name", "bytes_expected"))
    assert expected == {"shop-db": 2 * 2**20, "shop-web": 0, "shop-idle": 0}
    finish(run)
    assert order_of(run)[0] == "shop-web"


def test_the_metric_chooses_what_the_order_goes_by(plan: Plan, platform: FakePlatform, finish) -> None:
    platform.set_load("shop-idle", 1.0, read_kbps=9000.0)
    assert order_of(finish(start_run(None, plan)))[0] == "shop-db"
    run = finish(start_run(None, with_options(plan, metric="total_kbps")))
    assert order_of(run)[0] == "shop-idle"
    idle = run.items.get(vm_name="shop-idle")
    assert idle.load > 9000
    assert idle.load_kbps == pytest.approx(1.0, abs=0.5), "its snapshot grows by what is written all the same"


def test_a_vapp_is_split_over_batches_where_the_plan_lets_it(plan: Plan, finish) -> None:
    whole = finish(start_run(None, with_options(plan, batch_size=1)))
    assert set(whole.items.values_list("batch", flat=True)) == {1}
    split = finish(start_run(None, with_options(plan, vapps_whole=False)))
    assert set(split.items.values_list("batch", flat=True)) == {1, 2, 3}


def test_no_more_readers_work_than_the_plan_has(plan: Plan) -> None:
    run = start_run(None, with_options(plan, readers=2))
    coordinate(str(run.pk))
    assert [bool(claim()) for _ in range(3)] == [True, True, False]


def test_a_common_time_in_the_future_is_waited_for(plan: Plan, platform: FakePlatform, finish) -> None:
    at = timezone.now() + timedelta(seconds=2)
    run = finish(start_run(None, plan, common_time=at))
    assert all(item.snapshot_at >= at for item in run.items.all())


def test_a_common_time_far_away_takes_no_snapshot_yet(plan: Plan, platform: FakePlatform) -> None:
    run = start_run(None, plan, common_time=timezone.now() + timedelta(hours=2))
    coordinate(str(run.pk))
    assert platform.find_snapshots("") == []
    with pytest.raises(InvalidRequest, match="in the future"):
        start_run(None, plan, common_time=timezone.now() - timedelta(hours=2))


def test_a_hold_budget_takes_just_as_many_as_can_be_done_in_time(plan: Plan, platform: FakePlatform, finish) -> None:
    """One reader, a little over 2 s a VM as far as anybody knows, 5 s allowed: two of the three."""
    run = start_run(None, with_options(outside_vapps(plan), hold_budget_s=5))
    coordinate(str(run.pk))
    assert sorted(states_of(run).values()) == ["queued", "waiting", "waiting"]
    assert "longer than 5 s" in run.items.get(state=ItemState.QUEUED).reason
    finish(run)
    assert run.state == RunState.SUCCEEDED
    assert run.forecast["batches"] == 2


def test_a_vm_that_waits_beyond_the_budget_is_skipped_if_the_plan_says_so(plan: Plan, platform, finish) -> None:
    run = start_run(None, with_options(plan, hold_budget_s=3600, over_budget="skip"))
    coordinate(str(run.pk))
    held_too_long(run, "shop-idle")
    finish(run)
    assert states_of(run)["shop-idle"] == ItemState.SKIPPED
    assert "longest that the plan allows" in run.items.get(vm_name="shop-idle").message
    assert (run.state, run.message) == (RunState.FAILED, "2 of 3 VMs backed up.")
    assert platform.find_snapshots("") == []


def test_a_vm_that_waits_beyond_the_budget_is_tried_again_alone(plan: Plan, platform: FakePlatform, finish) -> None:
    run = start_run(None, with_options(plan, hold_budget_s=3600))
    coordinate(str(run.pk))
    held_too_long(run, "shop-idle")
    finish(run)
    idle = run.items.get(vm_name="shop-idle")
    assert (run.state, idle.alone, idle.batch) == (RunState.SUCCEEDED, True, 2)
    assert idle.earlier_hold_s > 3600
    assert idle.snapshot_at > max(item.removed_at for item in run.items.exclude(pk=idle.pk))
    assert platform.find_snapshots("") == []
    assert run.report["exposure_kb"] > 3600, "the hold of the snapshot that was given back counts"


def held_too_long(run: Run, name: str) -> None:
    long_ago = timezone.now() - timedelta(seconds=3700)
    RunItem.objects.filter(run=run, vm_name=name).update(held_since=long_ago)
    tick()


def test_an_archive_that_goes_beyond_the_budget_is_stopped_and_its_snapshot_goes(
    plan: Plan, platform: FakePlatform, finish
) -> None:
    run = start_run(None, with_options(plan, hold_budget_s=3600, over_budget="skip"))
    coordinate(str(run.pk))
    RunItem.objects.filter(run=run).update(held_since=timezone.now() - timedelta(seconds=3700))
    item = claim()
    assert item
    assert "longer than the plan allows" in (_why_stop(item) or "")


def test_a_cap_on_open_snapshots_makes_batches_smaller(plan: Plan, platform: FakePlatform, finish) -> None:
    VCenter.objects.update(snapshots_per_datastore=2)
    run = start_run(None, outside_vapps(plan))
    coordinate(str(run.pk))
    assert len(platform.find_snapshots("")) == 2
    assert "as many open snapshots as it may" in run.items.get(state=ItemState.QUEUED).reason
    finish(run)
    assert run.state == RunState.SUCCEEDED


def test_a_cap_on_a_hosts_snapshots_counts_the_runs_of_others(plan: Plan, platform: FakePlatform) -> None:
    """Two of Acme's plans on one host that may hold three snapshots, of which the first run holds two."""
    idle = outside_vapps(plan).tenant.vms.get(name="shop-idle")
    other = create_plan(None, plan.tenant, name="Other", repository=plan.repository)
    apply_plan(None, other, vms=[idle])
    VCenter.objects.update(snapshots_per_host=2)
    coordinate(str(start_run(None, plan).pk))
    second = start_run(None, other)
    coordinate(str(second.pk))
    assert second.items.get().state == ItemState.QUEUED
    assert "host" in second.items.get().reason
    VCenter.objects.update(snapshots_per_host=3)
    coordinate(str(second.pk))
    assert second.items.get().state == ItemState.WAITING


def test_a_cap_on_a_datastores_readers_holds_back_the_next_and_says_why(plan: Plan, platform: FakePlatform) -> None:
    VCenter.objects.update(readers_per_datastore=1)
    run = start_run(None, with_options(plan, readers=3))
    coordinate(str(run.pk))
    assert claim()
    assert claim() is None
    tick()
    assert "as many readers as it may" in run.items.filter(state=ItemState.WAITING)[0].held_back


def test_a_cap_on_a_hosts_readers_holds_back_the_next(plan: Plan) -> None:
    VCenter.objects.update(readers_per_host=2)
    run = start_run(None, with_options(plan, readers=3))
    coordinate(str(run.pk))
    assert [bool(claim()) for _ in range(3)] == [True, True, False]


def test_nothing_new_starts_on_a_datastore_that_is_too_slow(plan: Plan, platform: FakePlatform, finish) -> None:
    VCenter.objects.update(latency_stop_ms=30)
    run = start_run(None, plan)
    coordinate(str(run.pk))
    answer_in(platform, 45.0)
    tick()
    assert claim() is None
    assert "45 ms" in run.items.filter(state=ItemState.WAITING)[0].held_back
    answer_in(platform, 5.0)
    tick()
    finish(run)
    assert run.state == RunState.SUCCEEDED


def answer_in(platform: FakePlatform, latency_ms: float) -> None:
    for name in ("store1", "store2"):
        platform.set_latency(name, latency_ms)
    VCenter.objects.get().datastores.update(measured_at=timezone.now() - timedelta(seconds=30))


def test_a_datastore_that_would_run_full_gets_no_snapshot_and_the_tenant_is_told(
    plan: Plan, platform: FakePlatform, finish
) -> None:
    for name in ("store1", "store2"):
        platform.set_free(name, 2**40 // 10 + 1000)
    run = finish(start_run(None, outside_vapps(plan)))
    busy = run.items.get(vm_name="shop-db")
    assert busy.state == ItemState.SKIPPED
    assert "Free some space" in busy.message
    assert platform.find_snapshots("") == []
    assert run.state == RunState.FAILED


def test_quiescing_that_is_not_wanted_is_not_tried(plan: Plan, finish) -> None:
    run = finish(start_run(None, with_options(plan, quiesce="no")))
    assert not any(run.items.values_list("quiesced", flat=True))


def test_a_vm_that_vanished_is_told_of_once(plan: Plan, platform: FakePlatform, finish) -> None:
    finish(start_run(None, plan))
    plan.tenant.vms.filter(name="shop-web").update(vanished_at=timezone.now())
    told = finish(start_run(None, plan))
    assert told.items.get(vm_name="shop-web").state == ItemState.FAILED
    assert told.message == "2 of 3 VMs backed up."
    assert finish(start_run(None, plan)).message == "2 of 2 VMs backed up."


def test_a_run_writes_down_its_forecast_before_the_first_snapshot(plan: Plan, platform: FakePlatform) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    run.refresh_from_db()
    assert run.forecast["exposure_kb"] > 0
    assert len(run.forecast["vms"]) == 3


def test_the_growth_of_each_snapshot_is_measured_before_it_goes(plan: Plan, platform: FakePlatform, finish) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    vm_ref = next(vm.ref for vm in platform.inventory().vms if vm.name == "shop-db")
    platform.write(vm_ref, 2000, 0, b"x" * 5000)
    finish(run)
    assert run.items.get(vm_name="shop-db").grown_bytes > 0
    assert not SnapshotRecord.objects.filter(removed_at=None).exists()


def test_a_reader_makes_room_for_a_recovery_that_waits(plan: Plan, finish) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    Recovery.objects.create(tenant=plan.tenant, vcenter=VCenter.objects.get(), mode="as_new")
    read_waiting()
    assert run.items.filter(state=ItemState.SUCCEEDED).count() == 1


def test_an_archive_that_never_ends_is_stopped_and_fails_with_a_sentence(
    plan: Plan, platform, settings, finish
) -> None:
    settings.HOTFIRST_ARCHIVE_TIMEOUT_S = 0
    settings.HOTFIRST_LEASE_S = 0.04
    slow = platform.open_disk

    def open_slowly(*arguments: object) -> object:
        time.sleep(0.3)
        return slow(*arguments)

    platform.open_disk = open_slowly
    run = finish(start_run(None, plan))
    assert set(states_of(run).values()) == {ItemState.FAILED}
    assert "was not complete after" in run.items.first().message
    assert platform.find_snapshots("") == []
