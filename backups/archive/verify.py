"""Finds out whether what is stored is still what was written. What is found damaged is marked: writers store such
chunks again when they meet them."""

import logging
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from backups.archive import documents, index, layout, manifest, marker, packs, refused
from backups.archive.chunks import RecordDamaged
from backups.archive.keys import TenantKeys
from backups.archive.layout import PackRef
from backups.archive.packs import Entry
from backups.archive.reader import ArchiveReader
from backups.archive.store import ObjectMissing, ObjectStore, StoredObject
from backups.errors import ArchiveDamaged, ArchiveMissing, RepositoryFull, RepositoryUnavailable

log = logging.getLogger(__name__)
READ_BYTES = 4 * 1024 * 1024
SCRUBBED = ("packs", "index", "archives", "deleted", "condemned", "damaged", "keys")
"""All folders of a tenant but those whose objects are empty."""


@dataclass(frozen=True, kw_only=True)
class Damage:
    """`chunks`: ids of the damaged ones; none where the object is damaged as a whole."""

    name: str
    reason: str
    chunks: tuple[bytes, ...] = ()


@dataclass(kw_only=True)
class ScrubReport:
    objects: int = 0
    bytes_read: int = 0
    damages: list[Damage] = field(default_factory=list)


def _never() -> None:
    return None


def scrub(
    store: ObjectStore, tenant_id: str, *, part: int = 0, parts: int = 1, check: Callable[[], None] = _never
) -> ScrubReport:
    """Compares all that is stored with its hashes, and looks for packs that are missing; needs no key. Of `parts`
    shares of about the same size only one is read, so that a week of nights, say, goes round once. Never raises for
    damage: the report names it."""
    report = ScrubReport()
    if part == 0:
        report.damages += [*_damaged_marker(store), *_missing_packs(store, tenant_id)]
    for stored in _share(store, tenant_id, part, parts):
        check()
        report.objects += 1
        report.bytes_read += stored.size_bytes
        try:
            damage = _scrub_object(store, tenant_id, stored.name)
        except ObjectMissing:
            continue
        if damage:
            report.damages.append(damage)
    _mark(store, tenant_id, report.damages)
    return report


def check(
    store: ObjectStore, keys: TenantKeys, archive_id: str, *, threads: int = 2, check: Callable[[], None] = _never
) -> int:
    """Decrypts, decompresses and compares all of an archive, and returns the bytes. Raises ArchiveDamaged, naming
    what is; ArchiveMissing; KeyUnavailable."""
    reader = ArchiveReader(store, keys, archive_id)
    if not isinstance(reader.config, dict):
        raise ArchiveDamaged(f"The configuration of archive {archive_id} is damaged.")
    bytes_checked, damages = 0, list[RecordDamaged]()
    try:
        for disk in reader.disks:
            for length, found in reader.damages(disk.key, threads=threads):
                check()
                bytes_checked += length
                damages += found
    except RecordDamaged as error:
        damages.append(error)
    if damages:
        _mark(store, keys.tenant_id, [_as_damage(keys.tenant_id, error) for error in damages if error.pack])
        raise ArchiveDamaged(f"Archive {archive_id} has {len(damages)} damaged chunks. {damages[0]}")
    return bytes_checked


def check_all(store: ObjectStore, keys: TenantKeys, *, check: Callable[[], None] = _never) -> list[str]:
    """Everything there is to find of one tenant, with all keys: what is stored, every index, every archive. Returns
    what is wrong, in sentences."""
    found = [damage.reason for damage in scrub(store, keys.tenant_id, check=check).damages]
    for name in _indexes_in_use(store, keys.tenant_id):
        try:
            index.open_file(store, keys, name).verify()
        except ArchiveDamaged as error:
            found.append(str(error))
        except ObjectMissing:
            continue
    for stored in list(store.list(layout.archives(keys.tenant_id))):
        found += _trouble_of(store, keys, stored.name.rpartition("/")[2], check)
    return found


def _trouble_of(store: ObjectStore, keys: TenantKeys, archive_id: str, keep_going: Callable[[], None]) -> list[str]:
    try:
        check(store, keys, archive_id, check=keep_going)
    except ArchiveDamaged as error:
        return [str(error)]
    except ArchiveMissing:
        return []
    return []


def _as_damage(tenant_id: str, error: RecordDamaged) -> Damage:
    assert error.pack is not None  # noqa: S101
    return Damage(name=layout.pack(tenant_id, error.pack), reason=str(error), chunks=(error.record_id,))


