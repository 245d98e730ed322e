"""Off-site copies: from one repository into another, only what is missing there. Everything travels as it is stored,
encrypted and sealed, so that a host without the private key can copy. It may be killed at any point and be begun
again; what has arrived is not copied twice."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from backups.archive import key_objects, layout, locks, manifest
from backups.archive.chunks import ChunkSource, RecordDamaged
from backups.archive.index import Index
from backups.archive.keys import TenantKeys
from backups.archive.manifest import Manifest
from backups.archive.maps import ZERO_ID, DiskMap
from backups.archive.relocation import BATCH_RECORDS, Mover, Record
from backups.archive.sessions import WriterSession
from backups.archive.store import ObjectMissing, ObjectStore
from backups.errors import ArchiveDamaged, ArchiveMissing, Conflict


@dataclass(kw_only=True)
class Copied:
    """`refused`: archives that were not copied because something of them is damaged, and why."""

    archives: int = 0
    records: int = 0
    bytes_copied: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def _never() -> None:
    return None


def copy_archives(
    source: ObjectStore,
    target: ObjectStore,
    keys: TenantKeys,
    archive_ids: Iterable[str] | None = None,
    *,
    check: Callable[[], None] = _never,
    progress: Callable[[int], None] = lambda _bytes_copied: None,
) -> Copied:
    """Of one tenant: the archives named, or all, with their locks, and the sealed keys. All that is copied is compared
    with its hashes. `check` may raise to stop it. Raises ArchiveMissing for an archive that the source has not."""
    names = list(archive_ids) if archive_ids is not None else list(_archive_ids(source, keys.tenant_id))
    copied = Copied()
    key_objects.copy(source, target, keys.tenant_id)
    session = WriterSession(target, keys.tenant_id)
    try:
        with _Copy(source, target, keys, session, check, progress) as copy:
            for archive_id in names:
                copy.archive(archive_id, copied)
    finally:
        session.end()
    return copied


def _archive_ids(store: ObjectStore, tenant_id: str) -> Iterator[str]:
    return (stored.name.rpartition("/")[2] for stored in list(store.list(layout.archives(tenant_id))))


class _Copy:
    def __init__(
        self,
        source: ObjectStore,
        target: ObjectStore,
        keys: TenantKeys,
        session: WriterSession,
        check: Callable[[], None],
        progress: Callable[[int], None],
    ) -> None:
        self._source, self._target, self._keys, self._session = source, target, keys, session
        self._check, self._progress = check, progress
        self._source_index, self._target_index = Index.open(source, keys), Index.open(target, keys)
        self._chunks = ChunkSource(source, keys, self._source_index)
        self._mover = Mover(source, self._source_index, target, keys)

    def __enter__(self) -> "_Copy":
        return self

    def __exit__(self, *exc: object) -> None:
        self._mover.__exit__(*exc)

    def archive(self, archive_id: str, copied: Copied) -> None:
        name = layout.archive(self._keys.tenant_id, archive_id)
        if not self._target.exists(name):
            try:
                self._copy(name, archive_id)
                copied.archives += 1
            except ArchiveDamaged as error:
                copied.refused[archive_id] = str(error)
        locks.copy(self._source, self._target, self._keys.tenant_id, archive_id)
        copied.records, copied.bytes_copied = self._mover.records, self._mover.bytes_moved

    def _copy(self, name: str, archive_id: str) -> None:
        try:
            encoded = manifest.read(self._source, name)
        except ObjectMissing as error:
            raise ArchiveMissing(f"Archive {archive_id} is not in the repository to copy from.") from error
        missing = self._missing(manifest.decode(encoded, self._keys, archive_id, name))
        while batch := list(islice(missing, BATCH_RECORDS)):
            self._check()
            self._mover.take(batch)
            self._progress(self._mover.bytes_moved)
            if self._mover.full:
                self._mover.publish(self._target_index)
        self._mover.publish(self._target_index)
        # Locks first: from its first moment on the copy is as safe from deletion as the original.
        locks.copy(self._source, self._target, self._keys.tenant_id, archive_id)
        with suppress(Conflict):
            self._session.publish(name, encoded)

    def _missing(self, archive: Manifest) -> Iterator[Record]:
        for record_id in self._ids(archive):
            if self._mover.took(record_id) or self._target_index.find(record_id) is not None:
                continue
            location = self._source_index.find(record_id) or next(self._source_index.copies(record_id), None)
            if location is None:
                raise RecordDamaged(f"Chunk {record_id.hex()} is in no pack of the index.", None, record_id)
            yield record_id, location

    def _ids(self, archive: Manifest) -> Iterator[bytes]:
        for disk in archive.disks:
            yield from (
                chunk_id for _, chunk_id in DiskMap(disk.capacity_bytes, disk.page_ids, self._chunks.load).ids()
            )
            yield from (page_id for page_id in disk.page_ids if page_id != ZERO_ID)
