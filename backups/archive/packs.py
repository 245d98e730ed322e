"""Packs: FORMAT.md, section 4. Records of many chunks in one object, with hashes of what is stored, so that a scrub
needs no key."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from blake3 import blake3

from backups.archive import layout
from backups.archive.keys import NONCE_BYTES, TAG_BYTES, TenantKeys, record_cipher, seal, unseal
from backups.archive.layout import PackRef
from backups.archive.store import ObjectStore
from backups.errors import ArchiveDamaged

MAGIC, END_MAGIC, VERSION = b"HFPACK\r\n", b"HFPKEND\n", 1
HEADER = struct.Struct("<8sHBxI16sI")
ENTRY = struct.Struct("<32sIII16s")
FOOTER = struct.Struct("<II32s8s")
CHECK_BYTES = 16
OVERHEAD_BYTES = NONCE_BYTES + TAG_BYTES
TARGET_BYTES = 64 * 1024 * 1024
MAX_BYTES = 128 * 1024 * 1024
MAX_RECORDS = 8192
MAX_HEADER_BYTES = 512
MAX_RAW_BYTES = 256 * 1024
"""Of a record: a chunk, or a page."""


class Kind(IntEnum):
    DATA = 1
    """Chunks, under the session's data key."""
    PAGES = 2
    """Pages of maps, which writers must be able to read."""


class Entry(NamedTuple):
    record_id: bytes
    offset: int
    stored_bytes: int
    raw_bytes: int
    check: bytes


@dataclass(frozen=True, kw_only=True)
class SessionKey:
    """What a writer session encrypts its chunks with, and the same sealed to the tenant."""

    session: str
    data_key: bytes = field(repr=False)
    sealed: bytes

    @classmethod
    def make(cls, keys: TenantKeys, session: str) -> "SessionKey":
        data_key = os.urandom(32)
        sealed = seal(keys.public_key, data_key, _context(keys.tenant_id, session))
        return cls(session=session, data_key=data_key, sealed=sealed)


@dataclass(frozen=True, kw_only=True)
class Header:
    kind: Kind
    ref: PackRef
    sealed_key: bytes
    size_bytes: int

    def data_key(self, keys: TenantKeys, what: str) -> bytes:
        return unseal(keys, self.sealed_key, _context(keys.tenant_id, self.ref.session), what)


class PackWriter:
    """One pack in the making; used by one thread at a time."""

    def __init__(self, store: ObjectStore, tenant_id: str, ref: PackRef, kind: Kind, key: bytes, sealed: bytes) -> None:
        self.ref, self.kind = ref, kind
        self.entries: list[Entry] = []
        self._key = key
        self._header = _header(kind, ref, sealed)
        self._object = store.begin(layout.pack(tenant_id, ref))
        try:
            self._object.write(self._header)
        except BaseException:
            self._object.abandon()
            raise
        self.size_bytes = len(self._header)

    @property
    def full(self) -> bool:
        """It has as many records as a pack may have, whatever its size."""
        return len(self.entries) >= MAX_RECORDS

    def add(self, record_id: bytes, data: bytes | memoryview, raw_bytes: int, buffer: bytearray) -> int:
        """`buffer` is the thread's own scratch space. Returns the bytes stored."""
        length = len(data) + OVERHEAD_BYTES
        record = memoryview(buffer)[:length]
        nonce = os.urandom(NONCE_BYTES)
        record[:NONCE_BYTES] = nonce
        record_cipher(self._key, record_id).encrypt_into(nonce, data, record_id, record[NONCE_BYTES:])
        return self.add_record(record_id, record, raw_bytes)

    def add_record(self, record_id: bytes, record: bytes | memoryview, raw_bytes: int) -> int:
        """As it is, encrypted. Returns the bytes stored."""
        self._object.write(record)
        self.entries.append(Entry(record_id, self.size_bytes, len(record), raw_bytes, checksum(record)))
        self.size_bytes += len(record)
        return len(record)

    def finish(self) -> None:
        table = b"".join(ENTRY.pack(*entry) for entry in self.entries)
        self._object.write(table + _footer(self._header, table, len(self.entries), self.size_bytes))
        self._object.finish()

    def abandon(self) -> None:
        self._object.abandon()


