"""Disks to archive, and archives to compare with them."""

import random
from collections.abc import Iterable
from datetime import UTC, datetime

from backups.archive.keys import TenantKeys
from backups.archive.maps import DiskMap
from backups.archive.reader import ArchiveReader
from backups.archive.store import ObjectStore
from backups.archive.writer import ArchiveStats, ArchiveWriter
from backups.platform import Area

MIB = 1024 * 1024
BACKUP_TIME = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
CONFIG = {"name": "web-1", "settings": {"cpus": 2, "note": "the-root-password"}}
KEY = 2000


class Disk:
    """In memory; counts what is read of it."""

    def __init__(self, capacity_bytes: int, seed: int = 1) -> None:
        self.content = bytearray(capacity_bytes)
        self.random = random.Random(seed)
        self.bytes_read = 0

    def write(self, start: int, data: bytes) -> Area:
        self.content[start : start + len(data)] = data
        return Area(start=start, length=len(data))

    def scribble(self, start: int, length: int) -> Area:
        return self.write(start, self.random.randbytes(length))

    def read(self, start: int, length: int) -> bytes:
        self.bytes_read += length
        return bytes(self.content[start : start + length])


def archive(
    store: ObjectStore,
    keys: TenantKeys,
    disk: Disk,
    archive_id: str,
    areas: Iterable[Area] | None = None,
    since: str | None = None,
) -> ArchiveStats:
    """`since`: the archive that unchanged chunks are taken from. Written as a backup host does, without the
    private key."""
    keys = keys.without_private()
    with ArchiveWriter(store, keys) as writer:
        write_disk(writer, disk, areas, base_of(store, keys, since) if since else None)
        return writer.commit(archive_id=archive_id, backup_time=BACKUP_TIME, config=CONFIG, extra={"vapp": "shop"})


def write_disk(writer: ArchiveWriter, disk: Disk, areas: Iterable[Area] | None = None, base: DiskMap | None = None):
    return writer.write_disk(
        key=KEY,
        label="Hard disk 1",
        capacity_bytes=len(disk.content),
        read=disk.read,
        areas=areas,
        base=base,
        change_id="52 de/7",
    )


def base_of(store: ObjectStore, keys: TenantKeys, archive_id: str) -> DiskMap:
    return ArchiveReader(store, keys, archive_id).disk_map(KEY)


def restored(store: ObjectStore, keys: TenantKeys, archive_id: str) -> bytearray:
    reader = ArchiveReader(store, keys, archive_id)
    content = bytearray(reader.disks[0].capacity_bytes)
    for start, data in reader.runs(KEY):
        content[start : start + len(data)] = data
    return content
