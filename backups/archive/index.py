"""Where each chunk lies: FORMAT.md, section 5. Sorted files, mapped, so that memory stays flat; each part is
authenticated before it is believed, blocks of records only when they are looked at."""

import heapq
import logging
import secrets
import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count, islice
from mmap import MADV_DONTNEED, mmap
from typing import NamedTuple

from blake3 import blake3

from backups.archive import layout, packs, refused
from backups.archive.keys import TenantKeys
from backups.archive.layout import PackRef
from backups.archive.packs import Kind, PackWriter
from backups.archive.refused import Refused
from backups.archive.store import ObjectMissing, ObjectStore
from backups.errors import ArchiveDamaged, RepositoryUnavailable

MAGIC, VERSION = b"HFINDEX\n", 1
ENTRY = struct.Struct("<32sIIII")
PACK = struct.Struct("<16sIB3x")
FOOTER = struct.Struct("<8sHxxIII32s32s")
SIGNED = struct.Struct("<8sHxxIII")
BLOCK_ENTRIES = 1024
MAX_BLOCK_ENTRIES = 65_536
MAC_BYTES = 16
HASH_BYTES = 32
OPEN_TRIES = 10
RELEASE_EVERY = 1024
"""Searches: each touches the surroundings of one or two places of every file, about 128 KiB in all."""
FILTER_BITS = 25

log = logging.getLogger(__name__)


class Location(NamedTuple):
    pack: PackRef
    kind: Kind
    offset: int
    stored_bytes: int
    raw_bytes: int


Row = tuple[bytes, Location]


class IndexDamaged(ArchiveDamaged):
    def __init__(self, name: str) -> None:
        super().__init__(f"Index {name} is damaged; repair this tenant's index.")
        self.name = name


