"""What the marks of damaged chunks mean for archives: which ones use such a chunk, and what the next run has to read
again. A chunk is lost only while no sound copy of it is known."""

from collections.abc import Iterable
from dataclasses import dataclass

from backups.archive import layout, manifest
from backups.archive.chunks import ChunkSource
from backups.archive.index import Index
from backups.archive.keys import TenantKeys
from backups.archive.manifest import Manifest
from backups.archive.maps import CHUNK_BYTES, ZERO_ID, DiskMap, chunk_length
from backups.archive.store import ObjectMissing, ObjectStore
from backups.errors import ArchiveDamaged
from backups.platform import Area


@dataclass(frozen=True, kw_only=True)
class DamagedArchive:
    archive_id: str
    reason: str


def lost_ids(index: Index) -> frozenset[bytes]:
    """Ids of chunks and pages all of whose copies are marked as damaged."""
    refusals = index.refusals
    marked = {record_id for _, record_id in refusals.chunks}
    for file in index.files:
        if any(ref in refusals.damaged_packs for ref, _ in file.packs):
            marked.update(record_id for record_id, at in file.rows() if at.pack in refusals.damaged_packs)
    return frozenset(record_id for record_id in marked if _all_damaged(index, record_id))


def _all_damaged(index: Index, record_id: bytes) -> bool:
    return all(index.refusals.is_damaged(copy.pack, record_id) for copy in index.copies(record_id))


def damaged_archives(store: ObjectStore, keys: TenantKeys) -> list[DamagedArchive]:
    """Every archive that uses something that is lost, by what scrubs and checks have marked; reads maps and no data,
    and needs no private key."""
    index = Index.open(store, keys)
    lost = lost_ids(index)
    source = ChunkSource(store, keys, index)
    found = []
    for stored in list(store.list(layout.archives(keys.tenant_id))):
        archive_id = stored.name.rpartition("/")[2]
        try:
            encoded = manifest.read(store, stored.name)
            reason = _trouble(manifest.decode(encoded, keys, archive_id, stored.name), source, lost)
        except ObjectMissing:
            continue
        except ArchiveDamaged as error:
            reason = str(error)
        if reason:
            found.append(DamagedArchive(archive_id=archive_id, reason=reason))
    return found


def _trouble(archive: Manifest, source: ChunkSource, lost: frozenset[bytes]) -> str:
    if not lost:
        return ""
    pages = sum(page_id in lost for disk in archive.disks for page_id in disk.page_ids)
    chunks = 0
    for disk in archive.disks:
        readable = [ZERO_ID if page_id in lost else page_id for page_id in disk.page_ids]
        chunks += sum(i in lost for _, i in DiskMap(disk.capacity_bytes, readable, source.load).ids())
    if not pages + chunks:
        return ""
    return f"{chunks} chunks and {pages} pages of the map of archive {archive.archive_id} are damaged."


def with_lost_areas(areas: Iterable[Area] | None, base: DiskMap | None, index: Index) -> Iterable[Area] | None:
    """The areas that are read anyway, and those whose chunks in `base` are lost: read again, and stored, they heal
    every archive that uses them."""
    lost = lost_ids(index)
    if areas is None or base is None or not lost:
        return areas
    again = [
        Area(start=chunk * CHUNK_BYTES, length=chunk_length(base.capacity_bytes, chunk))
        for chunk, chunk_id in base.ids()
        if chunk_id in lost
    ]
    return [*areas, *again]
