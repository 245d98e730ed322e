"""After each run the plan's rules decide about the archives of its VMs. Those of shop-db are looked at, one a day."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from django.utils import timezone

from backups.errors import Conflict
from backups.models import Archive, AuditEntry, Plan, Recovery, RecoveryItem, Run, Vm
from backups.models.archives import ArchiveState
from backups.services.archives import delete_archive, dry_run, lock_archive
from backups.services.plans import change_plan, retention_preview
from backups.services.runs import start_run

pytestmark = pytest.mark.django_db(transaction=True)
Finish = Callable[[Run], Run]
NO_RULE = {"keep_count": 1, "keep_days": 0}


@pytest.fixture
def history(plan: Plan, finish: Finish) -> Callable[[int], None]:
    """Archives of shop-db of the days before today."""

    def make(days: int) -> None:
        finish(start_run(None, plan))
        real = Archive.objects.get(vm_name="shop-db")
        before = [real.backup_time - timedelta(days=day) for day in range(1, days + 1)]
        Archive.objects.bulk_create(Archive(backup_time=at, **fields_of(real)) for at in before)

    return make


def left() -> list[date]:
    there = Archive.objects.filter(vm_name="shop-db").exclude(state=ArchiveState.DELETED).order_by("-backup_time")
    return [archive.backup_time.date() for archive in there]


def aged(days: int) -> Archive:
    return Archive.objects.filter(vm_name="shop-db").order_by("-backup_time")[days]


def today() -> date:
    return timezone.now().date()


def run_with(plan: Plan, finish: Finish, **rules: Any) -> list[date]:
    change_plan(None, plan, **NO_RULE | rules)
    assert finish(start_run(None, plan)).state == "succeeded"
    return left()


def last(weekday: int, count: int) -> list[date]:
    """The last so many of these weekdays, today counted."""
    newest = today() - timedelta(days=(today().weekday() - weekday) % 7)
    return [newest - timedelta(weeks=week) for week in range(count)]


def test_a_run_leaves_as_many_as_are_kept(plan: Plan, finish: Finish, history: Any) -> None:
    history(5)
    assert run_with(plan, finish, keep_count=3) == [today(), today(), today() - timedelta(days=1)]


def test_a_run_leaves_what_is_young(plan: Plan, finish: Finish, history: Any) -> None:
    history(9)
    assert min(run_with(plan, finish, keep_days=4)) == today() - timedelta(days=3)


def test_a_run_leaves_the_last_archive_of_each_day(plan: Plan, finish: Finish, history: Any) -> None:
    history(9)
    assert run_with(plan, finish, keep_daily=4) == [today() - timedelta(days=day) for day in range(4)]


@pytest.mark.parametrize("weekday", [2, 6])
def test_a_run_leaves_the_chosen_weekdays(plan: Plan, finish: Finish, history: Any, weekday: int) -> None:
    history(40)
    assert set(run_with(plan, finish, keep_weekly=3, gfs_weekday=weekday)) == {today(), *last(weekday, 3)}


def test_a_run_leaves_the_last_such_weekday_of_each_month(plan: Plan, finish: Finish, history: Any) -> None:
    history(100)
    months = {(day.year, day.month): day for day in reversed(last(6, 14))}
    kept = run_with(plan, finish, keep_monthly=3, gfs_weekday=6)
    this_month = (today().year, today().month)
    before = sorted(day for month, day in months.items() if month < this_month)
    assert set(before[-2:]) <= set(kept)
    assert len(kept) <= 5


def test_a_run_leaves_one_of_each_year(plan: Plan, finish: Finish, history: Any) -> None:
    history(800)
    kept = run_with(plan, finish, keep_yearly=2)
    assert len(kept) <= 4
    assert {day.year for day in kept} >= {today().year, today().year - 1}


def test_days_and_weeks_are_those_of_the_plans_time_zone(plan: Plan, finish: Finish, history: Any) -> None:
    """Twelve hours apart, two archives of one day in UTC lie on two days in one of the zones, or in the other."""
    history(0)
    real = aged(0)
    noon = (timezone.now() - timedelta(days=3)).replace(hour=12, minute=0)
    for hour in (noon - timedelta(hours=3), noon + timedelta(hours=3)):
        Archive.objects.create(**{**fields_of(real), "backup_time": hour})
    kept = {zone: kept_in(plan, zone, noon.date()) for zone in ("UTC", "Pacific/Auckland")}
    assert kept == {"UTC": 1, "Pacific/Auckland": 2}


def fields_of(archive: Archive) -> dict[str, Any]:
    names = ("tenant", "repository", "vm", "vm_name", "full", "bytes_total", "bytes_read", "bytes_new", "bytes_stored")
    return {name: getattr(archive, name) for name in names}


def kept_in(plan: Plan, zone: str, day: date) -> int:
    change_plan(None, plan, time_zone=zone, keep_daily=9, **NO_RULE)
    judged = dry_run(plan, timezone.now())
    return sum(verdict.stays and archive.backup_time.date() == day for archive, verdict in judged)


def test_a_locked_archive_outlives_the_rules(plan: Plan, finish: Finish, history: Any) -> None:
    history(5)
    lock_archive(None, aged(4), timezone.now() + timedelta(days=10))
    assert run_with(plan, finish) == [today(), today() - timedelta(days=4)]
    Archive.objects.update(locked_until=timezone.now() - timedelta(seconds=1))
    assert run_with(plan, finish) == [today()]


def test_nobody_deletes_a_locked_archive(plan: Plan, history: Any) -> None:
    history(1)
    lock_archive(None, aged(1), timezone.now() + timedelta(days=10))
    with pytest.raises(Conflict, match="locked until"):
        delete_archive(None, aged(1))
    assert len(left()) == 2


def test_a_lock_is_prolonged_and_never_shortened(plan: Plan, history: Any) -> None:
    history(0)
    until = timezone.now() + timedelta(days=10)
    lock_archive(None, aged(0), until)
    lock_archive(None, aged(0), until + timedelta(days=1))
    with pytest.raises(Conflict, match="never shortened"):
        lock_archive(None, aged(0), until)
    assert aged(0).locked_until == until + timedelta(days=1)
    assert AuditEntry.objects.filter(action="archive.lock").count() == 2


def test_an_archive_that_is_being_recovered_stays(plan: Plan, finish: Finish, history: Any) -> None:
    history(3)
    recovery = Recovery.objects.create(
        tenant=plan.tenant, vcenter=Vm.objects.get(name="shop-db").vcenter, mode="as_new"
    )
    RecoveryItem.objects.create(recovery=recovery, tenant=plan.tenant, archive=aged(3), vm_name="shop-db")
    assert run_with(plan, finish) == [today(), today() - timedelta(days=3)]


def test_a_damaged_archive_takes_no_good_ones_place(plan: Plan, finish: Finish, history: Any) -> None:
    history(4)
    Archive.objects.filter(pk=aged(1).pk).update(state=ArchiveState.DAMAGED)
    assert run_with(plan, finish, keep_count=3) == [today(), today(), *(today() - timedelta(days=d) for d in (1, 2))]


def test_what_goes_is_in_the_audit_log_with_the_reason(plan: Plan, finish: Finish, history: Any) -> None:
    history(3)
    run_with(plan, finish, keep_count=2, keep_days=1)
    told = AuditEntry.objects.filter(action="archive.delete").first()
    assert told is not None
    assert told.detail["reason"] == "retention of Nightly: older than 1 day and not among the newest 2"


def test_a_dry_run_says_what_the_next_run_does_and_does_nothing(plan: Plan, finish: Finish, history: Any) -> None:
    history(6)
    change_plan(None, plan, **NO_RULE | {"keep_count": 4})
    going = {archive.pk for archive, verdict in dry_run(plan, timezone.now()) if not verdict.stays}
    assert len(going) == 3
    assert len(left()) == 7
    run_with(plan, finish, keep_count=4)
    assert going < set(Archive.objects.filter(state=ArchiveState.DELETED).values_list("pk", flat=True))


def test_the_preview_tells_what_a_year_of_starts_leaves(plan: Plan) -> None:
    change_plan(None, plan, cron="0 22 * * *", keep_weekly=4, **NO_RULE)
    promise = retention_preview(plan, timezone.now())
    assert promise is not None
    assert promise.starts == 365
    assert {reason.rule for _, verdict in promise.kept for reason in verdict.reasons} == {"newest", "weekly"}
    change_plan(None, plan, cron="")
    assert retention_preview(plan, timezone.now()) is None
