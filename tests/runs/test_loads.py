from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from backups.errors import PermissionMissing, PlatformUnreachable
from backups.models import LoadSample, Plan, Run, RunItem, VCenter, Vm
from backups.services.history import RAW_KEPT, histories, recent_loads, sample_all, thin_samples
from backups.services.inventory import refresh
from backups.services.loads import expect_durations, measure_items, predict_items, set_priorities
from backups.services.plans import apply_plan
from backups.services.runs import start_run
from tests.fakes.platform import FakePlatform

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]
NOW = datetime(2026, 3, 10, 22, 10, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MIB = 2**20


def sampled(vm: Vm, at: datetime, write_kbps: float) -> LoadSample:
    return LoadSample.objects.create(
        vm=vm, at=at, write_kbps=write_kbps, read_kbps=2 * write_kbps, write_iops=write_kbps, read_iops=0
    )


def called(platform: FakePlatform, call: str) -> list:
    return [entry[1] for entry in platform.calls if entry[0] == call]


def items_of(run: Run) -> list[RunItem]:
    return list(RunItem.objects.filter(run=run).select_related("vm").order_by("vm_name"))


@pytest.fixture
def db_vm(vcenter: VCenter) -> Vm:
    return Vm.objects.get(name="shop-db")


def test_every_running_vm_of_a_vcenter_is_sampled_with_one_call(vcenter: VCenter, platform: FakePlatform) -> None:
    sample_all(NOW)
    assert {s.vm.name: s.write_kbps for s in LoadSample.objects.all()} == {
        "shop-db": 900,
        "shop-web": 40,
        "shop-idle": 1,
    }
    assert len(called(platform, "load")) == 1
    assert Vm.objects.get(name="shop-db").write_kbps == 900


def test_two_ticks_sample_once_and_the_next_again_after_five_minutes(vcenter: VCenter, platform: FakePlatform) -> None:
    for after in (0 * MINUTE, MINUTE, 5 * MINUTE - timedelta(seconds=10)):
        sample_all(NOW + after)
    assert sorted(set(LoadSample.objects.values_list("at", flat=True))) == [
        NOW,
        NOW + 5 * MINUTE - timedelta(seconds=10),
    ]
    assert LoadSample.objects.count() == 6


def test_vms_that_are_off_or_gone_are_not_sampled(vcenter: VCenter, platform: FakePlatform) -> None:
    refs = {vm.name: vm.ref for vm in platform.inventory().vms}
    platform.power(refs["shop-web"], on=False)
    platform.destroy_vm(refs["shop-idle"])
    refresh(vcenter)
    sample_all(NOW)
    assert [s.vm.name for s in LoadSample.objects.all()] == ["shop-db"]


def test_a_vcenter_that_is_away_keeps_nobody_from_going_on(vcenter: VCenter, platform: FakePlatform) -> None:
    platform.fail_next("load", PlatformUnreachable("vCenter cannot be reached."))
    sample_all(NOW)
    assert LoadSample.objects.count() == 0
    sample_all(NOW + 5 * MINUTE)
    assert LoadSample.objects.count() == 3


def test_samples_become_hourly_means_after_a_day(db_vm: Vm) -> None:
    hour = datetime(2026, 3, 9, 7, tzinfo=UTC)
    for minute, write_kbps in ((5, 100), (25, 200), (55, 600)):
        sampled(db_vm, hour + minute * MINUTE, write_kbps)
    young = sampled(db_vm, NOW - RAW_KEPT + HOUR, 7)
    for _ in range(2):
        thin_samples(NOW)
        mean, kept = LoadSample.objects.order_by("at")
        assert (mean.at, mean.write_kbps, mean.read_kbps, mean.vm) == (hour, 300, 600, db_vm)
        assert kept == young


def test_samples_are_kept_for_thirty_days(db_vm: Vm) -> None:
    sampled(db_vm, NOW - 31 * DAY, 1)
    kept = sampled(db_vm, datetime(2026, 2, 9, 12, tzinfo=UTC), 1)
    thin_samples(NOW)
    assert list(LoadSample.objects.all()) == [kept]


def test_recent_loads_are_hourly_means_of_a_week_in_one_query(db_vm: Vm, django_assert_num_queries) -> None:
    web = Vm.objects.get(name="shop-web")
    sampled(db_vm, NOW - 8 * DAY, 1)
    sampled(db_vm, NOW - 3 * HOUR, 10)
    sampled(db_vm, NOW - 3 * HOUR + 5 * MINUTE, 30)
    sampled(db_vm, NOW, 7)
    sampled(web, NOW, 5)
    with django_assert_num_queries(1):
        found = recent_loads([db_vm.pk, web.pk], NOW)
    assert [(s.at, s.write_kbps) for s in found[db_vm.pk]] == [
        (datetime(2026, 3, 10, 19, tzinfo=UTC), 20),
        (datetime(2026, 3, 10, 22, tzinfo=UTC), 7),
    ]
    assert [s.write_kbps for s in found[web.pk]] == [5]


def test_a_history_holds_the_last_samples_and_the_hours_that_the_hold_covers(db_vm: Vm) -> None:
    wanted = [
        sampled(db_vm, NOW - 5 * MINUTE, 1),
        sampled(db_vm, NOW - DAY + 30 * MINUTE, 2),
        sampled(db_vm, datetime(2026, 3, 5, 23, tzinfo=UTC), 3),
    ]
    sampled(db_vm, NOW - 5 * HOUR, 4)
    sampled(db_vm, datetime(2026, 3, 5, 3, tzinfo=UTC), 5)
    found = histories([db_vm.pk], NOW, hold_s=3600)[db_vm.pk]
    assert sorted(s.write_kbps for s in found) == sorted(s.write_kbps for s in wanted)


def test_a_run_orders_by_the_metric_of_its_plan_and_grows_by_what_is_written(plan: Plan, vcenter: VCenter) -> None:
    Plan.objects.filter(pk=plan.pk).update(metric="total_kbps")
    plan.refresh_from_db()
    run = start_run(None, plan)
    Run.objects.filter(pk=run.pk).update(metric="total_kbps")
    run.refresh_from_db()
    items = items_of(run)
    now = timezone.now()
    for item in items:
        sampled(item.vm, now, 50)
    expect_durations(run, items, now)
    predict_items(run, items, {}, now)
    assert {(item.load, item.load_kbps) for item in items} == {(150, 50)}
    assert "KB/s read and written" in items[0].load_reason


def test_measuring_stores_loads_with_their_reasons_and_a_sample_of_each_vm(plan: Plan, platform: FakePlatform) -> None:
    run = start_run(None, plan)
    measure_items(platform, items_of(run))
    stored = {item.vm_name: (item.load, item.load_kbps) for item in items_of(run)}
    assert stored == {"shop-db": (900, 900), "shop-web": (40, 40), "shop-idle": (1, 1)}
    assert items_of(run)[0].load_reason == "900.0 KB/s written now; earlier days tell nothing of these hours"
    assert LoadSample.objects.count() == 3


def test_without_counters_a_run_goes_by_its_vms_own_history(plan: Plan, platform: FakePlatform) -> None:
    run = start_run(None, plan)
    sampled(Vm.objects.get(name="shop-idle"), timezone.now() - DAY, 5000)
    platform.fail_next("load", PermissionMissing("The account lacks Performance.ModifyIntervals."))
    measure_items(platform, items_of(run))
    set_priorities("highest_load", items_of(run))
    first = max(items_of(run), key=lambda item: item.priority)
    assert (first.vm_name, first.load_kbps) == ("shop-idle", 5000)
    assert "nothing could be measured now" in first.load_reason


def test_a_vm_that_is_off_has_no_load_whatever_its_history(plan: Plan, platform: FakePlatform, vcenter) -> None:
    platform.power(next(vm.ref for vm in platform.inventory().vms if vm.name == "shop-db"), on=False)
    refresh(vcenter)
    run = start_run(None, plan)
    sampled(Vm.objects.get(name="shop-db"), timezone.now() - DAY, 5000)
    measure_items(platform, items_of(run))
    assert items_of(run)[0].load_kbps == 0
    assert "powered off" in items_of(run)[0].load_reason


def test_the_first_archive_is_expected_to_read_everything_and_the_next_what_changed(
    plan: Plan, platform, finish
) -> None:
    first = start_run(None, plan)
    items = items_of(first)
    expect_durations(first, items, timezone.now())
    assert {item.bytes_expected for item in items} == {3 * MIB}
    finish(first)
    vm = next(v for v in platform.inventory().vms if v.name == "shop-web")
    platform.write(vm.ref, 2000, 300_000, b"new")
    finish(start_run(None, plan))
    third = start_run(None, plan)
    items = items_of(third)
    expect_durations(third, items, timezone.now())
    assert {item.vm_name: item.bytes_expected for item in items} == {
        "shop-db": 0,
        "shop-web": 2**18,
        "shop-idle": 0,
    }


def test_durations_go_by_what_the_vms_own_archives_took(plan: Plan, finish) -> None:
    done = finish(start_run(None, plan))
    for item in done.items.all():
        took_s = 100 if item.vm_name == "shop-db" else 10
        done.items.filter(pk=item.pk).update(archiving_at=item.removed_at - timedelta(seconds=took_s))
    run = start_run(None, plan)
    items = items_of(run)
    expect_durations(run, items, timezone.now())
    expected = {item.vm_name: round(item.expected_s) for item in items}
    assert expected == {"shop-db": 100, "shop-idle": 10, "shop-web": 10}


def test_what_a_run_has_finished_corrects_what_is_left_of_it(plan: Plan, finish) -> None:
    done = finish(start_run(None, plan))
    for item in done.items.all():
        done.items.filter(pk=item.pk).update(archiving_at=item.removed_at - timedelta(seconds=10))
    run = start_run(None, plan)
    now = timezone.now()
    run.items.filter(vm_name="shop-web").update(
        state="succeeded", archiving_at=now - 4 * timedelta(seconds=10), removed_at=now, finished_at=now
    )
    left = [item for item in items_of(run) if item.vm_name != "shop-web"]
    expect_durations(run, left, now)
    assert [round(item.expected_s) for item in left] == [20, 20]


def test_the_order_goes_by_load_and_expected_duration(plan: Plan, platform: FakePlatform) -> None:
    run = start_run(None, plan)
    measure_items(platform, items_of(run))
    set_priorities("least_disturbance", items_of(run))
    for item in items_of(run):
        assert item.priority == pytest.approx(item.load / item.expected_s)


def test_as_many_queries_are_made_for_thirty_vms_as_for_three(plan: Plan, platform: FakePlatform, vcenter) -> None:
    def queries(run: Run) -> int:
        items = items_of(run)
        VCenter.objects.update(sampled_at=None)
        with CaptureQueriesContext(
            connection,
        ) as made:
            measure_items(platform, items)
            set_priorities("least_disturbance", items)
            sample_all(timezone.now() + 5 * MINUTE)
        return len(made)

    few = start_run(None, plan)
    needed = queries(few)
    RunItem.objects.all().delete()
    few.delete()
    for n in range(27):
        platform.add_vm(f"more-{n}", disks=[MIB], write_kbps=n)
    refresh(vcenter)
    more = list(Vm.objects.filter(name__startswith="more-"))
    Vm.objects.filter(pk__in=[vm.pk for vm in more]).update(tenant=plan.tenant)
    apply_plan(None, plan, vms=list(Vm.objects.filter(name__startswith="more-")))
    assert queries(start_run(None, plan)) == needed
