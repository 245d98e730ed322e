"""Reads one archive."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import islice
from threading import Lock
from typing import Any

from backups.archive import manifest
from backups.archive.chunk_cache import ChunkCache
from backups.archive.chunks import ChunkSource, Record, RecordDamaged, in_parallel
from backups.archive.index import Index
from backups.archive.keys import TenantKeys
from backups.archive.manifest import DiskEntry
from backups.archive.maps import CHUNK_BYTES, ZERO_ID, DiskMap, chunk_length
from backups.archive.store import ObjectStore
from backups.errors import ArchiveDamaged, InvalidRequest, KeyUnavailable

BATCH_CHUNKS = 16
CACHED_BYTES = 32 * 1024 * 1024
MAX_CHECKED = 500_000
CHECKED_PREFIX = 12
"""Bytes of an id that are remembered: ids are keyed hashes, so that 12 tell them apart."""

Run = tuple[int, bytes]
Batch = list[tuple[int, bytes]]


@dataclass(frozen=True)
class ArchivedDisk:
    key: int
    label: str
    capacity_bytes: int
    change_id: str | None


class ArchiveReader:
    """Opens without the private key as well: then it tells of disks, change ids and maps, but not of data and
    configuration (KeyUnavailable). Raises ArchiveMissing, ArchiveDamaged."""

    def __init__(self, store: ObjectStore, keys: TenantKeys, archive_id: str) -> None:
        self.archive_id = archive_id
        self._store, self._keys = store, keys
        self._manifest = manifest.load(store, keys, archive_id)
        self._checked: set[bytes] = set()
        self._cache, self._map_lock = ChunkCache(CACHED_BYTES), Lock()
        self._maps: dict[int, DiskMap] = {}

    @property
    def backup_time(self) -> datetime:
        return self._manifest.backup_time

    @cached_property
    def disks(self) -> tuple[ArchivedDisk, ...]:
        return tuple(
            ArchivedDisk(disk.key, disk.label, disk.capacity_bytes, disk.change_id) for disk in self._manifest.disks
        )

    @property
    def config(self) -> dict[str, Any]:
        return self._private_part["config"]

    @property
    def extra(self) -> dict[str, Any]:
        return self._private_part["extra"]

    @cached_property
    def _private_part(self) -> dict[str, Any]:
        return self._manifest.private_part(self._keys)

    @cached_property
    def _source(self) -> ChunkSource:
        return ChunkSource(self._store, self._keys, Index.open(self._store, self._keys))

    def disk_map(self, key: int) -> DiskMap:
        """Needs no private key."""
        disk = self._disk(key)
        return DiskMap(disk.capacity_bytes, disk.page_ids, lambda page_id: self._source.load(page_id), self.archive_id)

    def capacity_bytes(self, key: int) -> int:
        return self._disk(key).capacity_bytes

    def read(self, key: int, start: int, length: int) -> bytes:
        """Shorter at the disk's end. From several threads, and near to what was read last, without reading that
        again."""
        self._need_private_key()
        capacity_bytes = self.capacity_bytes(key)
        end = max(start, min(start + length, capacity_bytes))
        chunks = range(start // CHUNK_BYTES, -(-end // CHUNK_BYTES))
        found = self._chunks_at(key, chunks)
        data = b"".join(found.get(chunk) or bytes(chunk_length(capacity_bytes, chunk)) for chunk in chunks)
        return data[start - chunks.start * CHUNK_BYTES :][: end - start]

    def _chunks_at(self, key: int, chunks: range) -> dict[int, bytes]:
        """Those that are not zeros."""
        with self._map_lock:
            if key not in self._maps:
                self._maps[key] = self.disk_map(key)
            disk_map = self._maps[key]
            wanted = [(chunk, disk_map.chunk_id(chunk)) for chunk in chunks]
        found = {chunk: cached for chunk, chunk_id in wanted if (cached := self._cache.get(chunk_id))}
        missing = [(chunk, i) for chunk, i in wanted if chunk not in found and i != ZERO_ID]
        ids = dict(missing)
        for chunk, data in self._chunks_of(missing, disk_map.capacity_bytes):
            found[chunk] = bytes(data)
            self._cache.put(ids[chunk], found[chunk])
        return found

    def runs(self, key: int, *, threads: int | None = None) -> Iterator[Run]:
        """All data that is not zeros, ascending, in runs of whole chunks; the rest of the disk is zeros."""
        self._need_private_key()
        capacity_bytes = self.capacity_bytes(key)
        for runs in in_parallel(
            lambda batch: self._runs_of(batch, capacity_bytes),
            self._batches(key),
            threads or self._store.parallel_reads,
        ):
            yield from runs

    def deliver(self, key: int, write: Callable[[int, Record], int], *, threads: int | None = None) -> Iterator[int]:
        """Calls `write` for each chunk that is not zeros, from several threads, in about the order of the disk, and
        gives the sums of its answers. The data are overwritten when `write` returns."""
        self._need_private_key()

        def work(batch: Batch) -> int:
            return sum(write(chunk * CHUNK_BYTES, data) for chunk, data in self._chunks_of(batch, capacity_bytes))

        capacity_bytes = self.capacity_bytes(key)
        return in_parallel(work, self._batches(key), threads or self._store.parallel_reads)

    def holes(self, key: int) -> Iterator[tuple[int, int]]:
        """Where the disk is nothing but zeros: start and end of each run of whole chunks. Reads no data."""
        at, capacity_bytes = 0, self.capacity_bytes(key)
        for chunk, _ in self.disk_map(key).ids():
            if chunk * CHUNK_BYTES > at:
                yield at, chunk * CHUNK_BYTES
            at = min(capacity_bytes, (chunk + 1) * CHUNK_BYTES)
        if at < capacity_bytes:
            yield at, capacity_bytes

    def damages(self, key: int, *, threads: int | None = None) -> Iterator[tuple[int, list[RecordDamaged]]]:
        """Reads, opens and compares everything: for each batch its bytes, and what of it is damaged."""
        self._need_private_key()
        return in_parallel(self._damages_of, self._batches(key), threads or self._store.parallel_reads)

    def _batches(self, key: int) -> Iterator[Batch]:
        ids = self.disk_map(key).ids()
        return iter(lambda: list(islice(ids, BATCH_CHUNKS)), [])

    def _damages_of(self, batch: Batch) -> tuple[int, list[RecordDamaged]]:
        """Chunks that several disks share are checked once, as far as they are remembered."""
        ids = {chunk_id for _, chunk_id in batch if chunk_id[:CHECKED_PREFIX] not in self._checked}
        try:
            length = sum(len(data) for _, data in self._source.each(ids))
        except RecordDamaged:
            return 0, [error for chunk_id in ids if (error := self._damage_of(chunk_id))]
        if len(self._checked) < MAX_CHECKED:
            self._checked.update(chunk_id[:CHECKED_PREFIX] for chunk_id in ids)
        return length, []

    def _damage_of(self, chunk_id: bytes) -> RecordDamaged | None:
        try:
            self._source.load(chunk_id)
        except RecordDamaged as error:
            return error
        return None

    def _runs_of(self, batch: Batch, capacity_bytes: int) -> list[Run]:
        loaded = {chunk: bytes(data) for chunk, data in self._chunks_of(batch, capacity_bytes)}
        runs: list[tuple[int, list[bytes]]] = []
        expected = -1
        for chunk, _ in batch:
            if chunk != expected:
                runs.append((chunk * CHUNK_BYTES, []))
            runs[-1][1].append(loaded[chunk])
            expected = chunk + 1
        return [(start, b"".join(pieces)) for start, pieces in runs]

    def _chunks_of(self, batch: Batch, capacity_bytes: int) -> Iterator[tuple[int, Record]]:
        """In the order in which they lie. The data are overwritten by the next ones."""
        places: dict[bytes, list[int]] = {}
        for chunk, chunk_id in batch:
            places.setdefault(chunk_id, []).append(chunk)
        for chunk_id, data in self._source.each(places):
            for chunk in places[chunk_id]:
                yield chunk, self._of_right_length(data, chunk, capacity_bytes)

    def _of_right_length(self, data: Record, chunk: int, capacity_bytes: int) -> Record:
        if len(data) != chunk_length(capacity_bytes, chunk):
            raise ArchiveDamaged(f"Archive {self.archive_id} has a chunk of another length than its place needs.")
        return data

    def _disk(self, key: int) -> DiskEntry:
        for disk in self._manifest.disks:
            if disk.key == key:
                return disk
        raise InvalidRequest(f"Archive {self.archive_id} has no disk {key}; choose one of its disks.")

    def _need_private_key(self) -> None:
        if self._keys.private_key is None:
            raise KeyUnavailable("Reading an archive needs the tenant's private key, which is not on this host.")