def checksum(data: bytes | memoryview) -> bytes:
    return blake3(data).digest(CHECK_BYTES)


def read_header(store: ObjectStore, name: str) -> Header:
    data = store.get_range(name, 0, MAX_HEADER_BYTES)
    damaged = ArchiveDamaged(f"The header of pack {name} is damaged.")
    if len(data) < HEADER.size:
        raise damaged
    magic, version, kind, number, session, sealed_bytes = HEADER.unpack_from(data)
    end = HEADER.size + sealed_bytes
    if magic != MAGIC or end > MAX_HEADER_BYTES or data[end : end + CHECK_BYTES] != checksum(data[:end]):
        raise damaged
    if version != VERSION or kind not in tuple(Kind):
        raise ArchiveDamaged(f"Pack {name} is of a version or kind that this product does not know; update it.")
    ref = PackRef(session.hex(), number)
    return Header(kind=Kind(kind), ref=ref, sealed_key=data[HEADER.size : end], size_bytes=end + CHECK_BYTES)


def read_table(store: ObjectStore, name: str) -> tuple[Header, list[Entry]]:
    """Raises ArchiveDamaged where header, table or footer are not what was written, and ObjectMissing."""
    header, size = read_header(store, name), store.size(name)
    if size > MAX_BYTES:
        raise ArchiveDamaged(f"Pack {name} is larger than any that was written.")
    count, offset, digest, magic = FOOTER.unpack(_exactly(store, name, size - FOOTER.size, FOOTER.size))
    if magic != END_MAGIC or count > MAX_RECORDS or offset + count * ENTRY.size + FOOTER.size != size:
        raise ArchiveDamaged(f"The footer of pack {name} is damaged.")
    table = _exactly(store, name, offset, count * ENTRY.size)
    head = store.get_range(name, 0, header.size_bytes)
    if _footer(head, table, count, offset)[8 : 8 + len(digest)] != digest:
        raise ArchiveDamaged(f"The table of pack {name} is damaged.")
    entries = [Entry(*fields) for fields in ENTRY.iter_unpack(table)]
    if list(_ends(header, entries)) != [entry.offset for entry in entries] + [offset]:
        raise ArchiveDamaged(f"The table of pack {name} leaves gaps.")
    if not all(plausible(entry.stored_bytes, entry.raw_bytes) for entry in entries):
        raise ArchiveDamaged(f"The table of pack {name} has records of lengths that no record has.")
    return header, entries


def plausible(stored_bytes: int, raw_bytes: int) -> bool:
    """Lengths that a record may have: it is bounded, and never longer than what it holds and its frame."""
    return raw_bytes <= MAX_RAW_BYTES and OVERHEAD_BYTES <= stored_bytes <= raw_bytes + OVERHEAD_BYTES


def _ends(header: Header, entries: list[Entry]) -> Iterator[int]:
    yield header.size_bytes
    yield from (entry.offset + entry.stored_bytes for entry in entries)


def _exactly(store: ObjectStore, name: str, start: int, length: int) -> bytes:
    data = store.get_range(name, start, length) if start >= 0 else b""
    if len(data) != length:
        raise ArchiveDamaged(f"Pack {name} is cut short.")
    return data


def _header(kind: Kind, ref: PackRef, sealed: bytes) -> bytes:
    head = HEADER.pack(MAGIC, VERSION, kind, ref.number, bytes.fromhex(ref.session), len(sealed)) + sealed
    return head + checksum(head)


def _footer(header: bytes, table: bytes, count: int, offset: int) -> bytes:
    numbers = struct.pack("<II", count, offset)
    return numbers + blake3(header + table + numbers).digest() + END_MAGIC


def _context(tenant_id: str, session: str) -> bytes:
    return f"hotfirst/1/session/{tenant_id}/{session}".encode()
