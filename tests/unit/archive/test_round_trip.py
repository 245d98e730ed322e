from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backups.archive.keys import TenantKeys
from backups.archive.maps import CHUNK_BYTES, ZERO_ID, differing
from backups.archive.reader import ArchiveReader
from backups.archive.store import FolderStore
from backups.archive.writer import ArchiveWriter
from backups.errors import ArchiveMissing, Conflict, DiskUnreadable, Interrupted, InvalidRequest
from backups.platform import Area
from tests.unit.archive.disks import BACKUP_TIME, CONFIG, KEY, MIB, Disk, archive, base_of, restored, write_disk


def test_what_was_archived_comes_back_byte_for_byte(store, alice, disk):
    archive(store, alice, disk, "a1")
    assert restored(store, alice, "a1") == disk.content


def test_an_archive_tells_what_it_is_of(store, alice, disk):
    archive(store, alice, disk, "a1")
    reader = ArchiveReader(store, alice, "a1")
    assert reader.backup_time == BACKUP_TIME
    assert (reader.config, reader.extra) == (CONFIG, {"vapp": "shop"})
    (archived,) = reader.disks
    assert (archived.key, archived.label, archived.change_id) == (KEY, "Hard disk 1", "52 de/7")
    assert archived.capacity_bytes == len(disk.content)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    capacity_bytes=st.integers(1, 2 * MIB),
    writes=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 400_000)), max_size=4),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 300_000)), max_size=4),
)
def test_any_sparse_disk_and_any_increment_come_back(tmp_path_factory, capacity_bytes, writes, changes):
    store, keys = FolderStore.create(tmp_path_factory.mktemp("r") / "r"), TenantKeys.generate("t")
    disk = Disk(capacity_bytes)

    def scribble(places):
        starts = [(int(at * (capacity_bytes - 1)), length) for at, length in places]
        return [disk.scribble(start, min(length, capacity_bytes - start)) for start, length in starts]

    areas = scribble(writes)
    archive(store, keys, disk, "a1", areas)
    before = bytes(disk.content)
    archive(store, keys, disk, "a2", scribble(changes), since="a1")
    assert restored(store, keys, "a1") == before
    assert restored(store, keys, "a2") == disk.content


def test_an_increment_reads_only_the_chunks_that_changed(store, alice, disk):
    archive(store, alice, disk, "a1")
    disk.bytes_read = 0
    area = disk.scribble(CHUNK_BYTES + 17, 5)
    stats = archive(store, alice, disk, "a2", [area], since="a1")
    assert disk.bytes_read == stats.bytes_read == stats.bytes_new == CHUNK_BYTES
    assert restored(store, alice, "a2") == disk.content


def test_an_increment_of_a_huge_disk_stays_small(store, alice):
    """Half a TiB without data but for two chunks: a change must not write the map again."""
    with ArchiveWriter(store, alice) as writer:
        huge = {"key": KEY, "label": "d", "capacity_bytes": 2**39, "read": lambda _, n: b"x" * n, "change_id": None}
        far = [Area(start=0, length=1), Area(start=2**38, length=1)]
        writer.write_disk(areas=far, base=None, **huge)
        writer.commit(archive_id="a1", backup_time=BACKUP_TIME, config={}, extra={})
    with ArchiveWriter(store, alice) as writer:
        writer.write_disk(areas=[Area(start=2**38 + 2**20, length=1)], base=base_of(store, alice, "a1"), **huge)
        stats = writer.commit(archive_id="a2", backup_time=BACKUP_TIME, config={}, extra={})
    assert stats.bytes_stored < 2048
    assert store.size("tenants/alice/archives/a2") < 16_384
    assert ArchiveReader(store, alice, "a2").read(KEY, 2**38 + 2**20 - 1, 2) == b"\0x"


def test_zeros_are_not_stored(store, alice):
    stats = archive(store, alice, Disk(2 * MIB), "a1")
    assert (stats.bytes_zero, stats.bytes_new, stats.bytes_stored) == (2 * MIB, 0, 0)
    assert list(ArchiveReader(store, alice, "a1").runs(KEY)) == []


def test_a_chunk_that_turned_to_zeros_is_zeros_again(store, alice, disk):
    archive(store, alice, disk, "a1")
    area = disk.write(0, bytes(CHUNK_BYTES))
    archive(store, alice, disk, "a2", [area], since="a1")
    assert base_of(store, alice, "a2").chunk_id(0) == ZERO_ID
    assert restored(store, alice, "a2") == disk.content


def test_the_same_data_is_stored_once(store, alice, disk):
    first = archive(store, alice, disk, "a1")
    second = archive(store, alice, disk, "a2")
    assert first.bytes_new > 0
    assert (second.bytes_new, second.bytes_stored) == (0, 0)
    assert restored(store, alice, "a2") == disk.content


