"""What a tenant's archives hold and what they take."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from backups.archive import index as index_files
from backups.archive import layout, manifest
from backups.archive.chunks import ChunkSource
from backups.archive.index import Index
from backups.archive.keys import TenantKeys
from backups.archive.manifest import DiskEntry
from backups.archive.maps import CHUNK_BYTES, PAGE_CHUNKS, ZERO_ID, DiskMap, chunk_length
from backups.archive.packs import Kind
from backups.archive.store import ObjectMissing, ObjectStore

PAGE_BYTES = PAGE_CHUNKS * CHUNK_BYTES
"""Of disk, that a page of the map stands for."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """`bytes_logical`: the disks of all archives as the VMs see them. `bytes_data`: what of that is not zeros.
    `bytes_unique`: each chunk once; `bytes_packed`: the same, compressed and encrypted; both include what gc has not
    cleared away yet. `bytes_stored`: everything of this tenant in the repository."""

    archives: int
    bytes_logical: int
    bytes_data: int
    bytes_unique: int
    bytes_packed: int
    bytes_stored: int

    @property
    def dedup_ratio(self) -> float:
        return self.bytes_data / self.bytes_unique if self.bytes_unique else 1.0

    @property
    def compression_ratio(self) -> float:
        return self.bytes_unique / self.bytes_packed if self.bytes_packed else 1.0


def gather(store: ObjectStore, keys: TenantKeys) -> Statistics:
    """Reads maps and index, no data; needs no private key. Raises ArchiveDamaged."""
    index = Index.open(store, keys)
    source = ChunkSource(store, keys, index)
    bytes_logical, uses = 0, Counter[tuple[bytes, int]]()
    for disk in _disks(store, keys):
        bytes_logical += disk.capacity_bytes
        uses.update(_pages(disk))
    unique, packed = _unique(index)
    return Statistics(
        archives=sum(1 for _ in store.list(layout.archives(keys.tenant_id))),
        bytes_logical=bytes_logical,
        # Each page is read once, however many archives share it.
        bytes_data=sum(times * _page_data(page_id, length, source) for (page_id, length), times in uses.items()),
        bytes_unique=unique,
        bytes_packed=packed,
        bytes_stored=sum(stored.size_bytes for stored in store.list(f"{layout.tenant(keys.tenant_id)}/")),
    )


def _disks(store: ObjectStore, keys: TenantKeys) -> Iterator[DiskEntry]:
    for stored in list(store.list(layout.archives(keys.tenant_id))):
        try:
            content = manifest.read(store, stored.name)
        except ObjectMissing:
            continue
        yield from manifest.decode(content, keys, stored.name.rpartition("/")[2], stored.name).disks


def _pages(disk: DiskEntry) -> Iterator[tuple[bytes, int]]:
    """With the bytes of disk that each stands for, which only for a disk's last page are fewer."""
    for at, page_id in zip(range(0, disk.capacity_bytes, PAGE_BYTES), disk.page_ids, strict=True):
        if page_id != ZERO_ID:
            yield page_id, min(PAGE_BYTES, disk.capacity_bytes - at)


def _page_data(page_id: bytes, length: int, source: ChunkSource) -> int:
    return sum(chunk_length(length, chunk) for chunk, _ in DiskMap(length, [page_id], source.load).ids())


def _unique(index: Index) -> tuple[int, int]:
    unique = packed = 0
    last_id = b""
    for record_id, at in index_files.merged(index.files, frozenset()):
        if record_id != last_id and at.kind == Kind.DATA:
            unique += at.raw_bytes
            packed += at.stored_bytes
        last_id = record_id
    return unique, packed
