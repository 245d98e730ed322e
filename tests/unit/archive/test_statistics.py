from backups.archive import statistics
from backups.archive.maps import CHUNK_BYTES
from tests.unit.archive.disks import MIB, Disk, archive


def test_what_is_shared_and_what_is_compressed_is_told(store, alice):
    disk = Disk(600 * MIB + 100)
    disk.scribble(0, 2 * MIB)
    disk.write(300 * MIB, b"hotfirst" * (2 * MIB // 8))
    disk.write(len(disk.content) - 10, b"the end...")
    stats = archive(store, alice, disk, "a1")
    archive(store, alice, disk, "a2", [], since="a1")
    found = statistics.gather(store, alice.without_private())
    assert found.archives == 2
    assert found.bytes_logical == 2 * len(disk.content)
    assert found.bytes_data == 2 * (4 * MIB + 100)
    assert found.bytes_unique == stats.bytes_new == 2 * MIB + CHUNK_BYTES + 100
    assert 2 * MIB < found.bytes_packed < 2 * MIB + CHUNK_BYTES
    assert found.bytes_packed < found.bytes_stored < found.bytes_packed + 20_000
    assert 1.7 < found.dedup_ratio < 3.7
    assert found.compression_ratio > 1.1


def test_an_empty_repository_has_plain_ratios(store, alice):
    found = statistics.gather(store, alice)
    assert (found.archives, found.bytes_stored, found.dedup_ratio, found.compression_ratio) == (0, 0, 1.0, 1.0)
