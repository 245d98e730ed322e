"""Ranges at random, restores into files, and in place."""

import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from backups.archive.maps import CHUNK_BYTES
from backups.archive.reader import ArchiveReader
from backups.archive.restore import restore_in_place, restore_to_file
from backups.errors import InvalidRequest, RecoveryRefused
from tests.unit.archive.disks import KEY, MIB, Disk, archive


@pytest.fixture
def large() -> Disk:
    """Data, holes and zeros within chunks, and a short last chunk."""
    disk = Disk(20 * MIB + 777)
    for start in (0, 5, 6, 11, 19):
        disk.scribble(start * MIB + 100_000, MIB)
    disk.scribble(len(disk.content) - 5, 5)
    return disk


def counting(store, monkeypatch) -> list[int]:
    """The lengths of all ranges that are read from packs."""
    lengths, get_range = [], store.get_range

    def counted(name, start, length):
        if "/packs/" in name:
            lengths.append(length)
        return get_range(name, start, length)

    monkeypatch.setattr(store, "get_range", counted)
    return lengths


def test_ranges_at_random_from_several_threads(any_store, alice, large):
    archive(any_store, alice, large, "a1")
    reader, chance = ArchiveReader(any_store, alice, "a1"), random.Random(1)
    ranges = [(chance.randrange(len(large.content) + 10), chance.randrange(3 * MIB)) for _ in range(60)]
    with ThreadPoolExecutor(4) as pool:
        for (start, length), data in zip(ranges, pool.map(lambda r: reader.read(KEY, *r), ranges), strict=True):
            assert data == large.content[start : start + length]


def test_what_was_read_last_is_not_read_again(store, alice, large, monkeypatch):
    archive(store, alice, large, "a1")
    reader = ArchiveReader(store, alice, "a1")
    lengths = counting(store, monkeypatch)
    for start in range(0, 2 * MIB, 4096):
        assert reader.read(KEY, start, 4096) == large.content[start : start + 4096]
    assert sum(length > 1024 for length in lengths) <= 2 * MIB // CHUNK_BYTES + 1


def test_a_long_range_is_read_in_few_pieces(store, alice, monkeypatch):
    disk = Disk(16 * MIB)
    disk.scribble(0, len(disk.content))
    archive(store, alice, disk, "a1")
    reader = ArchiveReader(store, alice, "a1")
    lengths = counting(store, monkeypatch)
    assert reader.read(KEY, 0, 16 * MIB) == disk.content
    assert len(lengths) < 16


def test_a_restored_file_has_the_holes_of_the_disk(any_store, alice, large, tmp_path):
    archive(any_store, alice, large, "a1")
    target = tmp_path / "disk.img"
    written = restore_to_file(ArchiveReader(any_store, alice, "a1"), KEY, target)
    assert target.read_bytes() == large.content
    assert written < 7 * MIB
    assert target.stat().st_blocks * 512 < 8 * MIB


def test_a_file_that_exists_is_not_overwritten(store, alice, disk, tmp_path):
    archive(store, alice, disk, "a1")
    target = tmp_path / "disk.img"
    target.write_bytes(b"precious")
    with pytest.raises(InvalidRequest, match="exists already"):
        restore_to_file(ArchiveReader(store, alice, "a1"), KEY, target)
    assert target.read_bytes() == b"precious"
    with pytest.raises(RecoveryRefused, match="could not be written"):
        restore_to_file(ArchiveReader(store, alice, "a1"), KEY, tmp_path / "no-such-folder" / "disk.img")


def test_in_place_only_what_differs_is_written(store, alice, large, tmp_path):
    archive(store, alice, large, "a1")
    target = tmp_path / "disk.img"
    target.write_bytes(large.content)
    changes = [(3 * MIB, b"where there were zeros"), (5 * MIB + 200_000, b"in data"), (len(large.content) - 3, b"end")]
    with target.open("r+b") as file:
        for start, data in changes:
            os.pwrite(file.fileno(), data, start)
    written = restore_in_place(ArchiveReader(store, alice, "a1"), KEY, target)
    assert target.read_bytes() == large.content
    assert 0 < written <= len(changes) * CHUNK_BYTES
    assert restore_in_place(ArchiveReader(store, alice, "a1"), KEY, target) == 0


def test_in_place_an_empty_file_of_the_size_becomes_the_disk(store, alice, large, tmp_path):
    archive(store, alice, large, "a1")
    target = tmp_path / "disk.img"
    with target.open("wb") as file:
        file.truncate(len(large.content))
    restore_in_place(ArchiveReader(store, alice, "a1"), KEY, target)
    assert target.read_bytes() == large.content


def test_in_place_another_size_is_refused(store, alice, large, tmp_path):
    archive(store, alice, large, "a1")
    (tmp_path / "disk.img").write_bytes(b"small")
    with pytest.raises(InvalidRequest, match="another size"):
        restore_in_place(ArchiveReader(store, alice, "a1"), KEY, tmp_path / "disk.img")
