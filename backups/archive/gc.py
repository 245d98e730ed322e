"""Deletes what no archive refers to. FORMAT.md, section 8, says why this is safe beside running writers and after a
kill at any point; each step below may be repeated."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice

from backups.archive import index as index_files
from backups.archive import layout, locks, manifest, refused, repacking, sessions
from backups.archive.chunks import ChunkSource
from backups.archive.clock import store_time
from backups.archive.index import Index, IndexFile
from backups.archive.keys import TenantKeys
from backups.archive.layout import PackRef
from backups.archive.manifest import Manifest
from backups.archive.maps import ZERO_ID, DiskMap
from backups.archive.repacking import Needed
from backups.archive.sessions import SeenSession
from backups.archive.store import ObjectMissing, ObjectStore, StoredObject
from backups.errors import ArchiveDamaged, ArchiveMissing, Conflict, InvalidRequest

CLOCK_SLACK_S = 10.0
"""Two times of one store that are nearer than this count as equal, whatever the safer reading is."""
MERGED_FROM_FILES = 16
SMALL_INDEX_ENTRIES = 262_144
UNFINISHED_KEPT_S = 7 * 86400.0


@dataclass(frozen=True, kw_only=True)
class Collected:
    packs_condemned: int
    packs_deleted: int
    bytes_deleted: int
    archives_forgotten: int
    packs_moved: int


def delete_archive(store: ObjectStore, tenant_id: str, archive_id: str) -> None:
    """From now on it is missing; `collect` frees its space after a grace period, until which `undelete_archive`
    brings it back. Nothing to do if it has gone. Raises Conflict while it is locked."""
    if until := locks.locked_until(store, tenant_id, archive_id):
        raise Conflict(
            f"Archive {archive_id} is locked until {until:%Y-%m-%d %H:%M} UTC; it can be deleted after that."
        )
    name, tomb = layout.archive(tenant_id, archive_id), layout.deleted_archive(tenant_id, archive_id)
    with suppress(ObjectMissing):
        content = manifest.read(store, name)
        # Made anew if an earlier call died between the two: its time is what protects running incrementals.
        store.delete(tomb)
        with suppress(Conflict):
            store.put(tomb, content)
        store.delete(name)


def undelete_archive(store: ObjectStore, tenant_id: str, archive_id: str) -> None:
    """Raises ArchiveMissing when the grace period is over; Conflict if the archive is there already."""
    name, tomb = layout.archive(tenant_id, archive_id), layout.deleted_archive(tenant_id, archive_id)
    over = ArchiveMissing(f"Archive {archive_id} cannot be brought back: its time among the deleted ones is over.")
    try:
        store.put(name, manifest.read(store, tomb))
    except ObjectMissing as error:
        raise over from error
    # gc forgets a tomb before it lists the archives: as long as the tomb is there, it will see this one. The tomb
    # stays until then, so that whoever lists both folders meanwhile finds the archive in one of them.
    if not store.exists(tomb):
        store.delete(name)
        raise over


@dataclass(frozen=True, kw_only=True)
class DeletedArchive:
    """`deleted_s` by the store's clock."""

    archive_id: str
    deleted_s: float


def deleted_archives(store: ObjectStore, tenant_id: str) -> list[DeletedArchive]:
    """Those that can be brought back."""
    tombs = {stored.name.rpartition("/")[2]: stored.modified_s for stored in store.list(layout.deleted(tenant_id))}
    for stored in store.list(layout.archives(tenant_id)):
        tombs.pop(stored.name.rpartition("/")[2], None)
    return [DeletedArchive(archive_id=archive_id, deleted_s=at) for archive_id, at in sorted(tombs.items())]


def collect(store: ObjectStore, tenant_id: str, keys: TenantKeys, *, grace_s: float) -> Collected:
    """Condemns packs that no archive refers to, deletes those that an earlier call condemned more than `grace_s`
    ago, and empties those of which little is needed any more. Raises ArchiveDamaged, and deletes nothing, while any
    archive's map cannot be read: what it refers to would be lost. Needs no private key; one call at a time for each
    tenant."""
    if keys.tenant_id != tenant_id:
        raise InvalidRequest("These keys belong to another tenant.")
    return _Collection(store, keys, grace_s).run()