def test_equal_chunks_within_one_disk_are_stored_once(store, alice):
    disk = Disk(8 * MIB)
    disk.write(0, disk.random.randbytes(CHUNK_BYTES) * 32)
    stats = archive(store, alice, disk, "a1")
    assert (stats.bytes_new, stats.chunks_new) == (CHUNK_BYTES, 1)
    assert restored(store, alice, "a1") == disk.content


def test_tenants_share_nothing(store, alice, bob, disk):
    first = archive(store, alice, disk, "a1")
    second = archive(store, bob, disk, "b1")
    assert second.bytes_new == first.bytes_new
    ids = [
        {chunk_id for _, chunk_id in base_of(store, keys, name).ids()} for keys, name in ((alice, "a1"), (bob, "b1"))
    ]
    assert ids[0].isdisjoint(ids[1])
    with pytest.raises(ArchiveMissing):
        ArchiveReader(store, bob, "a1")


def test_several_writers_of_a_tenant_need_no_locks(store, alice, disk):
    other = Disk(2 * MIB, seed=2)
    other.scribble(0, 2 * MIB)
    with ArchiveWriter(store, alice) as one, ArchiveWriter(store, alice) as two:
        write_disk(one, disk)
        write_disk(two, disk)
        two.commit(archive_id="a2", backup_time=BACKUP_TIME, config={}, extra={})
        one.commit(archive_id="a1", backup_time=BACKUP_TIME, config={}, extra={})
    assert restored(store, alice, "a1") == restored(store, alice, "a2") == disk.content


def test_parts_of_a_disk_can_be_read(store, alice, disk):
    archive(store, alice, disk, "a1")
    reader = ArchiveReader(store, alice, "a1")
    for start, length in [(0, 1), (CHUNK_BYTES - 3, 6), (MIB, 700_000), (len(disk.content) - 5, 100), (5 * MIB, 1)]:
        assert reader.read(KEY, start, length) == disk.content[start : start + length]


def test_maps_tell_where_two_archives_differ(store, alice, disk):
    archive(store, alice, disk, "a1")
    disk.scribble(2 * MIB, 1)
    archive(store, alice, disk, "a2")
    areas = list(differing(base_of(store, alice, "a1"), base_of(store, alice, "a2")))
    assert areas == [Area(start=2 * MIB, length=CHUNK_BYTES)]


def test_a_writer_knows_the_id_a_map_has_for_data(store, alice, disk):
    archive(store, alice, disk, "a1")
    disk_map = base_of(store, alice, "a1")
    with ArchiveWriter(store, alice) as writer:
        assert writer.chunk_id(disk.read(0, CHUNK_BYTES)) == disk_map.chunk_id(0)
        assert writer.chunk_id(bytes(CHUNK_BYTES)) == ZERO_ID


def test_an_archive_is_never_overwritten(store, alice, disk):
    archive(store, alice, disk, "a1")
    before = restored(store, alice, "a1")
    disk.scribble(0, 10)
    with pytest.raises(Conflict):
        archive(store, alice, disk, "a1")
    assert restored(store, alice, "a1") == before


def test_progress_is_told_and_a_check_interrupts(store, alice, disk):
    told = []

    def interrupt():
        if told and told[-1]:
            raise Interrupted("enough")

    with pytest.raises(Interrupted), ArchiveWriter(store, alice) as writer:
        writer.write_disk(
            key=KEY,
            label="d",
            capacity_bytes=len(disk.content),
            read=disk.read,
            areas=[Area(start=at, length=1) for at in range(0, len(disk.content), 2 * CHUNK_BYTES)],
            base=None,
            change_id=None,
            check=interrupt,
            progress=told.append,
        )
    assert told[-1] > 0
    assert list(store.list("tenants/alice/archives/")) == list(store.list("tenants/alice/sessions/")) == []


def test_a_disk_that_fails_fails_the_archive(store, alice, disk):
    def broken(start: int, length: int) -> bytes:
        raise DiskUnreadable("The host went away.")

    disk.read = broken
    with pytest.raises(DiskUnreadable, match="host went away"):
        archive(store, alice, disk, "a1")
    assert list((store.root / "unfinished").iterdir()) == []


def test_an_archive_with_a_broken_disk_cannot_be_committed(store, alice, disk):
    with ArchiveWriter(store, alice) as writer:
        with pytest.raises(DiskUnreadable):
            writer.write_disk(
                key=1, label="d", capacity_bytes=9, read=lambda *_: b"", areas=None, base=None, change_id=None
            )
        with pytest.raises(InvalidRequest):
            writer.commit(archive_id="a1", backup_time=datetime.now(UTC), config={}, extra={})


def test_a_resized_disk_has_no_base(store, alice, disk):
    archive(store, alice, disk, "a1")
    with pytest.raises(InvalidRequest, match="size"):
        archive(store, alice, Disk(4 * MIB), "a2", [], since="a1")
