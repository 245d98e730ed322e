"""Writes one archive."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from queue import Empty, SimpleQueue
from threading import Event, Lock
from typing import Any, Self

from backups.archive import layout, manifest, marks, sink
from backups.archive.index import Index
from backups.archive.keys import TenantKeys
from backups.archive.manifest import DiskEntry, Manifest
from backups.archive.maps import (
    CHUNK_BYTES,
    ID_BYTES,
    PAGE_CHUNKS,
    ZERO_ID,
    DiskMap,
    chunk_length,
    chunks_in_page,
    page_count,
    touched,
)
from backups.archive.sessions import WriterSession
from backups.archive.sink import ChunkSink, Lane, Stored
from backups.archive.store import ObjectStore
from backups.errors import DiskUnreadable, Interrupted, InvalidRequest
from backups.platform import Area

READ_BYTES = 4 * 1024 * 1024
"""Of contiguous disk, at once by a worker: what suits sources that answer over a network."""
CHECK_EVERY_S = 1.0

Read = Callable[[int, int], bytes]


@dataclass(kw_only=True)
class Stats:
    """`bytes_read` from the disk, of which `bytes_zero` were zeros; `bytes_new` were in the repository in no other
    chunk, and take `bytes_stored` there, with the pages of the map."""

    bytes_read: int = 0
    bytes_zero: int = 0
    bytes_new: int = 0
    bytes_stored: int = 0
    chunks_read: int = 0
    chunks_new: int = 0

    def add(self, other: "Stats") -> None:
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def add_stored(self, stored: Stored) -> None:
        self.bytes_new += stored.new_bytes
        self.bytes_stored += stored.stored_bytes
        self.chunks_new += stored.chunks


class DiskStats(Stats):
    """Of one disk."""


class ArchiveStats(Stats):
    """Of all disks of the archive."""


def _never() -> None:
    return None


def _unheard(_bytes_done: int) -> None:
    return None


class ArchiveWriter:
    """A context manager: without `commit` nothing can be seen of it, and gc clears away what it stored."""

    def __init__(self, store: ObjectStore, keys: TenantKeys, *, threads: int = 2, read_bytes: int = READ_BYTES) -> None:
        """`read_bytes`: for local files rather what fits into a processor's cache."""
        self._store, self._keys, self._threads = store, keys, threads
        self._batch_chunks = max(1, read_bytes // CHUNK_BYTES)
        self._disks: list[DiskEntry] = []
        self._stats = ArchiveStats()
        self._usable = True

    def __enter__(self) -> Self:
        # The session first: from now on gc keeps what this writer may refer to.
        self._session = WriterSession(self._store, self._keys.tenant_id)
        try:
            index = Index.open(self._store, self._keys)
            self._sink = ChunkSink(self._store, self._keys, self._session.id, index, self._threads)
        except BaseException:
            self._session.end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._usable = False
        try:
            self._sink.close()
        finally:
            self._session.end()

    def chunk_id(self, data: bytes) -> bytes:
        """What `DiskMap.chunk_id` says of a chunk that holds `data`."""
        return sink.chunk_id(self._keys, data)

    def write_disk(
        self,
        *,
        key: int,
        label: str,
        capacity_bytes: int,
        read: Read,
        areas: Iterable[Area] | None,
        base: DiskMap | None,
        change_id: str | None,
        check: Callable[[], None] = _never,
        progress: Callable[[int], None] = _unheard,
    ) -> DiskStats:
        """Reads the chunks that `areas` touch, whole (None: all of the disk), from several threads; the others are
        those of `base`, or zeros without one. `base` must be of an archive that still exists. `check` and
        `progress` are called on the caller's thread; what they raise stops the work."""
        if base is not None:
            self._check_base(base, label, capacity_bytes)
        areas = marks.with_lost_areas(areas, base, self._sink.index)
        self._usable = False
        work = _DiskWork(self._sink, self._keys, capacity_bytes, read, areas, base, self._batch_chunks)
        work.run(check, progress)
        self._disks.append(
            DiskEntry(
                key=key,
                label=label,
                capacity_bytes=capacity_bytes,
                change_id=change_id,
                page_ids=tuple(work.page_ids),
            )
        )
        self._stats.add(work.stats)
        self._usable = True
        return work.stats

    def _check_base(self, base: DiskMap, label: str, capacity_bytes: int) -> None:
        """If it exists now, gc keeps all that it refers to until this session ends."""
        if base.capacity_bytes != capacity_bytes:
            raise InvalidRequest(f"{label} has another size than in its last archive; all of it has to be read.")
        if base.archive_id and not self._store.exists(layout.archive(self._keys.tenant_id, base.archive_id)):
            raise Interrupted(f"The last archive of {label} was deleted meanwhile; the backup has to begin again.")

    def commit(
        self, *, archive_id: str, backup_time: datetime, config: dict[str, Any], extra: dict[str, Any]
    ) -> ArchiveStats:
        """The archive exists, and is durable, when this returns. `config` and `extra` are JSON that only the
        tenant's private key opens. Raises Conflict if there is such an archive."""
        if not self._usable:
            raise InvalidRequest("A disk of this archive was not written to its end; the archive has to be made again.")
        self._usable = False
        self._sink.flush()
        made = Manifest(
            archive_id=archive_id,
            backup_time=backup_time,
            disks=tuple(self._disks),
            sealed=manifest.seal_private_part(self._keys, archive_id, config, extra),
        )
        self._session.publish(layout.archive(self._keys.tenant_id, archive_id), manifest.encode(made, self._keys))
        return self._stats


@dataclass
class _Page:
    """A page of the map whose chunks are being read."""

    number: int
    batches_left: int
    new_ids: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class _Batch:
    page: _Page
    chunks: range


class _DiskWork:
    def __init__(
        self,
        chunk_sink: ChunkSink,
        keys: TenantKeys,
        capacity_bytes: int,
        read: Read,
        areas: Iterable[Area] | None,
        base: DiskMap | None,
        batch_chunks: int,
    ) -> None:
        self.stats = DiskStats()
        self.page_ids = list(base.page_ids) if base else [ZERO_ID] * page_count(capacity_bytes)
        self._sink, self._keys = chunk_sink, keys
        self._capacity_bytes, self._read, self._base = capacity_bytes, read, base
        self._batches = _batches(areas, capacity_bytes, batch_chunks)
        self._lock = Lock()
        self._stop = Event()
        self._signals: SimpleQueue[Lane | None] = SimpleQueue()

    def run(self, check: Callable[[], None], progress: Callable[[int], None]) -> None:
        lanes = self._sink.lanes
        with ThreadPoolExecutor(len(lanes), thread_name_prefix="archive-writer") as pool:
            try:
                check()
                workers = [pool.submit(self._work, lane) for lane in lanes]
                self._attend(len(workers), check, progress)
            finally:
                self._stop.set()
        for worker in workers:
            worker.result()

    def _attend(self, working: int, check: Callable[[], None], progress: Callable[[int], None]) -> None:
        """`check` is asked after each batch, and while one hangs. A lane that ends sends None."""
        while working:
            with suppress(Empty):
                if self._signals.get(timeout=CHECK_EVERY_S) is None:
                    working -= 1
            check()
            progress(self.stats.bytes_read)

    def _work(self, lane: Lane) -> None:
        finished = False
        try:
            while not self._stop.is_set() and (batch := self._next()) is not None:
                self._store_batch(lane, batch)
                self._signals.put(lane)
            finished = True
        finally:
            if not finished:
                self._stop.set()
            self._signals.put(None)

    def _next(self) -> _Batch | None:
        with self._lock:
            return next(self._batches, None)

    def _store_batch(self, lane: Lane, batch: _Batch) -> None:
        start = batch.chunks.start * CHUNK_BYTES
        end = min(self._capacity_bytes, batch.chunks.stop * CHUNK_BYTES)
        data = memoryview(self._read(start, end - start))
        if len(data) != end - start:
            raise DiskUnreadable(f"The disk gave {len(data)} instead of {end - start} bytes at byte {start}.")
        zero_bytes, stored, ids = 0, Stored(), dict[int, bytes]()
        for chunk in batch.chunks:
            at = chunk * CHUNK_BYTES - start
            piece = data[at : at + chunk_length(self._capacity_bytes, chunk)]
            chunk_id = sink.chunk_id(self._keys, piece)
            if chunk_id == ZERO_ID:
                zero_bytes += len(piece)
            else:
                lane.put(chunk_id, piece, stored)
            ids[chunk % PAGE_CHUNKS] = chunk_id
        self._batch_done(batch, ids, stored, zero_bytes)

    def _batch_done(self, batch: _Batch, ids: dict[int, bytes], stored: Stored, zero_bytes: int) -> None:
        length = min(self._capacity_bytes, batch.chunks.stop * CHUNK_BYTES) - batch.chunks.start * CHUNK_BYTES
        with self._lock:
            self.stats.bytes_read += length
            self.stats.bytes_zero += zero_bytes
            self.stats.chunks_read += len(batch.chunks)
            self.stats.add_stored(stored)
            batch.page.new_ids.update(ids)
            batch.page.batches_left -= 1
            complete = batch.page.batches_left == 0
        if complete:
            self._seal(batch.page)

    def _seal(self, page: _Page) -> None:
        with self._lock:
            content = bytearray(self._base.page(page.number)) if self._base else None
        if content is None:
            content = bytearray(chunks_in_page(self._capacity_bytes, page.number) * ID_BYTES)
        for slot, chunk_id in page.new_ids.items():
            content[slot * ID_BYTES : (slot + 1) * ID_BYTES] = chunk_id
        page_id, stored = self._sink.put_page(bytes(content))
        with self._lock:
            self.page_ids[page.number] = page_id
            self.stats.bytes_stored += stored.stored_bytes


def _batches(areas: Iterable[Area] | None, capacity_bytes: int, batch_chunks: int) -> Iterator[_Batch]:
    for planned in touched(areas, capacity_bytes):
        pieces = [piece for chunks in planned.ranges for piece in _cut(chunks, batch_chunks)]
        page = _Page(planned.page, len(pieces))
        yield from (_Batch(page, piece) for piece in pieces)


def _cut(chunks: range, length: int) -> Iterator[range]:
    return (chunks[at : at + length] for at in range(0, len(chunks), length))
