"""What is found damaged is marked, shown on every archive that uses it, and read again by the next run."""

import pytest

from backups.archive import marks, refused, verify
from backups.archive.gc import collect, delete_archive
from backups.archive.index import Index
from backups.archive.maps import CHUNK_BYTES
from tests.unit.archive.disks import MIB, Disk, archive, restored
from tests.unit.archive.test_damage import data_pack, flip, objects


def damaged(store, keys) -> list[str]:
    return [found.archive_id for found in marks.damaged_archives(store, keys.without_private())]


def test_every_archive_that_uses_a_damaged_chunk_shows_it(store, alice, disk):
    archive(store, alice, disk, "a1")
    name = data_pack(store)
    archive(store, alice, disk, "a2", [disk.scribble(3 * MIB, 9)], since="a1")
    other = Disk(MIB, seed=5)
    other.scribble(0, MIB)
    archive(store, alice, other, "b1")
    assert damaged(store, alice) == []
    flip(store, name, 2000)
    verify.scrub(store, "alice")
    assert damaged(store, alice) == ["a1", "a2"]


def test_the_next_run_reads_it_again_although_it_did_not_change(store, alice, disk):
    archive(store, alice, disk, "a1")
    flip(store, data_pack(store), 2000)
    verify.scrub(store, "alice")
    disk.bytes_read = 0
    stats = archive(store, alice, disk, "a2", [], since="a1")
    assert stats.chunks_new == 1
    assert disk.bytes_read == CHUNK_BYTES
    assert damaged(store, alice) == []
    assert restored(store, alice, "a1") == restored(store, alice, "a2") == disk.content


def test_a_missing_pack_is_found_without_keys_and_read_again(store, alice, disk):
    archive(store, alice, disk, "a1")
    name = data_pack(store)
    store.delete(name)
    assert [damage.name for damage in verify.scrub(store, "alice").damages] == [name]
    assert damaged(store, alice) == ["a1"]
    archive(store, alice, disk, "a2", [], since="a1")
    assert damaged(store, alice) == []
    assert restored(store, alice, "a1") == disk.content


def test_packs_that_gc_takes_away_are_not_missing(store, alice, disk):
    archive(store, alice, disk, "a1")
    archive(store, alice, Disk(MIB), "a2")
    delete_archive(store, "alice", "a1")
    for _ in range(5):
        collect(store, "alice", alice, grace_s=0)
        assert verify.scrub(store, "alice").damages == []


def test_a_damaged_map_shows_on_its_archives(store, alice, disk):
    archive(store, alice, disk, "a1")
    flip(store, min(objects(store, "packs"), key=store.size), 70)
    verify.scrub(store, "alice")
    (found,) = marks.damaged_archives(store, alice)
    assert "1 pages of the map" in found.reason


def test_a_damaged_manifest_shows_as_well(store, alice, disk):
    archive(store, alice, disk, "a1")
    flip(store, "tenants/alice/archives/a1", 50)
    assert damaged(store, alice) == ["a1"]


def test_a_mark_that_is_damaged_itself_counts_for_all_of_its_pack(store, alice, disk):
    archive(store, alice, disk, "a1")
    flip(store, data_pack(store), 2000)
    verify.scrub(store, "alice")
    assert len(marks.lost_ids(Index.open(store, alice))) == 1
    flip(store, objects(store, "damaged")[0], 30)
    assert len(marks.lost_ids(Index.open(store, alice))) > 1
    assert "damaged" in verify.scrub(store, "alice").damages[-1].name


@pytest.mark.parametrize("grace_s", [0, 3600])
def test_backups_and_recovery_go_on_with_a_damaged_condemned_list_and_gc_heals_it(store, alice, disk, grace_s):
    """Else an index that gc has replaced would be believed again, and it names packs that have gone."""
    archive(store, alice, disk, "a1")
    old = store.get(objects(store, "index")[0])
    archive(store, alice, Disk(MIB), "a2")
    delete_archive(store, "alice", "a1")
    for _ in range(4):
        collect(store, "alice", alice, grace_s=0)
    assert objects(store, "packs") == []
    store.put("tenants/alice/index/replaced", old)
    refused.condemn(store, "alice", [], ["tenants/alice/index/replaced"])
    flip(store, objects(store, "condemned")[0], 40)
    archive(store, alice, disk, "a3")
    assert restored(store, alice, "a3") == disk.content
    for _ in range(4):
        collect(store, "alice", alice, grace_s=grace_s)
    archive(store, alice, disk, "a4")
    assert restored(store, alice, "a3") == restored(store, alice, "a4") == disk.content
    assert verify.scrub(store, "alice").damages == []
