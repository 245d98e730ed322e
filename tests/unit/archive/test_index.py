import time

import pytest

from backups.archive import sink
from backups.archive.index import Index, IndexDamaged, Location, merged, open_file, write_file
from backups.archive.layout import PackRef
from backups.archive.maps import CHUNK_BYTES
from backups.archive.packs import Kind
from tests.unit.archive.disks import MIB, Disk, archive, restored


def rows(count: int, seed: int = 0):
    ids = sorted((number * 2654435761 % 2**32).to_bytes(4) + bytes([seed]) * 28 for number in range(count))
    packs = [PackRef(f"{seed:032x}", number) for number in range(5)]
    return [(i, Location(packs[n % 5], Kind.DATA, n, n + 1, n + 2)) for n, i in enumerate(ids)]


@pytest.mark.parametrize("count", [1, 2, 1023, 1024, 1025, 5000])
def test_everything_written_is_found_where_it_lies(store, alice, count):
    file = open_file(store, alice, write_file(store, alice, rows(count)))
    assert list(file.rows()) == rows(count)
    assert all(list(file.find(record_id)) == [location] for record_id, location in rows(count))
    assert list(file.find(b"\xff" * 32)) == list(file.find(bytes(31) + b"\1")) == []


def test_ids_that_begin_alike_are_told_apart(store, alice):
    alike = [(b"same" + bytes(27) + bytes([n]), Location(PackRef("0" * 32, 0), Kind.DATA, n, 1, 1)) for n in range(9)]
    file = open_file(store, alice, write_file(store, alice, alike))
    assert [next(file.find(record_id)).offset for record_id, _ in alike] == list(range(9))


def test_a_merge_leaves_out_what_it_is_told_to(store, alice):
    files = [open_file(store, alice, write_file(store, alice, rows(100, seed))) for seed in range(3)]
    gone = PackRef(f"{1:032x}", 3)
    kept = sorted(row for seed in range(3) for row in rows(100, seed) if row[1].pack != gone)
    assert list(merged(files, frozenset([gone]))) == kept


def test_another_tenants_index_is_not_believed(store, alice, bob):
    name = write_file(store, alice, rows(10))
    with pytest.raises(IndexDamaged):
        open_file(store, bob, name)


def test_hundreds_of_small_indexes_open_quickly(store, alice):
    for seed in range(250):
        write_file(store, alice, rows(200, seed))
    began = time.monotonic()
    index = Index.open(store, alice)
    assert time.monotonic() - began < 2
    assert len(index.files) == 250
    assert all(index.find(rows(200, seed)[77][0]) for seed in range(250))


def test_a_long_backup_publishes_its_index_as_it_goes(store, alice, monkeypatch):
    """So its memory stays flat, and what it stored is not stored again if it is killed."""
    monkeypatch.setattr(sink, "PUBLISHED_ENTRIES", 4)
    monkeypatch.setattr(sink, "TARGET_BYTES", MIB)
    disk = Disk(6 * MIB)
    disk.scribble(0, len(disk.content))
    disk.content[5 * MIB :] = disk.content[:MIB]
    stats = archive(store, alice, disk, "a1")
    assert len(list(store.list("tenants/alice/index/"))) > 2
    assert stats.bytes_new == 5 * MIB
    assert stats.chunks_new == 5 * MIB // CHUNK_BYTES
    assert restored(store, alice, "a1") == disk.content
