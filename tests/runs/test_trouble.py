"""What an attack on the engine found: trouble of one VM, tenant or moment that must not become that of the others."""

from datetime import timedelta

import pytest
from django.utils import timezone

from backups.errors import InvalidRequest, PermissionMissing, PlatformUnreachable, SnapshotFailed
from backups.models import Plan, Run, RunItem, SnapshotRecord, VCenter
from backups.models.runs import ItemState, RunState
from backups.platform import Datastore
from backups.services.plans import apply_plan, create_plan
from backups.services.runs import start_run
from backups.services.steering import cancel_run, pause_run, resume_run, retry_run
from backups.tasks import coordinate as coordinating
from backups.tasks.coordinate import coordinate
from backups.tasks.read import claim, read_waiting
from backups.tasks.tick import tick
from tests.fakes.platform import FakePlatform
from tests.runs.conftest import sweep
from tests.runs.test_nothing_lost import expire_leases
from tests.runs.test_options import outside_vapps, with_options

pytestmark = pytest.mark.django_db(transaction=True)


def killed_while_snapshotting(run: Run, monkeypatch) -> None:
    """The snapshots are there, and nobody knows it yet."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(coordinating, "_settle", die)
        with pytest.raises(KeyboardInterrupt):
            coordinate(str(run.pk))
    expire_leases()


def test_two_datastores_of_one_name_harm_no_run(plan: Plan, platform: FakePlatform, monkeypatch, finish) -> None:
    twin = Datastore(ref="ds-9", name="store1", capacity_bytes=2**40, free_bytes=2**38, latency_ms=7.0)
    once = platform.datastores()
    monkeypatch.setattr(platform, "datastores", lambda: (*once, twin))
    assert finish(start_run(None, plan)).state == RunState.SUCCEEDED
    kept = VCenter.objects.get().datastores.get(name="store1")
    assert (kept.free_bytes, kept.latency_ms) == (2**38, 7.0), "the worst of both is what is gone by"


def test_datastores_that_may_not_be_looked_at_hold_nobody_back(
    plan: Plan, platform: FakePlatform, monkeypatch, finish
) -> None:
    def refuse() -> None:
        raise PermissionMissing("The account may not browse datastores.")

    monkeypatch.setattr(platform, "datastores", refuse)
    assert finish(start_run(None, plan)).state == RunState.SUCCEEDED


def test_a_bug_in_the_removal_ends_the_item_and_the_sweep_tries_on(
    plan: Plan, platform: FakePlatform, monkeypatch, finish
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    run = start_run(None, plan)
    with monkeypatch.context() as patch:
        patch.setattr(platform, "remove_snapshot", fail)
        for _ in range(8):
            RunItem.objects.filter(run=run, state=ItemState.REMOVING).update(lease_until=None)
            finish(run)
    assert run.state == RunState.FAILED
    sweep()
    assert platform.find_snapshots("") == []


def test_a_reader_that_always_dies_in_the_removal_does_not_keep_the_run_for_ever(plan: Plan, finish) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    cancel_run(None, run, "now")
    for _ in range(9):
        claim()
        expire_leases()
        tick()
    finish(run)
    assert run.finished_at


def test_a_run_paused_after_its_coordinator_was_killed_holds_nothing(
    plan: Plan, platform: FakePlatform, monkeypatch, finish
) -> None:
    run = start_run(None, plan)
    killed_while_snapshotting(run, monkeypatch)
    assert len(platform.find_snapshots("")) == 3
    pause_run(None, run)
    coordinate(str(run.pk))
    read_waiting()
    assert platform.find_snapshots("") == []
    resume_run(None, run)
    assert finish(run).state == RunState.SUCCEEDED


def test_a_run_cancelled_after_its_coordinator_was_killed_takes_no_new_snapshot(
    plan: Plan, platform: FakePlatform, monkeypatch, finish
) -> None:
    run = start_run(None, plan)
    killed_while_snapshotting(run, monkeypatch)
    taken = len([call for call in platform.calls if call[0] == "create_snapshot"])
    cancel_run(None, run, "now")
    finish(run)
    assert run.state == RunState.CANCELLED
    assert len([call for call in platform.calls if call[0] == "create_snapshot"]) == taken
    assert platform.find_snapshots("") == []


def test_one_orphan_that_will_not_go_does_not_keep_the_others(
    plan: Plan, platform: FakePlatform, monkeypatch, finish
) -> None:
    run = start_run(None, plan)
    killed_while_snapshotting(run, monkeypatch)
    RunItem.objects.filter(run=run).update(state=ItemState.FAILED, finished_at=timezone.now())
    stubborn = SnapshotRecord.objects.order_by("pk").first()
    remove = platform.remove_snapshot

    def refuse(name: str, vm_ref: str) -> None:
        if name == stubborn.name:
            raise SnapshotFailed("vCenter does not remove it.")
        remove(name, vm_ref)

    monkeypatch.setattr(platform, "remove_snapshot", refuse)
    sweep()
    assert [snapshot.name for snapshot in platform.find_snapshots("")] == [stubborn.name]


def test_one_bad_plan_keeps_no_other_from_starting(plan: Plan) -> None:
    past = timezone.now() - timedelta(minutes=1)
    create_plan(None, plan.tenant, name="Bad", repository=plan.repository, cron="0 22 * * *")
    Plan.objects.filter(name="Bad").update(time_zone="Atlantis/Capital", next_start_at=past - timedelta(minutes=1))
    Plan.objects.filter(pk=plan.pk).update(cron="* * * * *", next_start_at=past)
    tick()
    assert Run.objects.filter(plan=plan).exists()


def test_two_coordinators_never_overrun_one_cap(plan: Plan, platform: FakePlatform) -> None:
    """The second looks while the first has chosen and not snapshotted yet: its choice counts already."""
    idle = outside_vapps(plan).tenant.vms.get(name="shop-idle")
    other = create_plan(None, plan.tenant, name="Other", repository=plan.repository)
    apply_plan(None, other, vms=[idle])
    VCenter.objects.update(snapshots_per_host=2)
    first, second = start_run(None, plan), start_run(None, other)
    snapshot = coordinating._snapshot

    def meanwhile(*arguments: object) -> None:
        coordinating._snapshot = snapshot
        coordinate(str(second.pk))
        snapshot(*arguments)

    coordinating._snapshot = meanwhile
    try:
        coordinate(str(first.pk))
    finally:
        coordinating._snapshot = snapshot
    assert len(platform.find_snapshots("")) == 2


def test_an_overtaken_coordinator_fails_nothing_of_the_new_one(plan: Plan, platform: FakePlatform, monkeypatch) -> None:
    run = start_run(None, plan)

    def overtaken(*_: object) -> None:
        Run.objects.filter(pk=run.pk).update(attempt=9, lease_owner="another")
        raise SnapshotFailed("too late")

    monkeypatch.setattr(coordinating, "set_priorities", overtaken)
    coordinate(str(run.pk))
    assert set(run.items.values_list("state", flat=True)) == {ItemState.QUEUED}


def test_a_start_that_a_forgotten_pause_costs_is_told(plan: Plan) -> None:
    run = start_run(None, plan)
    pause_run(None, run)
    Plan.objects.filter(pk=plan.pk).update(cron="* * * * *", next_start_at=timezone.now() - timedelta(minutes=1))
    tick()
    missed = plan.runs.exclude(pk=run.pk).get()
    assert missed.state == RunState.FAILED
    assert "going on" in missed.message


def test_a_clock_of_vcenter_that_is_behind_does_not_shorten_the_budget(plan: Plan, platform: FakePlatform) -> None:
    run = start_run(None, with_options(plan, hold_budget_s=600, over_budget="skip"))
    coordinate(str(run.pk))
    run.items.update(snapshot_at=timezone.now() - timedelta(minutes=15))
    tick()
    assert set(run.items.values_list("state", flat=True)) == {ItemState.WAITING}


def test_what_was_held_in_vain_is_in_the_report(plan: Plan, platform: FakePlatform, finish) -> None:
    run = start_run(None, with_options(plan, hold_budget_s=600, over_budget="skip"))
    coordinate(str(run.pk))
    run.items.filter(vm_name="shop-db").update(held_since=timezone.now() - timedelta(seconds=700))
    tick()
    finish(run)
    assert run.report["in_vain_kb"] > 700 * 800
    assert run.report["exposure_kb"] > run.report["in_vain_kb"]


def test_trouble_that_passes_is_forgotten_after_a_good_batch(plan: Plan, platform: FakePlatform, finish) -> None:
    run = start_run(None, plan)
    platform.fail_next("load", PlatformUnreachable("blip"))
    coordinate(str(run.pk))
    run.refresh_from_db()
    assert run.failures == 1
    Run.objects.filter(pk=run.pk).update(lease_until=None)
    coordinate(str(run.pk))
    run.refresh_from_db()
    assert run.failures == 0


def test_a_slow_datastore_does_not_hold_back_the_vms_of_a_quick_one(plan: Plan, platform: FakePlatform) -> None:
    VCenter.objects.update(latency_stop_ms=30)
    outside_vapps(plan).tenant.vms.exclude(name="shop-idle").update(datastore="store2")
    platform.set_latency("store2", 90.0)
    run = start_run(None, with_options(plan, batch_size=1, readers=1))
    coordinate(str(run.pk))
    assert run.items.get(state=ItemState.WAITING).vm_name == "shop-idle"
    assert "90 ms" in run.items.filter(state=ItemState.QUEUED).first().reason


def test_a_vm_that_moved_before_its_snapshot_counts_where_it_is_now(plan: Plan) -> None:
    run = start_run(None, plan)
    plan.tenant.vms.update(datastore="store2")
    coordinate(str(run.pk))
    assert set(run.items.values_list("datastore", flat=True)) == {"store2"}


def test_a_by_name_run_is_not_starved_by_a_run_of_loads(plan: Plan) -> None:
    idle = outside_vapps(plan).tenant.vms.get(name="shop-idle")
    other = create_plan(None, plan.tenant, name="By name", repository=plan.repository, policy="name")
    apply_plan(None, other, vms=[idle])
    with_options(plan, readers=2)
    for run in (start_run(None, plan), start_run(None, other)):
        coordinate(str(run.pk))
    assert [claim().vm_name for _ in range(2)] == ["shop-db", "shop-idle"]


def test_vms_that_changed_plans_are_not_retried_under_the_old_one(plan: Plan, platform: FakePlatform, finish) -> None:
    for _ in range(3):
        platform.fail_next("create_snapshot", SnapshotFailed("The guest did not answer."))
    run = finish(start_run(None, plan))
    other = create_plan(None, plan.tenant, name="Other", repository=plan.repository)
    apply_plan(None, other, vapps=list(plan.vapps.all()))
    with pytest.raises(InvalidRequest, match="no longer in the plan Nightly"):
        retry_run(None, run)


def test_readers_slow_down_while_the_datastore_is_slow(plan: Plan, platform: FakePlatform, finish, monkeypatch) -> None:
    rested: list[float] = []
    monkeypatch.setattr("backups.tasks.read.LOOK_AGAIN_S", -1)
    monkeypatch.setattr("backups.tasks.read.time.sleep", rested.append)
    VCenter.objects.update(latency_slow_ms=10)
    platform.set_latency("store1", 25.0)
    assert finish(start_run(None, plan)).state == RunState.SUCCEEDED
    assert rested
    assert max(rested) <= 2
