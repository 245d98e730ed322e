"""A worker that dies leaves a lease behind, and nothing else that the next one cannot finish."""

from datetime import timedelta

import pytest
from django.db import OperationalError
from django.utils import timezone

from backups.archive.reader import ArchiveReader
from backups.errors import DiskUnreadable, Interrupted, PlatformUnreachable, RepositoryFull
from backups.leases import Heartbeat, lease_fields
from backups.models import Archive, Plan, Run, RunItem, SnapshotRecord
from backups.models.runs import ItemState, RunState
from backups.services.repositories import open_store
from backups.services.runs import start_run
from backups.services.tenants import reading_keys
from backups.tasks.coordinate import coordinate
from backups.tasks.read import claim, read_waiting
from backups.tasks.tick import tick
from tests.fakes.platform import FakePlatform
from tests.runs.conftest import sweep

pytestmark = pytest.mark.django_db(transaction=True)
PAST = timedelta(minutes=5)


def expire_leases() -> None:
    long_ago = timezone.now() - PAST
    RunItem.objects.exclude(lease_until=None).update(lease_until=long_ago)
    Run.objects.exclude(lease_until=None).update(lease_until=long_ago)


def test_a_reader_killed_while_archiving_leaves_the_item_to_the_next_with_its_snapshot(
    plan: Plan, platform: FakePlatform, finish
) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    dead = claim()
    assert dead
    expire_leases()
    tick()
    finish(run)
    item = run.items.get(pk=dead.pk)
    assert run.state == RunState.SUCCEEDED
    assert item.attempt > dead.attempt
    assert item.snapshot_at == dead.snapshot_at, "the backup time stays"
    assert platform.find_snapshots("") == []


def test_a_reader_killed_between_manifest_and_row_leaves_no_second_archive(plan: Plan, monkeypatch, finish) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    with monkeypatch.context() as patch:
        patch.setattr("backups.services.archiving._record", lambda *_: (_ for _ in ()).throw(SystemExit("killed")))
        with pytest.raises(SystemExit):
            read_waiting()
    expire_leases()
    tick()
    finish(run)
    assert run.state == RunState.SUCCEEDED
    store = open_store(plan.repository)
    stored = {found.name.rpartition("/")[2] for found in store.list(f"tenants/{plan.tenant_id}/archives/")}
    assert stored == {str(pk) for pk in Archive.objects.values_list("pk", flat=True)}


def test_a_reader_killed_before_removal_has_its_snapshot_removed_by_the_next(
    plan: Plan, platform: FakePlatform, monkeypatch, finish
) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    with monkeypatch.context() as patch:
        patch.setattr("backups.tasks.read._remove", lambda *_: (_ for _ in ()).throw(SystemExit("killed")))
        with pytest.raises(SystemExit):
            read_waiting()
    expire_leases()
    tick()
    finish(run)
    assert run.state == RunState.SUCCEEDED
    assert platform.find_snapshots("") == []
    assert Archive.objects.count() == 3, "what was archived is not archived again"


def test_a_coordinator_killed_between_journal_and_row_leaves_no_orphan(
    plan: Plan, platform: FakePlatform, monkeypatch, finish
) -> None:
    run = start_run(None, plan)
    with monkeypatch.context() as patch:
        patch.setattr("backups.tasks.coordinate._settle", lambda *_: (_ for _ in ()).throw(SystemExit("killed")))
        with pytest.raises(SystemExit):
            coordinate(str(run.pk))
    assert len(platform.find_snapshots("hotfirst-")) == 3
    expire_leases()
    tick()
    finish(run)
    assert run.state == RunState.SUCCEEDED
    assert platform.find_snapshots("") == []
    assert not SnapshotRecord.objects.filter(removed_at=None).exists()


def test_a_snapshot_that_turns_up_after_its_row_was_closed_is_removed_too(
    plan: Plan, platform: FakePlatform, finish
) -> None:
    from backups.platform import SnapshotOrder

    run = finish(start_run(None, plan))
    item = run.items.first()
    platform.create_snapshots([SnapshotOrder(vm_ref=item.vm.ref, name=item.snapshot_name)])
    tick()
    sweep()
    assert platform.find_snapshots("") == []


def test_the_tick_never_touches_a_snapshot_that_is_not_ours(plan: Plan, platform: FakePlatform, finish) -> None:
    from backups.platform import SnapshotOrder

    run = finish(start_run(None, plan))
    item = run.items.first()
    platform.create_snapshots([SnapshotOrder(vm_ref=item.vm.ref, name="before the upgrade")])
    platform.create_snapshots([SnapshotOrder(vm_ref=item.vm.ref, name="hotfirst-of-another-installation")])
    tick()
    sweep()
    assert len(platform.find_snapshots("")) == 2


def test_a_worker_that_lost_its_lease_writes_nothing_more(plan: Plan) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    zombie = claim()
    assert zombie
    expire_leases()
    tick()
    assert claim()
    assert not zombie.transition(ItemState.REMOVING, outcome=ItemState.SUCCEEDED)


