"""Reads records back by their ids, from whichever copy is good."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag

from backups.archive import layout, packs
from backups.archive.index import Index, Location
from backups.archive.keys import NONCE_BYTES, TenantKeys, record_cipher
from backups.archive.layout import PackRef
from backups.archive.packs import MAX_RAW_BYTES, OVERHEAD_BYTES, Kind, plausible
from backups.archive.store import ObjectMissing, ObjectStore
from backups.errors import ArchiveDamaged

READ_BYTES = 4 * 1024 * 1024
GAP_BYTES = 64 * 1024
"""Records so near to each other are read in one go."""
AHEAD = 2
"""Batches worked on ahead for each thread."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Record = bytes | memoryview


class RecordDamaged(ArchiveDamaged):
    def __init__(self, message: str, pack: PackRef | None, record_id: bytes) -> None:
        super().__init__(message)
        self.pack, self.record_id = pack, record_id


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Results in the order of the items; a few are worked on ahead, and no more than these are in memory."""
    with ThreadPoolExecutor(threads, thread_name_prefix="archive-reader") as pool:
        ahead: deque[Future[Result]] = deque()
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) >= threads * AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


class _Buffers(threading.local):
    """What a thread opens records with."""

    def __init__(self) -> None:
        self.packed = memoryview(bytearray(MAX_RAW_BYTES))
        self._raw = memoryview(bytearray(MAX_RAW_BYTES + 1))
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_RAW_BYTES)

    def decompressed(self, packed: memoryview, raw_bytes: int) -> memoryview:
        """Whatever the frame says of itself, no more than a byte beyond `raw_bytes` is written."""
        with self._decompressor.stream_reader(packed) as reader:
            length = reader.readinto(self._raw[: raw_bytes + 1])
        return self._raw[:length]


class ChunkSource:
    """Safe for several threads."""

    def __init__(self, store: ObjectStore, keys: TenantKeys, index: Index) -> None:
        self.index = index
        self._store, self._keys = store, keys
        self._data_keys: dict[str, bytes] = {}
        self._buffers = _Buffers()

    def load(self, record_id: bytes) -> bytes:
        """Tries every copy. Raises RecordDamaged, KeyUnavailable."""
        trouble: RecordDamaged | None = None
        for location in self.index.copies(record_id):
            try:
                stored = self._stored(location.pack, location.offset, location.stored_bytes, record_id)
                return bytes(self._opened(record_id, location, stored))
            except RecordDamaged as error:
                trouble = error
        raise trouble or self._unknown(record_id)

    def each(self, record_ids: Iterable[bytes]) -> Iterator[tuple[bytes, Record]]:
        """In the order in which they lie, neighbours in one read. What it gives is overwritten by the next one."""
        wanted = {record_id: self._location(record_id) for record_id in record_ids}
        in_order = sorted(wanted.items(), key=lambda item: item[1])
        for group in _neighbours(in_order):
            yield from self._each_of_group(group)

    def _location(self, record_id: bytes) -> Location:
        location = self.index.find(record_id) or next(self.index.copies(record_id), None)
        if location is None:
            raise self._unknown(record_id)
        return location

    def _unknown(self, record_id: bytes) -> RecordDamaged:
        why = " ".join(str(error) for error in self.index.broken.values())
        return RecordDamaged(f"Chunk {record_id.hex()} is in no pack of the index. {why}".strip(), None, record_id)

    def _each_of_group(self, group: list[tuple[bytes, Location]]) -> Iterator[tuple[bytes, Record]]:
        start, last = group[0][1].offset, group[-1][1]
        try:
            stored = self._stored(last.pack, start, last.offset + last.stored_bytes - start, group[0][0])
        except RecordDamaged:
            yield from ((record_id, self.load(record_id)) for record_id, _ in group)
            return
        for record_id, at in group:
            try:
                record: Record = self._opened(record_id, at, stored[at.offset - start :][: at.stored_bytes])
            except RecordDamaged:
                record = self.load(record_id)
            yield record_id, record

    def _stored(self, pack: PackRef, offset: int, length: int, record_id: bytes) -> memoryview:
        name = layout.pack(self._keys.tenant_id, pack)
        try:
            stored = self._store.get_range(name, offset, length)
        except ObjectMissing as error:
            raise RecordDamaged(f"Pack {name} is missing.", pack, record_id) from error
        if len(stored) != length:
            raise RecordDamaged(f"Pack {name} is cut short.", pack, record_id)
        return memoryview(stored)

    def _opened(self, record_id: bytes, at: Location, stored: memoryview) -> memoryview:
        """In the thread's own buffers: allocating for each record costs as much as decrypting it."""
        if not plausible(at.stored_bytes, at.raw_bytes):
            raise self._damaged(at, record_id)
        key, id_key = self._keys_of(at, record_id)
        packed = self._buffers.packed[: at.stored_bytes - OVERHEAD_BYTES]
        try:
            record_cipher(key, record_id).decrypt_into(stored[:NONCE_BYTES], stored[NONCE_BYTES:], record_id, packed)
            data = packed if len(packed) == at.raw_bytes else self._buffers.decompressed(packed, at.raw_bytes)
        except (InvalidTag, zstandard.ZstdError) as error:
            raise self._damaged(at, record_id) from error
        if blake3(data, key=id_key).digest() != record_id:
            raise self._damaged(at, record_id)
        return data

    def _damaged(self, at: Location, record_id: bytes) -> RecordDamaged:
        name = layout.pack(self._keys.tenant_id, at.pack)
        return RecordDamaged(f"Chunk {record_id.hex()} in pack {name} is damaged.", at.pack, record_id)

    def _keys_of(self, at: Location, record_id: bytes) -> tuple[bytes, bytes]:
        if at.kind == Kind.PAGES:
            return self._keys.page_key, self._keys.page_id_key
        session = at.pack.session
        if session not in self._data_keys:
            name = layout.pack(self._keys.tenant_id, at.pack)
            try:
                self._data_keys[session] = packs.read_header(self._store, name).data_key(self._keys, f"Pack {name}")
            except (ArchiveDamaged, ObjectMissing) as error:
                raise RecordDamaged(str(error), at.pack, record_id) from error
        return self._data_keys[session], self._keys.chunk_id_key


def _neighbours(in_order: list[tuple[bytes, Location]]) -> Iterable[list[tuple[bytes, Location]]]:
    group: list[tuple[bytes, Location]] = []
    for record_id, at in in_order:
        if group and not _adjoins(group[0][1], group[-1][1], at):
            yield group
            group = []
        group.append((record_id, at))
    if group:
        yield group


def _adjoins(first: Location, last: Location, following: Location) -> bool:
    end = last.offset + last.stored_bytes
    near = following.offset - end <= GAP_BYTES
    return following.pack == first.pack and near and following.offset - first.offset < READ_BYTES
