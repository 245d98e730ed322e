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
from backups.archive.packs import Kind
from backups.archive.store import ObjectMissing, ObjectStore
from backups.errors import ArchiveDamaged

READ_BYTES = 4 * 1024 * 1024
GAP_BYTES = 64 * 1024
"""Records so near to each other are read in one go."""
AHEAD = 2
"""Batches worked on ahead for each thread."""

Item = TypeVar("Item")
Result = TypeVar("Result")


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


class ChunkSource:
    """Safe for several threads."""

    def __init__(self, store: ObjectStore, keys: TenantKeys, index: Index) -> None:
        self.index = index
        self._store, self._keys = store, keys
        self._data_keys: dict[str, bytes] = {}
        self._thread = threading.local()

    def load(self, record_id: bytes) -> bytes:
        """Tries every copy. Raises RecordDamaged, KeyUnavailable."""
        trouble: RecordDamaged | None = None
        for location in self.index.copies(record_id):
            try:
                stored = self._stored(location.pack, location.offset, location.stored_bytes, record_id)
                return self._opened(record_id, location, stored)
            except RecordDamaged as error:
                trouble = error
        raise trouble or self._unknown(record_id)

    def load_many(self, record_ids: Iterable[bytes]) -> dict[bytes, bytes]:
        """In the order in which they lie, neighbours in one read."""
        wanted = {record_id: self._location(record_id) for record_id in record_ids}
        in_order = sorted(wanted.items(), key=lambda item: item[1])
        loaded: dict[bytes, bytes] = {}
        for group in _neighbours(in_order):
            loaded.update(self._load_group(group))
        return loaded

    def _location(self, record_id: bytes) -> Location:
        location = self.index.find(record_id) or next(self.index.copies(record_id), None)
        if location is None:
            raise self._unknown(record_id)
        return location

    def _unknown(self, record_id: bytes) -> RecordDamaged:
        why = " ".join(str(error) for error in self.index.broken.values())
        return RecordDamaged(f"Chunk {record_id.hex()} is in no pack of the index. {why}".strip(), None, record_id)

    def _load_group(self, group: list[tuple[bytes, Location]]) -> dict[bytes, bytes]:
        start, last = group[0][1].offset, group[-1][1]
        try:
            stored = self._stored(last.pack, start, last.offset + last.stored_bytes - start, group[0][0])
            return {
                record_id: self._opened(record_id, at, stored[at.offset - start :][: at.stored_bytes])
                for record_id, at in group
            }
        except RecordDamaged:
            return {record_id: self.load(record_id) for record_id, _ in group}

    def _stored(self, pack: PackRef, offset: int, length: int, record_id: bytes) -> memoryview:
        name = layout.pack(self._keys.tenant_id, pack)
        try:
            stored = self._store.get_range(name, offset, length)
        except ObjectMissing as error:
            raise RecordDamaged(f"Pack {name} is missing.", pack, record_id) from error
        if len(stored) != length:
            raise RecordDamaged(f"Pack {name} is cut short.", pack, record_id)
        return memoryview(stored)

    def _opened(self, record_id: bytes, at: Location, stored: memoryview) -> bytes:
        key, id_key = self._keys_of(at, record_id)
        try:
            packed = record_cipher(key, record_id).decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], record_id)
            data = packed if len(packed) == at.raw_bytes else self._decompressor().decompress(packed)
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

    def _decompressor(self) -> zstandard.ZstdDecompressor:
        """A context serves one thread."""
        if not hasattr(self._thread, "decompressor"):
            self._thread.decompressor = zstandard.ZstdDecompressor()
        return self._thread.decompressor


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
