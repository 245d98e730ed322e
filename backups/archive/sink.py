"""Takes chunks and stores those that are new. A worker thread has a lane of its own and runs a chunk to its end
there, so there is no lock on the way."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from threading import Lock

import zstandard
from blake3 import blake3

from backups.archive import index as index_files
from backups.archive.index import Index
from backups.archive.keys import TenantKeys
from backups.archive.layout import PackRef
from backups.archive.maps import CHUNK_BYTES, ZERO_ID
from backups.archive.packs import OVERHEAD_BYTES, TARGET_BYTES, Kind, PackWriter, SessionKey
from backups.archive.store import ObjectStore

COMPRESSION = zstandard.ZstdCompressionParameters.from_level(2)
"""Given so, and not adapted to the size of a chunk as a bare level is: on a mixed set of disks level 3 takes half as
much time again and saves 1.5 % of the space, the adapted level 2 takes a fifth more."""
WORTH_IT = 0.97
"""A chunk that compression does not make at least 3 % smaller is stored as it is."""
PUBLISHED_ENTRIES = 32_768
"""So many new entries are written to an index file and forgotten: memory stays flat, and a backup that is
killed need not store them again."""
PENDING_PACKS = 4
ZEROS = bytes(CHUNK_BYTES)


def is_zero(data: bytes | memoryview) -> bool:
    """The first bytes decide almost always; comparing memoryviews would be seventy times slower than bytes."""
    return data[:64] == ZEROS[: min(64, len(data))] and bytes(data) == ZEROS[: len(data)]


def chunk_id(keys: TenantKeys, data: bytes | memoryview) -> bytes:
    return ZERO_ID if is_zero(data) else blake3(data, key=keys.chunk_id_key).digest()


@dataclass
class Stored:
    """Of new chunks: bytes before and after compression and encryption."""

    new_bytes: int = 0
    stored_bytes: int = 0
    chunks: int = 0


class ChunkSink:
    def __init__(self, store: ObjectStore, keys: TenantKeys, session: str, index: Index, lanes: int) -> None:
        self.index = index
        self._store, self._keys = store, keys
        self._key = SessionKey.make(keys, session)
        self._pack_numbers = count()
        self._claimed: dict[bytes, object] = {}
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="archive-finisher")
        self._finishing: deque[Future[None]] = deque()
        self._durable: list[PackWriter] = []
        self.lanes = [Lane(self, Kind.DATA) for _ in range(lanes)]
        self._page_lane, self._page_lock = Lane(self, Kind.PAGES), Lock()

    def put_page(self, page: bytes) -> tuple[bytes, Stored]:
        if not any(page):
            return ZERO_ID, Stored()
        page_id = blake3(page, key=self._keys.page_id_key).digest()
        with self._page_lock:
            stored = Stored()
            self._page_lane.put(page_id, page, stored)
        return page_id, stored

    def claim(self, record_id: bytes) -> bool:
        """True for the one thread that has to store it."""
        if record_id in self._claimed or self.index.find(record_id) is not None:
            return False
        mine = object()
        return self._claimed.setdefault(record_id, mine) is mine

    def new_pack(self, kind: Kind) -> PackWriter:
        ref = PackRef(self._key.session, next(self._pack_numbers))
        key, sealed = (self._key.data_key, self._key.sealed) if kind == Kind.DATA else (self._keys.page_key, b"")
        return PackWriter(self._store, self._keys.tenant_id, ref, kind, key, sealed)

    def finish_pack(self, pack: PackWriter) -> None:
        """Waiting for the disk is the finisher's: its thread is the only one that publishes."""
        self._finishing.append(self._finisher.submit(self._finish, pack))
        while len(self._finishing) > PENDING_PACKS:
            self._finishing.popleft().result()

    def flush(self) -> None:
        """All that was put is durable, and indexed, when it returns."""
        for lane in (*self.lanes, self._page_lane):
            lane.close()
        while self._finishing:
            self._finishing.popleft().result()
        self._finisher.submit(self._publish).result()

    def close(self) -> None:
        """What was not flushed is lost; packs that are finished stay, unreferenced, until gc finds them."""
        for lane in (*self.lanes, self._page_lane):
            lane.abandon()
        self._finisher.shutdown()

    def _finish(self, pack: PackWriter) -> None:
        try:
            pack.finish()
        finally:
            pack.abandon()
        self._durable.append(pack)
        if sum(len(durable.entries) for durable in self._durable) >= PUBLISHED_ENTRIES:
            self._publish()

    def _publish(self) -> None:
        if not self._durable:
            return
        rows = index_files.rows_of(self._durable)
        name = index_files.write_file(self._store, self._keys, rows)
        # Findable in the index before it is forgotten here.
        self.index.add(index_files.open_file(self._store, self._keys, name))
        for record_id, _ in rows:
            self._claimed.pop(record_id, None)
        self._durable.clear()


class Lane:
    """Compressor, buffer and open pack of one thread."""

    def __init__(self, sink: ChunkSink, kind: Kind) -> None:
        self._sink, self._kind = sink, kind
        self._compressor = zstandard.ZstdCompressor(compression_params=COMPRESSION)
        self._buffer = bytearray(CHUNK_BYTES + OVERHEAD_BYTES)
        self._pack: PackWriter | None = None

    def put(self, record_id: bytes, data: bytes | memoryview, stored: Stored) -> None:
        """Adds to `stored` if the record is new."""
        if not self._sink.claim(record_id):
            return
        packed: bytes | memoryview = self._compressor.compress(data)
        if len(packed) >= len(data) * WORTH_IT:
            packed = data
        if self._pack is None:
            self._pack = self._sink.new_pack(self._kind)
        stored.stored_bytes += self._pack.add(record_id, packed, len(data), self._buffer)
        stored.new_bytes += len(data)
        stored.chunks += 1
        if self._pack.size_bytes >= TARGET_BYTES or self._pack.full:
            self.close()

    def close(self) -> None:
        if self._pack is not None:
            pack, self._pack = self._pack, None
            self._sink.finish_pack(pack)

    def abandon(self) -> None:
        if self._pack is not None:
            self._pack.abandon()
            self._pack = None
