import random

import pytest

from backups.archive import index, sink, verify
from backups.archive.reader import ArchiveReader
from backups.archive.store import FolderStore
from backups.errors import ArchiveDamaged, ArchiveError
from tests.unit.archive.disks import KEY, archive, base_of, restored

CHANCE = random.Random(7)


def objects(store: FolderStore, kind: str) -> list[str]:
    return [stored.name for stored in store.list(f"tenants/alice/{kind}/")]


def data_pack(store: FolderStore) -> str:
    return max(objects(store, "packs"), key=store.size)


def flip(store: FolderStore, name: str, at: int) -> None:
    path = store.root / name
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << CHANCE.randrange(8)
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["packs", "index", "archives"])
def test_a_flipped_bit_anywhere_is_found_by_a_scrub_without_keys(store, alice, disk, kind):
    archive(store, alice, disk, "a1")
    for name in objects(store, kind):
        size = store.size(name)
        for at in {0, 9, 40, size // 2, size - 90, size - 40, size - 1, *(CHANCE.randrange(size) for _ in range(12))}:
            before = store.get(name)
            flip(store, name, at)
            report = verify.scrub(store, "alice")
            assert [damage.name for damage in report.damages] == [name], f"byte {at} of {name}"
            (store.root / name).write_bytes(before)
    assert verify.scrub(store, "alice").damages == []


@pytest.mark.parametrize("kind", ["packs", "index", "archives"])
def test_a_flipped_bit_never_gives_wrong_data(store, alice, disk, kind):
    archive(store, alice, disk, "a1")
    for name in objects(store, kind):
        for _ in range(12):
            before = store.get(name)
            flip(store, name, CHANCE.randrange(len(before)))
            try:
                assert restored(store, alice, "a1") == disk.content  # Tables of packs are not read here.
            except ArchiveError as error:
                assert name in str(error)  # noqa: PT017
            (store.root / name).write_bytes(before)


def test_a_pack_that_is_cut_short_or_missing_is_named(store, alice, disk):
    archive(store, alice, disk, "a1")
    name = data_pack(store)
    content = store.get(name)
    (store.root / name).write_bytes(content[:1000])
    with pytest.raises(ArchiveDamaged, match=name):
        verify.check(store, alice, "a1")
    (store.root / name).unlink()
    with pytest.raises(ArchiveDamaged, match=name):
        verify.check(store, alice, "a1")


def test_a_check_reads_all_of_a_sound_archive(store, alice, disk):
    stats = archive(store, alice, disk, "a1")
    assert verify.check(store, alice, "a1") == stats.bytes_new


def test_a_check_counts_what_is_damaged(store, alice, disk):
    archive(store, alice, disk, "a1")
    for name in objects(store, "packs"):
        if store.size(name) > 4096:
            flip(store, name, 2000)
    with pytest.raises(ArchiveDamaged, match="damaged chunks"):
        verify.check(store, alice, "a1")


@pytest.mark.parametrize("find", ["scrub", "check"])
def test_a_damaged_chunk_is_stored_again_when_a_writer_meets_it(store, alice, disk, find):
    archive(store, alice, disk, "a1")
    flip(store, data_pack(store), 2000)
    if find == "scrub":
        verify.scrub(store, "alice")
    else:
        with pytest.raises(ArchiveDamaged):
            verify.check(store, alice, "a1")
    stats = archive(store, alice, disk, "a2")
    assert stats.chunks_new == 1
    # The old archive is whole again as well, since it names chunks and not places.
    assert restored(store, alice, "a1") == restored(store, alice, "a2") == disk.content


def test_a_scrub_of_parts_comes_round_to_everything(store, alice, disk):
    archive(store, alice, disk, "a1")
    seen = [verify.scrub(store, "alice", part=part, parts=3).objects for part in range(3)]
    assert sum(seen) == verify.scrub(store, "alice").objects


def test_backups_go_on_with_a_damaged_index_and_a_repair_finds_everything_again(store, alice, disk):
    archive(store, alice, disk, "a1")
    (name,) = objects(store, "index")
    flip(store, name, 100)
    assert archive(store, alice, disk, "a2").bytes_new > 0
    assert restored(store, alice, "a1") == disk.content
    flip(store, objects(store, "index")[0], 101)
    assert index.repair(store, alice) > 0
    assert restored(store, alice, "a1") == disk.content


def test_a_damaged_map_page_is_named(store, alice, disk):
    archive(store, alice, disk, "a1")
    name = min(objects(store, "packs"), key=store.size)
    flip(store, name, 60)
    with pytest.raises(ArchiveDamaged, match=name):
        base_of(store, alice, "a1").chunk_id(0)


def test_a_pack_of_another_archive_in_its_place_is_noticed(store, alice, disk):
    """Each chunk is bound to its id: moving stored bytes about gives nothing."""
    archive(store, alice, disk, "a1")
    one, two = sorted(objects(store, "packs"), key=store.size)[-2:]
    content = [store.get(one), store.get(two)]
    (store.root / one).write_bytes(content[1])
    (store.root / two).write_bytes(content[0])
    with pytest.raises(ArchiveDamaged):
        list(ArchiveReader(store, alice, "a1").runs(KEY))


def test_data_under_the_id_of_other_data_is_noticed(store, alice, disk, monkeypatch):
    """As a writer could store it that somebody else controls: what it encrypts is sound but for that."""
    monkeypatch.setattr(sink, "chunk_id", lambda keys, data: bytes(31) + bytes([1 + bytes(data)[0] % 200]))
    archive(store, alice, disk, "a1")
    with pytest.raises(ArchiveDamaged):
        verify.check(store, alice, "a1")