def test_a_disk_that_cannot_be_read_once_is_read_again(plan: Plan, platform: FakePlatform, finish) -> None:
    platform.fail_next("open_disk", DiskUnreadable("The host does not answer."))
    run = start_run(None, plan)
    coordinate(str(run.pk))
    read_waiting()
    RunItem.objects.filter(run=run, state=ItemState.WAITING).update(lease_until=None)
    finish(run)
    assert run.state == RunState.SUCCEEDED


def test_a_full_repository_fails_with_its_sentence_and_keeps_what_was_archived(
    plan: Plan, platform: FakePlatform, monkeypatch, finish
) -> None:
    finish(start_run(None, plan))
    kept = list(Archive.objects.all())
    full = RepositoryFull("The repository is full; make room.")

    def refuse(*_: object, **__: object) -> None:
        raise full

    monkeypatch.setattr("backups.archive.writer.ArchiveWriter.commit", refuse)
    run = finish(start_run(None, plan))
    assert run.state == RunState.FAILED
    assert {i.message for i in run.items.all()} == {str(full)}
    assert platform.find_snapshots("") == []
    for archive in kept:
        ArchiveReader(open_store(plan.repository), reading_keys(plan.tenant), str(archive.pk))


def test_a_snapshot_that_cannot_be_removed_is_tried_until_it_goes(
    plan: Plan, platform: FakePlatform, monkeypatch, finish
) -> None:
    def refuse(*_: object) -> None:
        raise PlatformUnreachable("vCenter is away.")

    run = start_run(None, plan)
    coordinate(str(run.pk))
    with monkeypatch.context() as patch:
        patch.setattr(platform, "remove_snapshot", refuse)
        for _ in range(4):
            RunItem.objects.filter(run=run, state=ItemState.REMOVING).update(lease_until=None)
            read_waiting()
    finish(run)
    assert run.state == RunState.FAILED
    assert all("goes on trying" in item.message for item in run.items.all())
    assert SnapshotRecord.objects.filter(removed_at=None).count() == 3
    assert Archive.objects.filter(state="good").count() == 3
    sweep()
    assert platform.find_snapshots("") == []
    assert not SnapshotRecord.objects.filter(removed_at=None).exists()


def test_the_heart_stops_the_work_when_another_worker_took_over(plan: Plan, settings) -> None:
    settings.HOTFIRST_LEASE_S = 0.4
    run = start_run(None, plan)
    Run.objects.filter(pk=run.pk).update(attempt=1, **lease_fields())
    run.refresh_from_db()
    with Heartbeat(run) as beat:
        Run.objects.filter(pk=run.pk).update(attempt=2)
        beat._thread.join(5)
        with pytest.raises(Interrupted, match="taken this over"):
            beat.check()


def test_a_database_that_goes_away_for_a_moment_is_no_bug_of_the_archive(
    plan: Plan, platform: FakePlatform, monkeypatch, finish
) -> None:
    def lose(*_: object) -> None:
        raise OperationalError("the server closed the connection unexpectedly")

    run = start_run(None, plan)
    coordinate(str(run.pk))
    with monkeypatch.context() as patch:
        patch.setattr("backups.tasks.read.archive_item", lose)
        read_waiting()
    assert run.items.filter(state=ItemState.ARCHIVING).count() == 1
    expire_leases()
    tick()
    finish(run)
    assert run.state == RunState.SUCCEEDED


def test_a_database_that_goes_away_while_snapshots_are_taken_loses_none(
    plan: Plan, platform: FakePlatform, monkeypatch, finish
) -> None:
    def lose(*_: object) -> None:
        raise OperationalError("the server closed the connection unexpectedly")

    run = start_run(None, plan)
    with monkeypatch.context() as patch:
        patch.setattr("backups.tasks.coordinate._settle", lose)
        coordinate(str(run.pk))
    assert len(platform.find_snapshots("hotfirst-")) == 3
    expire_leases()
    tick()
    finish(run)
    assert run.state == RunState.SUCCEEDED
    assert platform.find_snapshots("") == []


def test_a_vcenter_that_restarts_while_snapshots_are_made_costs_no_backup(
    plan: Plan, platform: FakePlatform, finish
) -> None:
    platform.fail_next("create_snapshot", PlatformUnreachable("The connection broke; it is tried again."))
    run = finish(start_run(None, plan))
    assert run.state == RunState.SUCCEEDED
    assert sorted(run.items.values_list("failures", flat=True)) == [0, 0, 1]
    assert platform.find_snapshots("") == []


def test_a_vcenter_that_stays_away_ends_the_item_with_its_sentence(plan: Plan, platform: FakePlatform, finish) -> None:
    for _ in range(9):
        platform.fail_next("create_snapshot", PlatformUnreachable("The connection broke."))
    run = finish(start_run(None, plan))
    assert run.state == RunState.FAILED
    assert set(run.items.values_list("message", flat=True)) == {"The connection broke."}
