"""After each run the plan's rules decide about the archives of its VMs. Those of shop-db are looked at, one a day."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from django.utils import timezone

from backups.archive import layout, locks
from backups.errors import ArchiveMissing, Conflict
from backups.models import Archive, AuditEntry, Plan, Recovery, RecoveryItem, Run, Vm
from backups.models.archives import ArchiveState
from backups.services.archives import delete_archive, dry_run, lock_archive, undelete_archive
from backups.services.plans import change_plan, retention_preview
from backups.services.repositories import open_store
from backups.services.runs import start_run
from backups.tasks.collect import collect

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
        store = open_store(plan.repository)
        content = store.get(manifest_of(real))
        for archive in Archive.objects.bulk_create(Archive(backup_time=at, **fields_of(real)) for at in before):
            store.put(manifest_of(archive), content)

    return make


def manifest_of(archive: Archive) -> str:
    return layout.archive(str(archive.tenant_id), str(archive.pk))


def lock_is_over(archive: Archive) -> None:
    store = open_store(archive.repository)
    for stored in list(store.list(layout.archive_locks(str(archive.tenant_id), str(archive.pk)))):
        store.delete(stored.name)
    Archive.objects.filter(pk=archive.pk).update(locked_until=timezone.now() - timedelta(seconds=1))


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
    locked = lock_archive(None, aged(4), timezone.now() + timedelta(days=10))
    assert run_with(plan, finish) == [today(), today() - timedelta(days=4)]
    lock_is_over(locked)
    assert run_with(plan, finish) == [today()]


def test_nobody_deletes_a_locked_archive(plan: Plan, history: Any) -> None:
    history(1)
    lock_archive(None, aged(1), timezone.now() + timedelta(days=10))
    with pytest.raises(Conflict, match="locked until"):
        delete_archive(None, aged(1))
    assert len(left()) == 2


def test_a_lock_that_only_the_repository_knows_of_is_told_and_kept(plan: Plan, history: Any) -> None:
    """A kill between repository and row left it."""
    history(1)
    locked, until = aged(1), timezone.now() + timedelta(days=10)
    locks.lock(open_store(plan.repository), str(plan.tenant_id), str(locked.pk), until)
    with pytest.raises(Conflict, match="locked until"):
        delete_archive(None, locked)
    learnt = aged(1)
    assert (learnt.pk, learnt.state) == (locked.pk, ArchiveState.GOOD)
    assert learnt.locked_until
    assert abs(learnt.locked_until - until) <= timedelta(seconds=1)


def test_a_lock_is_in_the_repository_before_the_row_tells_of_it(
    plan: Plan, history: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    history(0)
    killed = RuntimeError("killed")

    def die(*_: object, **__: object) -> None:
        raise killed

    monkeypatch.setattr("backups.services.archives.audit.record", die)
    with pytest.raises(RuntimeError):
        lock_archive(None, aged(0), timezone.now() + timedelta(days=10))
    assert aged(0).locked_until is None
    assert locks.locked_until(open_store(plan.repository), str(plan.tenant_id), str(aged(0).pk))


def test_an_archive_that_is_locked_while_it_is_deleted_stays(
    plan: Plan, history: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a program that knows nothing of the rows, after the repository was asked."""
    history(1)
    monkeypatch.setattr("backups.services.archives._learn_of_lock", lock_at_once)
    with pytest.raises(Conflict, match="locked until"):
        delete_archive(None, aged(1))
    assert len(left()) == 2
    assert AuditEntry.objects.filter(action="archive.keep").count() == 1


def lock_at_once(archive: Archive) -> None:
    until = timezone.now() + timedelta(days=1)
    locks.lock(open_store(archive.repository), str(archive.tenant_id), str(archive.pk), until)


def test_one_locked_archive_does_not_keep_the_others_room(plan: Plan, history: Any) -> None:
    """Rows say deleted, and a kill kept their manifests. The locked one's row comes back."""
    history(2)
    locked, other = aged(1), aged(2)
    lock_at_once(locked)
    Archive.objects.filter(pk__in=[locked.pk, other.pk]).update(state=ArchiveState.DELETED)
    collect(0)
    store = open_store(plan.repository)
    assert store.exists(manifest_of(locked))
    assert not store.exists(manifest_of(other))
    assert Archive.objects.get(pk=locked.pk).state == ArchiveState.GOOD


def test_a_lock_that_only_the_row_tells_of_is_put_into_the_repository(plan: Plan, history: Any) -> None:
    history(0)
    Archive.objects.filter(pk=aged(0).pk).update(locked_until=timezone.now() + timedelta(days=10))
    collect()
    assert locks.locked_until(open_store(plan.repository), str(plan.tenant_id), str(aged(0).pk))


def test_a_deleted_archive_is_brought_back_within_its_time(plan: Plan, history: Any) -> None:
    history(1)
    archive = aged(1)
    delete_archive(None, archive)
    undelete_archive(None, archive)
    assert len(left()) == 2
    assert open_store(plan.repository).exists(manifest_of(archive))
    assert AuditEntry.objects.filter(action="archive.undelete").count() == 1
    with pytest.raises(Conflict, match="not been deleted"):
        undelete_archive(None, archive)


def test_a_deleted_archive_whose_time_is_over_does_not_come_back(plan: Plan, history: Any) -> None:
    history(1)
    archive = aged(1)
    delete_archive(None, archive)
    collect(0)
    with pytest.raises(ArchiveMissing, match="time among the deleted ones is over"):
        undelete_archive(None, archive)
    assert Archive.objects.get(pk=archive.pk).state == ArchiveState.DELETED


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
