import shutil

import pytest

from backups.archive import gc, repacking, verify
from backups.archive.gc import collect, delete_archive
from backups.archive.maps import CHUNK_BYTES
from backups.archive.writer import ArchiveWriter
from tests.unit.archive.disks import BACKUP_TIME, MIB, Disk, archive, restored, write_disk
from tests.unit.archive.format_reader import FormatReader
from tests.unit.archive.test_damage import flip, objects
from tests.unit.archive.test_gc import FailingStore, Killed, pack_bytes


@pytest.fixture(autouse=True)
def _exact_clock(monkeypatch):
    monkeypatch.setattr(gc, "CLOCK_SLACK_S", 0)


def collect_all(store, alice, rounds=5):
    return [collect(store, "alice", alice.without_private(), grace_s=0) for _ in range(rounds)]


@pytest.fixture
def sparse(store, alice) -> Disk:
    """Of eight chunks of the first archive the second, which alone is left, still uses one."""
    disk = Disk(8 * CHUNK_BYTES)
    disk.scribble(0, 8 * CHUNK_BYTES)
    archive(store, alice, disk, "a1")
    archive(store, alice, disk, "a2", [disk.scribble(0, 7 * CHUNK_BYTES)], since="a1")
    delete_archive(store, "alice", "a1")
    return disk


def test_the_room_of_packs_that_are_hardly_needed_is_freed(store, alice, sparse):
    before = pack_bytes(store)
    assert before > 15 * CHUNK_BYTES
    collected = collect_all(store, alice)
    assert sum(c.packs_moved for c in collected) > 0
    assert pack_bytes(store) < 8.1 * CHUNK_BYTES
    assert restored(store, alice, "a2") == sparse.content
    assert FormatReader(store.root, "alice", alice.write_secret, alice.private_key).disk("a2") == sparse.content
    assert verify.scrub(store, "alice").damages == []
    assert archive(store, alice, sparse, "a3").bytes_new == 0


def test_packs_that_are_well_used_stay_as_they_are(store, alice):
    disk = Disk(8 * CHUNK_BYTES)
    disk.scribble(0, 8 * CHUNK_BYTES)
    archive(store, alice, disk, "a1")
    archive(store, alice, disk, "a2", [disk.scribble(0, CHUNK_BYTES)], since="a1")
    delete_archive(store, "alice", "a1")
    assert sum(c.packs_moved for c in collect_all(store, alice)) == 0


def test_it_comes_to_rest(store, alice, sparse):
    collect_all(store, alice)
    assert [c.packs_moved + c.packs_condemned for c in collect_all(store, alice)] == [0] * 5


def test_a_running_backup_may_refer_to_garbage_of_a_pack_that_is_moved_out_of(store, alice, sparse):
    """It found chunks there that no archive needs any more; they are kept for it."""
    old = Disk(8 * CHUNK_BYTES)
    old.scribble(0, 8 * CHUNK_BYTES)
    with ArchiveWriter(store, alice) as writer:
        collect_all(store, alice, rounds=3)
        assert write_disk(writer, old).bytes_new == 0
        collect_all(store, alice, rounds=3)
        writer.commit(archive_id="a3", backup_time=BACKUP_TIME, config={}, extra={})
    collect_all(store, alice)
    assert restored(store, alice, "a2") == sparse.content
    assert restored(store, alice, "a3") == old.content


def test_a_damaged_record_is_left_where_it_is(store, alice, sparse):
    for name in objects(store, "packs"):
        if store.size(name) > 2 * MIB // 2:
            flip(store, name, store.size(name) - 400_000)
    collect_all(store, alice)
    assert {stored.name for stored in store.list("tenants/alice/archives/")} == {"tenants/alice/archives/a2"}


def test_the_budget_bounds_what_is_moved(store, alice, sparse, monkeypatch):
    monkeypatch.setattr(repacking, "BUDGET_BYTES", 1000)
    assert sum(c.packs_moved for c in collect_all(store, alice)) <= 1  # a pack of the map
    assert restored(store, alice, "a2") == sparse.content


def test_it_may_die_at_any_point(tmp_path, alice):
    disk = Disk(8 * CHUNK_BYTES)
    store = FailingStore.create(tmp_path / "r")
    disk.scribble(0, 8 * CHUNK_BYTES)
    archive(store, alice, disk, "a1")
    archive(store, alice, disk, "a2", [disk.scribble(0, 7 * CHUNK_BYTES)], since="a1")
    delete_archive(store, "alice", "a1")
    for changes in range(100):
        copy = FailingStore(shutil.copytree(store.root, tmp_path / f"copy-{changes}"))
        copy.changes_left = changes
        died = False
        try:
            collect_all(copy, alice)
        except Killed:
            died = True
        copy.changes_left = 10**9
        assert restored(copy, alice, "a2") == disk.content
        collect_all(copy, alice)
        assert restored(copy, alice, "a2") == disk.content
        assert pack_bytes(copy) < 8.1 * CHUNK_BYTES
        shutil.rmtree(copy.root)
        if not died:
            return
    pytest.fail("gc never came to its end")
