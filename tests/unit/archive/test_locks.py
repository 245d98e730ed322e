import os
from datetime import UTC, datetime, timedelta

import pytest

from backups.archive import gc, locks
from backups.archive.gc import collect, delete_archive, deleted_archives, undelete_archive
from backups.errors import ArchiveMissing, Conflict, InvalidRequest
from tests.unit.archive.disks import archive, restored

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _exact_clock(monkeypatch):
    monkeypatch.setattr(gc, "CLOCK_SLACK_S", 0)


def now() -> datetime:
    return datetime.now(UTC)


def clear(store, alice) -> None:
    for _ in range(4):
        collect(store, "alice", alice, grace_s=0)


def age(store, name: str) -> None:
    os.utime(store.root / name, (0, 0))


def test_a_locked_archive_is_not_deleted_before_its_date(store, alice, disk):
    archive(store, alice, disk, "a1")
    locks.lock(store, "alice", "a1", now() + DAY)
    with pytest.raises(Conflict, match="locked until"):
        delete_archive(store, "alice", "a1")
    clear(store, alice)
    assert restored(store, alice, "a1") == disk.content


def test_a_lock_is_prolonged_and_never_shortened(store, alice, disk):
    archive(store, alice, disk, "a1")
    for days in (1, 30, 2, 30):
        locks.lock(store, "alice", "a1", now() + days * DAY)
    until = locks.locked_until(store, "alice", "a1")
    assert until is not None
    assert abs(until - now() - 30 * DAY) < timedelta(minutes=1)


def test_after_its_date_an_archive_goes_as_any_other_and_its_locks_too(store, alice, disk):
    archive(store, alice, disk, "a1")
    store.put("tenants/alice/locks/a1/1000000000", b"")
    assert locks.locked_until(store, "alice", "a1") is None
    delete_archive(store, "alice", "a1")
    clear(store, alice)
    assert list(store.list("tenants/alice/")) == []


def test_a_lock_counts_from_the_moment_it_is_there(store, alice, disk):
    """Somebody deletes the archive while it is locked: it can be brought back for as long as the lock lasts."""
    archive(store, alice, disk, "a1")
    delete_archive(store, "alice", "a1")
    with pytest.raises(ArchiveMissing):
        locks.lock(store, "alice", "a1", now() + DAY)
    clear(store, alice)
    undelete_archive(store, "alice", "a1")
    assert restored(store, alice, "a1") == disk.content


@pytest.mark.parametrize("until", [datetime(2020, 1, 1, tzinfo=UTC), datetime(2090, 1, 1)])
def test_a_lock_needs_a_time_to_come(store, alice, disk, until):
    archive(store, alice, disk, "a1")
    with pytest.raises(InvalidRequest):
        locks.lock(store, "alice", "a1", until)


def test_a_deleted_archive_comes_back_within_its_time(store, alice, disk):
    archive(store, alice, disk, "a1")
    delete_archive(store, "alice", "a1")
    for _ in range(3):
        collect(store, "alice", alice, grace_s=3600)
    assert [deleted.archive_id for deleted in deleted_archives(store, "alice")] == ["a1"]
    undelete_archive(store, "alice", "a1")
    assert deleted_archives(store, "alice") == []
    clear(store, alice)
    assert restored(store, alice, "a1") == disk.content


def test_after_its_time_it_does_not(store, alice, disk):
    archive(store, alice, disk, "a1")
    delete_archive(store, "alice", "a1")
    clear(store, alice)
    with pytest.raises(ArchiveMissing, match="time among the deleted"):
        undelete_archive(store, "alice", "a1")
    assert list(store.list("tenants/alice/archives/")) == []


def test_an_archive_that_is_there_is_not_brought_back(store, alice, disk):
    archive(store, alice, disk, "a1")
    store.put("tenants/alice/deleted/a1", b"another")
    with pytest.raises(Conflict):
        undelete_archive(store, "alice", "a1")


def test_bringing_back_loses_the_race_against_gc_or_wins_it(store, alice, disk, monkeypatch):
    archive(store, alice, disk, "a1")
    delete_archive(store, "alice", "a1")
    put = store.put

    def forgotten_meanwhile(name, data):
        put(name, data)
        if "/archives/" in name:
            store.delete("tenants/alice/deleted/a1")

    monkeypatch.setattr(store, "put", forgotten_meanwhile)
    with pytest.raises(ArchiveMissing):
        undelete_archive(store, "alice", "a1")
    assert list(store.list("tenants/alice/archives/")) == []


def test_one_brought_back_and_deleted_again_has_its_full_time_again(store, alice, disk):
    archive(store, alice, disk, "a1")
    delete_archive(store, "alice", "a1")
    age(store, "tenants/alice/deleted/a1")
    undelete_archive(store, "alice", "a1")
    delete_archive(store, "alice", "a1")
    collect(store, "alice", alice, grace_s=3600)
    undelete_archive(store, "alice", "a1")
    assert restored(store, alice, "a1") == disk.content