class _Collection:
    def __init__(self, store: ObjectStore, keys: TenantKeys, grace_s: float) -> None:
        self._store, self._keys, self._tenant_id, self._grace_s = store, keys, keys.tenant_id, grace_s
        self._now_s = store_time(store, self._tenant_id)

    def run(self) -> Collected:
        self._heal_condemned()
        # The order matters: packs, sessions, manifests, index. A session that is not seen here has either ended,
        # and its manifest and index are seen, or begins after what is condemned already and leaves it alone.
        packs = self._stored_packs()
        alive = sessions.living(self._store, self._tenant_id, self._now_s)
        forgotten = self._forget_deleted_archives(alive)
        manifests = list(self._manifest_names())
        index = Index.open(self._store, self._keys)
        needed = self._needed(manifests, index)
        doomed = self._delete_condemned(alive, index, needed.packs)
        moved = self._move_out_of_sparse_packs(alive, packs, needed, manifests)
        unneeded = self._condemn(alive, packs.keys() - needed.packs - doomed | moved)
        self._store.sweep(UNFINISHED_KEPT_S)
        return Collected(
            packs_condemned=len(unneeded),
            packs_deleted=len(doomed & packs.keys()),
            bytes_deleted=sum(packs[ref].size_bytes for ref in doomed & packs.keys()),
            archives_forgotten=forgotten,
            packs_moved=len(moved),
        )

    def _stored_packs(self) -> dict[PackRef, StoredObject]:
        stored = self._store.list(layout.packs(self._tenant_id))
        return {layout.pack_ref(one.name): one for one in stored if layout.is_pack(one.name)}

    def _heal_condemned(self) -> None:
        """A condemned list that cannot be read may have hidden old indexes, which name packs that have gone. They are
        written anew without those packs; then the list is not needed any more."""
        unreadable = [c for c in refused.load_condemned(self._store, self._tenant_id) if not c.readable]
        if not unreadable:
            return
        index = Index.open(self._store, self._keys)
        named = frozenset(ref for file in index.files for ref, _ in file.packs)
        self._rewrite_indexes(index, named - self._stored_packs().keys())
        for one in unreadable:
            self._store.delete(one.name)

    def _delete_condemned(
        self, alive: list[SeenSession], index: Index, needed: frozenset[PackRef]
    ) -> frozenset[PackRef]:
        """Indexes first: a writer must never find a chunk there whose pack has gone. What is needed again since it
        was condemned is spared."""
        condemned = refused.load_condemned(self._store, self._tenant_id)
        ripe = [c for c in condemned if c.readable and self._outlived(c.modified_s, alive)]
        doomed = frozenset[PackRef]().union(*(c.packs for c in ripe)) - needed
        self._rewrite_indexes(index, doomed)
        for ref in doomed:
            self._store.delete(layout.pack(self._tenant_id, ref))
        refused.forget_damage(self._store, self._tenant_id, doomed)
        for one in ripe:
            for name in one.indexes:
                self._store.delete(name)
            # Last: as long as it is there, writers leave its packs alone.
            self._store.delete(one.name)
        return doomed

    def _move_out_of_sparse_packs(
        self, alive: list[SeenSession], packs: dict[PackRef, StoredObject], needed: Needed, manifests: list[str]
    ) -> set[PackRef]:
        """Those of running sessions, and those that nobody may rely on, stay as they are."""
        index = Index.open(self._store, self._keys)
        working = {session.id for session in alive}
        sizes = {
            ref: stored.size_bytes
            for ref, stored in packs.items()
            if ref.session not in working and ref not in index.refusals.packs
        }
        sparse = needed.sparse(sizes)
        if not sparse or index.refusals.everything:
            return set()
        ids = self._referenced_ids(manifests, ChunkSource(self._store, self._keys, index))
        return repacking.move_out(self._store, self._keys, index, ids, {ref: sizes[ref] for ref in sparse})

    def _condemn(self, alive: list[SeenSession], unneeded: set[PackRef]) -> set[PackRef]:
        """Packs of sessions at work are not in any manifest yet."""
        condemned = refused.load_condemned(self._store, self._tenant_id)
        said = frozenset[PackRef]().union(*(c.packs for c in condemned))
        working = {session.id for session in alive}
        new = {ref for ref in unneeded - said if ref.session not in working}
        if new:
            refused.condemn(self._store, self._tenant_id, new, [])
        return new

    def _forget_deleted_archives(self, alive: list[SeenSession]) -> int:
        stored = list(self._store.list(layout.deleted(self._tenant_id)))
        locked = locks.locked(self._store, self._tenant_id, self._now_s)
        locks.forget_expired(self._store, self._tenant_id, self._now_s)
        old = [s for s in stored if self._outlived(s.modified_s, alive) and s.name.rpartition("/")[2] not in locked]
        for tomb in old:
            self._store.delete(tomb.name)
        return len(old)

    def _outlived(self, since_s: float, alive: list[SeenSession]) -> bool:
        """The grace period is over, and no session is at work that began before `since_s`."""
        old_sessions = [s for s in alive if s.started_s <= since_s + CLOCK_SLACK_S]
        return self._now_s - since_s >= self._grace_s and not old_sessions

    def _needed(self, manifests: list[str], index: Index) -> Needed:
        """One good copy of each chunk is enough. Where there is none, all of its copies are kept: a condemned one
        is rescued, and of a damaged one something may be left."""
        source = ChunkSource(self._store, self._keys, index)
        needed = Needed()
        for record_id in self._referenced_ids(manifests, source):
            location = index.find(record_id)
            copies = [location] if location else list(index.copies(record_id))
            if not copies:
                raise ArchiveDamaged(
                    f"Chunk {record_id.hex()} of an archive is in no pack of the index. Nothing was deleted; check "
                    "this tenant's archives and delete the damaged ones."
                )
            for copy in copies:
                needed.add(record_id, copy)
        for error in index.broken.values():
            raise error
        return needed

    def _referenced_ids(self, manifests: list[str], source: ChunkSource) -> Iterator[bytes]:
        seen_pages: set[bytes] = {ZERO_ID}
        for name in manifests:
            for disk in self._manifest(name).disks:
                new = [page_id if page_id not in seen_pages else ZERO_ID for page_id in disk.page_ids]
                seen_pages.update(new)
                yield from (page_id for page_id in new if page_id != ZERO_ID)
                yield from (chunk_id for _, chunk_id in DiskMap(disk.capacity_bytes, new, source.load).ids())

    def _manifest_names(self) -> Iterator[str]:
        """The deleted ones are listed later: an archive that is deleted meanwhile is in one list at least."""
        for prefix in (layout.archives(self._tenant_id), layout.deleted(self._tenant_id)):
            yield from (stored.name for stored in list(self._store.list(prefix)))

    def _manifest(self, name: str) -> Manifest:
        archive_id = name.rpartition("/")[2]
        try:
            content = manifest.read(self._store, name)
        except ObjectMissing:
            content = manifest.read(self._store, layout.deleted_archive(self._tenant_id, archive_id))
        return manifest.decode(content, self._keys, archive_id, name)

    def _rewrite_indexes(self, index: Index, doomed: frozenset[PackRef]) -> None:
        """Leaves the doomed packs out and merges small files. The files that are replaced are condemned, because
        others may have them open."""
        small = [file for file in index.files if file.count < SMALL_INDEX_ENTRIES]
        groups = [[file] for file in index.files if file not in small and _names_any(file, doomed)]
        if len(small) >= MERGED_FROM_FILES or any(_names_any(file, doomed) for file in small):
            groups.append(small)
        for group in groups:
            rows = index_files.merged(group, doomed)
            for first in islice(rows, 1):
                index_files.write_file(self._store, self._keys, chain([first], rows))
        if groups:
            refused.condemn(self._store, self._tenant_id, [], [file.name for group in groups for file in group])


def _names_any(file: IndexFile, packs: frozenset[PackRef]) -> bool:
    return any(ref in packs for ref, _ in file.packs)
