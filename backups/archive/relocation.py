"""Moves records as they are, encrypted, from packs of one store into new packs of another, or of the same. Neither
data keys nor private keys are needed: a record is bound to its id and to its session's data key, not to its place.
FORMAT.md, section 4."""

import secrets
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from backups.archive import index as index_files
from backups.archive import layout, packs
from backups.archive.chunks import RecordDamaged
from backups.archive.index import Index, Location
from backups.archive.keys import TenantKeys
from backups.archive.layout import PackRef
from backups.archive.packs import TARGET_BYTES, Header, PackWriter
from backups.archive.store import ObjectMissing, ObjectStore
from backups.errors import ArchiveDamaged

READ_BYTES = 4 * 1024 * 1024
BATCH_RECORDS = 2048
OPEN_PACKS = 8
"""Records of different sessions cannot share a pack."""
KNOWN_TABLES = 16
PUBLISHED_ENTRIES = 65536
OWN_NUMBERS = 2**31
"""Writers count their packs from 0; packs that records were moved to have random numbers from here on."""

Record = tuple[bytes, Location]


@dataclass(frozen=True)
class _Source:
    """A pack to take records from; `checks`: the hash of each record, by its offset."""

    header: Header
    checks: dict[int, bytes]


class Mover:
    """A context manager. What was taken and not published is lost when it ends."""

    def __init__(self, source: ObjectStore, source_index: Index, target: ObjectStore, keys: TenantKeys) -> None:
        self.records = self.bytes_moved = 0
        self._source, self._source_index, self._target, self._keys = source, source_index, target, keys
        self._sources: OrderedDict[PackRef, _Source] = OrderedDict()
        self._open: OrderedDict[tuple[str, int], PackWriter] = OrderedDict()
        self._finished: list[PackWriter] = []
        self._taken: set[bytes] = set()

    def __enter__(self) -> "Mover":
        return self

    def __exit__(self, *exc: object) -> None:
        for pack in self._open.values():
            pack.abandon()

    def took(self, record_id: bytes) -> bool:
        """And has not published it yet."""
        return record_id in self._taken

    def take(self, records: Iterable[Record]) -> None:
        """Compares each with its hash. Of a damaged one another copy is taken, if there is one; else raises
        RecordDamaged."""
        in_order = sorted((at, record_id) for record_id, at in dict(records).items() if record_id not in self._taken)
        for group in _neighbours(in_order):
            stored = self._read(group)
            for at, record_id in group:
                start = at.offset - group[0][0].offset
                self._add(at, record_id, stored[start : start + at.stored_bytes])

    def publish(self, into: Index | None = None) -> None:
        """All that was taken is durable and indexed when it returns."""
        for pack in list(self._open.values()):
            self._finish(pack)
        self._open.clear()
        if self._finished:
            name = index_files.write_file(self._target, self._keys, index_files.rows_of(self._finished))
            if into is not None:
                into.add(index_files.open_file(self._target, self._keys, name))
        self._finished.clear()
        self._taken.clear()

    @property
    def full(self) -> bool:
        """It is time to publish."""
        return len(self._taken) >= PUBLISHED_ENTRIES

    def _read(self, group: list[tuple[Location, bytes]]) -> memoryview:
        first, last = group[0][0], group[-1][0]
        name = layout.pack(self._keys.tenant_id, first.pack)
        try:
            return memoryview(
                self._source.get_range(name, first.offset, last.offset + last.stored_bytes - first.offset)
            )
        except ObjectMissing:
            return memoryview(b"")

    def _add(self, at: Location, record_id: bytes, record: memoryview) -> None:
        source = self._source_of(at.pack)
        if source is None or not _sound(source, at, record):
            at, source, record = self._other_copy(at, record_id)
        pack = self._pack_for(source.header)
        self.bytes_moved += pack.add_record(record_id, record, at.raw_bytes)
        self.records += 1
        self._taken.add(record_id)
        if pack.size_bytes >= TARGET_BYTES or pack.full:
            self._finish(self._open.pop((source.header.ref.session, source.header.kind)))

    def _other_copy(self, bad: Location, record_id: bytes) -> tuple[Location, _Source, memoryview]:
        for at in self._source_index.copies(record_id):
            source = self._source_of(at.pack) if at != bad else None
            record = self._read([(at, record_id)]) if source else memoryview(b"")
            if source and _sound(source, at, record):
                return at, source, record
        name = layout.pack(self._keys.tenant_id, bad.pack)
        raise RecordDamaged(f"Chunk {record_id.hex()} in pack {name} is damaged.", bad.pack, record_id)

    def _source_of(self, ref: PackRef) -> _Source | None:
        """None if the pack's table cannot be relied on."""
        if ref not in self._sources:
            try:
                header, entries = packs.read_table(self._source, layout.pack(self._keys.tenant_id, ref))
            except (ArchiveDamaged, ObjectMissing):
                return None
            self._sources[ref] = _Source(header, {entry.offset: entry.check for entry in entries})
            if len(self._sources) > KNOWN_TABLES:
                self._sources.popitem(last=False)
        return self._sources[ref]

    def _pack_for(self, header: Header) -> PackWriter:
        key = (header.ref.session, header.kind)
        if key not in self._open:
            if len(self._open) >= OPEN_PACKS:
                self._finish(self._open.popitem(last=False)[1])
            ref = PackRef(header.ref.session, OWN_NUMBERS + secrets.randbelow(OWN_NUMBERS))
            tenant_id, sealed = self._keys.tenant_id, header.sealed_key
            self._open[key] = PackWriter(self._target, tenant_id, ref, header.kind, b"", sealed)
        return self._open[key]

    def _finish(self, pack: PackWriter) -> None:
        try:
            pack.finish()
        finally:
            pack.abandon()
        self._finished.append(pack)


def _sound(source: _Source, at: Location, record: memoryview) -> bool:
    return len(record) == at.stored_bytes and packs.checksum(record) == source.checks.get(at.offset)


def _neighbours(in_order: list[tuple[Location, bytes]]) -> Iterator[list[tuple[Location, bytes]]]:
    """Records that are read in one go."""
    group: list[tuple[Location, bytes]] = []
    for at, record_id in in_order:
        if group and (at.pack != group[0][0].pack or at.offset - group[0][0].offset >= READ_BYTES):
            yield group
            group = []
        group.append((at, record_id))
    if group:
        yield group
