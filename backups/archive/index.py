"""Where each chunk lies: FORMAT.md, section 5. Sorted files, mapped, so that memory stays flat; each part is
authenticated before it is believed, blocks of records only when they are looked at."""

import heapq
import secrets
import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from blake3 import blake3

from backups.archive import layout, refused
from backups.archive.keys import TenantKeys
from backups.archive.layout import PackRef
from backups.archive.packs import Kind, PackWriter
from backups.archive.refused import Refused
from backups.archive.store import ObjectMissing, ObjectStore
from backups.errors import ArchiveDamaged

MAGIC, VERSION = b"HFINDEX\n", 1
ENTRY = struct.Struct("<32sIIII")
PACK = struct.Struct("<16sIB3x")
FOOTER = struct.Struct("<8sHxxIII32s32s")
SIGNED = struct.Struct("<8sHxxIII")
BLOCK_ENTRIES = 1024
MAC_BYTES = 16
OPEN_TRIES = 3


class Location(NamedTuple):
    pack: PackRef
    kind: Kind
    offset: int
    stored_bytes: int
    raw_bytes: int


Row = tuple[bytes, Location]


class IndexFile:
    def __init__(self, name: str, view: memoryview, key: bytes) -> None:
        self.name, self.size_bytes = name, len(view)
        self._view, self._key = view, key
        if len(view) < FOOTER.size:
            raise self._damaged()
        footer = view[len(view) - FOOTER.size :]
        magic, version, block, self.count, packs, mac, _ = FOOTER.unpack(footer)
        self._block_entries = block
        blocks = -(-self.count // block) if block else 0
        start = self.count * ENTRY.size
        ends = [start, start + packs * PACK.size, 0, 0]
        ends[2] = ends[1] + blocks * MAC_BYTES
        ends[3] = ends[2] + self.count * 4
        if magic != MAGIC or ends[3] + FOOTER.size != len(view):
            raise self._damaged()
        if version != VERSION:
            raise ArchiveDamaged(f"Index {name} has version {version}, which this product does not know; update it.")
        hasher = blake3(view[start : ends[3]], key=key).update(footer[: SIGNED.size])
        if hasher.digest() != mac:
            raise self._damaged()
        self.packs = [(PackRef(s.hex(), n), Kind(k)) for s, n, k in PACK.iter_unpack(view[start : ends[1]])]
        self._macs = view[ends[1] : ends[2]]
        self._prefixes = view[ends[2] : ends[3]].cast("I")
        self._verified = bytearray(blocks)

    def find(self, record_id: bytes) -> Iterator[Location]:
        prefix = int.from_bytes(record_id[:4])
        row = bisect_left(self._prefixes, prefix)
        while row < self.count and self._prefixes[row] == prefix:
            found, location = self._row(row)
            if found == record_id:
                yield location
            row += 1

    def rows(self) -> Iterator[Row]:
        """All of them, sorted by id."""
        return (self._row(row) for row in range(self.count))

    def _row(self, row: int) -> Row:
        block = row // self._block_entries
        if not self._verified[block]:
            self._verify(block)
        record_id, pack, *rest = ENTRY.unpack_from(self._view, row * ENTRY.size)
        return record_id, Location(*self.packs[pack], *rest)

    def _verify(self, block: int) -> None:
        start = block * self._block_entries * ENTRY.size
        end = min(start + self._block_entries * ENTRY.size, self.count * ENTRY.size)
        expected = self._macs[block * MAC_BYTES : (block + 1) * MAC_BYTES]
        if blake3(self._view[start:end], key=self._key).digest(MAC_BYTES) != expected:
            raise self._damaged()
        self._verified[block] = 1

    def _damaged(self) -> ArchiveDamaged:
        return ArchiveDamaged(f"Index {self.name} is damaged.")


class Index:
    """All index files of a tenant. Without `key`s of the tenant nothing in them is believed."""

    def __init__(self, files: Sequence[IndexFile], refusals: Refused) -> None:
        self.files, self.refusals = tuple(files), refusals

    @classmethod
    def open(cls, store: ObjectStore, keys: TenantKeys) -> "Index":
        for _ in range(OPEN_TRIES):
            # In this order: who sees an index that gc has replaced must also see that it was condemned.
            refusals = refused.load(store, keys.tenant_id)
            names = [stored.name for stored in store.list(layout.indexes(keys.tenant_id))]
            try:
                files = [open_file(store, keys, name) for name in names if name not in refusals.indexes]
            except ObjectMissing:
                continue
            return cls(sorted(files, key=lambda file: -file.count), refusals)
        raise ArchiveDamaged(f"The index of tenant {keys.tenant_id} lost files while it was opened; try again.")

    def add(self, file: IndexFile) -> None:
        self.files = (*self.files, file)

    def find(self, record_id: bytes) -> Location | None:
        """A copy that may be relied on."""
        refusals = self.refusals
        for location in self.copies(record_id):
            if not refusals.refuses(location.pack, record_id):
                return location
        return None

    def copies(self, record_id: bytes) -> Iterator[Location]:
        for file in self.files:
            yield from file.find(record_id)


def open_file(store: ObjectStore, keys: TenantKeys, name: str) -> IndexFile:
    return IndexFile(name, store.view(name), keys.index_key)


def rows_of(packs: Iterable[PackWriter]) -> list[Row]:
    return sorted(
        (entry.record_id, Location(pack.ref, pack.kind, entry.offset, entry.stored_bytes, entry.raw_bytes))
        for pack in packs
        for entry in pack.entries
    )


def merged(files: Iterable[IndexFile], without: frozenset[PackRef]) -> Iterator[Row]:
    for row in heapq.merge(*(file.rows() for file in files)):
        if row[1].pack not in without:
            yield row


def write_file(store: ObjectStore, keys: TenantKeys, rows: Iterable[Row]) -> str:
    """Rows sorted by id, streamed. Returns the new file's name."""
    name = layout.indexes(keys.tenant_id) + secrets.token_hex(16)
    writer = store.begin(name)
    try:
        _write(_Hashed(writer.write), rows, keys.index_key)
        writer.finish()
    finally:
        writer.abandon()
    return name


class _Hashed:
    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write, self._hasher = write, blake3()

    def write(self, data: bytes) -> None:
        self._hasher.update(data)
        self._write(data)

    def digest(self) -> bytes:
        return self._hasher.digest()


def _write(out: _Hashed, rows: Iterable[Row], key: bytes) -> None:
    packs: dict[tuple[PackRef, Kind], int] = {}
    prefixes, macs = array("I"), bytearray()
    rows = iter(rows)
    while block := list(islice(rows, BLOCK_ENTRIES)):
        records = b"".join(
            ENTRY.pack(record_id, packs.setdefault((at.pack, at.kind), len(packs)), *at[2:]) for record_id, at in block
        )
        out.write(records)
        macs += blake3(records, key=key).digest(MAC_BYTES)
        prefixes.extend(int.from_bytes(record_id[:4]) for record_id, _ in block)
    table = b"".join(PACK.pack(bytes.fromhex(ref.session), ref.number, kind) for ref, kind in packs)
    tail = table + bytes(macs) + prefixes.tobytes()
    signed = SIGNED.pack(MAGIC, VERSION, BLOCK_ENTRIES, len(prefixes), len(packs))
    out.write(tail + signed + blake3(tail + signed, key=key).digest())
    out.write(out.digest())