def _mark(store: ObjectStore, tenant_id: str, damages: list[Damage]) -> None:
    known = refused.load(store, tenant_id)
    for damage in damages:
        if not (damage.name.startswith(layout.packs(tenant_id)) and layout.is_pack(damage.name)):
            continue
        ref = layout.pack_ref(damage.name)
        new = [chunk for chunk in damage.chunks if not known.refuses(ref, chunk)]
        if new or (not damage.chunks and ref not in known.packs):
            try:
                refused.mark_damaged(store, tenant_id, ref, new)
            except (RepositoryUnavailable, RepositoryFull) as error:
                # Of a read-only copy, say: what was found is told all the same.
                log.warning("Damage of %s could not be marked: %s", damage.name, error)
                return


def _share(store: ObjectStore, tenant_id: str, part: int, parts: int) -> Iterator[StoredObject]:
    for prefix in (f"{layout.tenant(tenant_id)}/{folder}/" for folder in SCRUBBED):
        for stored in store.list(prefix):
            if zlib.crc32(stored.name.encode()) % parts == part:
                yield stored


def _scrub_object(store: ObjectStore, tenant_id: str, name: str) -> Damage | None:
    try:
        if name.startswith(layout.packs(tenant_id)):
            return _scrub_pack(store, name)
        if name.startswith(layout.indexes(tenant_id)):
            index.check_stored(name, store.view(name))
        elif name.startswith((layout.archives(tenant_id), layout.deleted(tenant_id))):
            manifest.split(manifest.read(store, name), name)
        else:
            documents.read(store, name)
    except ArchiveDamaged as error:
        return Damage(name=name, reason=str(error))
    return None


def _damaged_marker(store: ObjectStore) -> list[Damage]:
    try:
        sound = marker.is_sound(store.get(marker.NAME))
    except ObjectMissing:
        sound = False
    return [] if sound else [Damage(name=marker.NAME, reason=f"{marker.NAME} is damaged; write it anew.")]


def _missing_packs(store: ObjectStore, tenant_id: str) -> list[Damage]:
    """Packs that an index names and that are not there. gc may take an index and then its packs away meanwhile, so
    what is missed is looked for once more."""
    named = {name: _named_packs(store, name) for name in _indexes_in_use(store, tenant_id)}
    stored = (one.name for one in store.list(layout.packs(tenant_id)))
    there = {layout.pack_ref(name) for name in stored if layout.is_pack(name)}
    missed = {name: refs - there for name, refs in named.items() if refs - there}
    still = set(_indexes_in_use(store, tenant_id)) if missed else set()
    missing = sorted(set().union(*(refs for name, refs in missed.items() if name in still)))
    names = [layout.pack(tenant_id, ref) for ref in missing]
    return [Damage(name=name, reason=f"Pack {name} is missing.") for name in names if not store.exists(name)]


def _indexes_in_use(store: ObjectStore, tenant_id: str) -> list[str]:
    condemned = refused.load(store, tenant_id).indexes
    return [stored.name for stored in store.list(layout.indexes(tenant_id)) if stored.name not in condemned]


def _named_packs(store: ObjectStore, name: str) -> set[PackRef]:
    """None of an index that is damaged: the scrub names it."""
    try:
        view = store.view(name)
        index.check_stored(name, view)
    except (ArchiveDamaged, ObjectMissing):
        return set()
    return index.named_packs(view)


def _scrub_pack(store: ObjectStore, name: str) -> Damage | None:
    _, entries = packs.read_table(store, name)
    bad = [entry.record_id for entry in _bad_entries(store, name, entries)]
    return Damage(name=name, reason=f"Pack {name} has {len(bad)} damaged chunks.", chunks=tuple(bad)) if bad else None


def _bad_entries(store: ObjectStore, name: str, entries: list[Entry]) -> Iterator[Entry]:
    """The records follow each other without gaps."""
    at = 0
    while at < len(entries):
        start, group = entries[at].offset, list[Entry]()
        while at < len(entries) and entries[at].offset - start < READ_BYTES:
            group.append(entries[at])
            at += 1
        stored = memoryview(store.get_range(name, start, group[-1].offset + group[-1].stored_bytes - start))
        for entry in group:
            if packs.checksum(stored[entry.offset - start :][: entry.stored_bytes]) != entry.check:
                yield entry