class IndexFile:
    def __init__(self, name: str, view: memoryview, key: bytes) -> None:
        self.name, self.size_bytes = name, len(view)
        self._view, self._key = view, key
        if len(view) < FOOTER.size:
            raise self._damaged()
        footer = view[len(view) - FOOTER.size :]
        magic, version, block, self.count, pack_count, mac, _ = FOOTER.unpack(footer)
        self._block_entries = block
        blocks = -(-self.count // max(1, block))
        start = self.count * ENTRY.size
        ends = [start, start + pack_count * PACK.size, 0, 0]
        ends[2] = ends[1] + blocks * MAC_BYTES
        ends[3] = ends[2] + self.count * 4
        if magic != MAGIC or not 0 < block <= MAX_BLOCK_ENTRIES or ends[3] + FOOTER.size != len(view):
            raise self._damaged()
        if version != VERSION:
            raise ArchiveDamaged(f"Index {name} has version {version}, which this product does not know; update it.")
        hasher = blake3(view[start : ends[3]], key=key).update(footer[: SIGNED.size])
        if hasher.digest() != mac:
            raise self._damaged()
        self.packs = list(self._packs_in(view[start : ends[1]]))
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

    @property
    def prefixes(self) -> Iterable[int]:
        return self._prefixes

    def rows(self) -> Iterator[Row]:
        """All of them, sorted by id."""
        return (self._row(row) for row in range(self.count))

    def release(self) -> None:
        """Lets go of the memory that searches have touched; it stays in the system's cache."""
        if isinstance(self._view.obj, mmap):
            self._view.obj.madvise(MADV_DONTNEED)

    def verify(self) -> None:
        """All of it. Raises IndexDamaged."""
        for block in range(len(self._verified)):
            self._verify(block)

    def _row(self, row: int) -> Row:
        block = row // self._block_entries
        if not self._verified[block]:
            self._verify(block)
        record_id, pack, *rest = ENTRY.unpack_from(self._view, row * ENTRY.size)
        if pack >= len(self.packs):
            raise self._damaged()
        return record_id, Location(*self.packs[pack], *rest)

    def _packs_in(self, table: memoryview) -> Iterator[tuple[PackRef, Kind]]:
        for session, number, kind in PACK.iter_unpack(table):
            if kind not in tuple(Kind):
                raise self._damaged()
            yield PackRef(session.hex(), number), Kind(kind)

    def _verify(self, block: int) -> None:
        start = block * self._block_entries * ENTRY.size
        end = min(start + self._block_entries * ENTRY.size, self.count * ENTRY.size)
        expected = self._macs[block * MAC_BYTES : (block + 1) * MAC_BYTES]
        if blake3(self._view[start:end], key=self._key).digest(MAC_BYTES) != expected:
            raise self._damaged()
        self._verified[block] = 1

    def _damaged(self) -> IndexDamaged:
        return IndexDamaged(self.name)


class Index:
    """All index files of a tenant. One that is damaged is left out and remembered: backups go on without it, and
    its chunks are stored again or found again by `repair`."""

    def __init__(self, files: Sequence[IndexFile], refusals: Refused, broken: Iterable[IndexDamaged] = ()) -> None:
        self._opened_files, self._added = tuple(files), list[IndexFile]()
        self._added_prefixes, self._searched = PrefixSet(), count(1)
        self.refusals = refusals
        self.broken = {error.name: error for error in broken}

    @property
    def files(self) -> tuple[IndexFile, ...]:
        return (*self._opened_files, *self._added)

    @classmethod
    def open(cls, store: ObjectStore, keys: TenantKeys) -> "Index":
        for _ in range(OPEN_TRIES):
            # In this order: who sees an index that gc has replaced must also see that it was condemned.
            refusals = refused.load(store, keys.tenant_id)
            names = [stored.name for stored in store.list(layout.indexes(keys.tenant_id))]
            with suppress(ObjectMissing):
                return cls._opened(store, keys, [name for name in names if name not in refusals.indexes], refusals)
        raise RepositoryUnavailable(f"The index of tenant {keys.tenant_id} changed while it was opened; try again.")

    @classmethod
    def _opened(cls, store: ObjectStore, keys: TenantKeys, names: list[str], refusals: Refused) -> "Index":
        files, broken = list[IndexFile](), list[IndexDamaged]()
        for name in names:
            try:
                files.append(open_file(store, keys, name))
            except IndexDamaged as error:
                broken.append(error)
        return cls(sorted(files, key=lambda file: -file.count), refusals, broken)

    def add(self, file: IndexFile) -> None:
        """One that was written since: a long backup adds a hundred, so they are not all searched every time."""
        self._added_prefixes.update(file.prefixes)
        self._added.append(file)

    def find(self, record_id: bytes) -> Location | None:
        """A copy that may be relied on."""
        refusals = self.refusals
        for location in self.copies(record_id):
            if not refusals.refuses(location.pack, record_id):
                return location
        return None

    def copies(self, record_id: bytes) -> Iterator[Location]:
        if next(self._searched) % RELEASE_EVERY == 0:
            for file in self.files:
                file.release()
        may_be_added = int.from_bytes(record_id[:4]) in self._added_prefixes
        for file in self.files if may_be_added else self._opened_files:
            try:
                yield from file.find(record_id)
            except IndexDamaged as error:
                self.broken[file.name] = error


class PrefixSet:
    """Of prefixes of ids, in 4 MiB; now and then it says that it has one that it has not."""

    def __init__(self) -> None:
        self._bits = bytearray(2 ** (FILTER_BITS - 3))

    def update(self, prefixes: Iterable[int]) -> None:
        for prefix in prefixes:
            self._bits[prefix >> 35 - FILTER_BITS] |= 1 << (prefix >> 32 - FILTER_BITS & 7)

    def __contains__(self, prefix: int) -> bool:
        return bool(self._bits[prefix >> 35 - FILTER_BITS] >> (prefix >> 32 - FILTER_BITS & 7) & 1)


def open_file(store: ObjectStore, keys: TenantKeys, name: str) -> IndexFile:
    return IndexFile(name, store.cached_view(name, _is_sound), keys.index_key)


def _is_sound(view: memoryview) -> bool:
    end = len(view) - HASH_BYTES
    return end >= 0 and blake3(view[:end]).digest() == view[end:]


def check_stored(name: str, view: memoryview) -> None:
    """By the hash of what is stored, without any key. Raises IndexDamaged."""
    if not _is_sound(view):
        raise IndexDamaged(name)


def named_packs(view: memoryview) -> set[PackRef]:
    """By an index whose stored hash is right; needs no key."""
    if len(view) < FOOTER.size:
        return set()
    *_, count, pack_count, _, _ = FOOTER.unpack(view[len(view) - FOOTER.size :])
    packs_at = count * ENTRY.size
    if packs_at + pack_count * PACK.size > len(view):
        return set()
    return {PackRef(s.hex(), n) for s, n, _ in PACK.iter_unpack(view[packs_at : packs_at + pack_count * PACK.size])}


def repair(store: ObjectStore, keys: TenantKeys) -> int:
    """Indexes the packs that no sound index file names, from their own tables, and condemns the broken files.
    Returns the number of packs."""
    index = Index.open(store, keys)
    for file in index.files:
        try:
            file.verify()
        except IndexDamaged as error:
            index.broken[file.name] = error
    named = {ref for file in index.files if file.name not in index.broken for ref, _ in file.packs}
    names = [stored.name for stored in store.list(layout.packs(keys.tenant_id))]
    lost = [name for name in names if layout.is_pack(name) and layout.pack_ref(name) not in named]
    if lost:
        write_file(store, keys, sorted(row for name in lost for row in _rows_in(store, name)))
    if index.broken:
        refused.condemn(store, keys.tenant_id, [], index.broken)
    return len(lost)


def _rows_in(store: ObjectStore, name: str) -> list[Row]:
    try:
        header, entries = packs.read_table(store, name)
    except (ArchiveDamaged, ObjectMissing) as error:
        log.warning("Pack %s cannot be indexed: %s", name, error)
        return []
    return [(e.record_id, Location(header.ref, header.kind, e.offset, e.stored_bytes, e.raw_bytes)) for e in entries]


def rows_of(written: Iterable[PackWriter]) -> list[Row]:
    return sorted(
        (entry.record_id, Location(pack.ref, pack.kind, entry.offset, entry.stored_bytes, entry.raw_bytes))
        for pack in written
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
    numbers: dict[tuple[PackRef, Kind], int] = {}
    prefixes, macs = array("I"), bytearray()
    rows = iter(rows)
    while block := list(islice(rows, BLOCK_ENTRIES)):
        owners = [numbers.setdefault((at.pack, at.kind), len(numbers)) for _, at in block]
        records = b"".join(ENTRY.pack(row[0], owner, *row[1][2:]) for row, owner in zip(block, owners, strict=True))
        out.write(records)
        macs += blake3(records, key=key).digest(MAC_BYTES)
        prefixes.extend(int.from_bytes(record_id[:4]) for record_id, _ in block)
    table = b"".join(PACK.pack(bytes.fromhex(ref.session), ref.number, kind) for ref, kind in numbers)
    tail = table + bytes(macs) + prefixes.tobytes()
    signed = SIGNED.pack(MAGIC, VERSION, BLOCK_ENTRIES, len(prefixes), len(numbers))
    out.write(tail + signed + blake3(tail + signed, key=key).digest())
    out.write(out.digest())
