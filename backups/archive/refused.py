"""What may not be relied on: packs and indexes that gc has condemned, and chunks that were found damaged. Both are
said by small write-once objects, so that writers need no locks. FORMAT.md, section 9."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from backups.archive import documents, layout
from backups.archive.layout import PackRef
from backups.archive.store import ObjectMissing, ObjectStore
from backups.errors import ArchiveDamaged

Chunk = tuple[PackRef, bytes]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """`everything`: a condemned list cannot be read, so that no pack may be referred to anew until gc has healed
    that; reading and writing go on."""

    packs: frozenset[PackRef] = frozenset()
    indexes: frozenset[str] = frozenset()
    chunks: frozenset[Chunk] = frozenset()
    damaged_packs: frozenset[PackRef] = frozenset()
    everything: bool = False

    def refuses(self, ref: PackRef, record_id: bytes) -> bool:
        return self.everything or ref in self.packs or (ref, record_id) in self.chunks

    def is_damaged(self, ref: PackRef, record_id: bytes) -> bool:
        return ref in self.damaged_packs or (ref, record_id) in self.chunks


@dataclass(frozen=True, kw_only=True)
class Condemned:
    """Not `readable`: what it names is not known."""

    name: str
    modified_s: float
    packs: frozenset[PackRef] = field(default_factory=frozenset)
    indexes: frozenset[str] = field(default_factory=frozenset)
    readable: bool = True


def load(store: ObjectStore, tenant_id: str) -> Refused:
    """To be called before the indexes are listed."""
    condemned = load_condemned(store, tenant_id)
    whole, single = _load_damaged(store, tenant_id)
    return Refused(
        packs=frozenset(whole).union(*(c.packs for c in condemned)),
        indexes=frozenset().union(*(c.indexes for c in condemned)),
        chunks=frozenset(single),
        damaged_packs=frozenset(whole),
        everything=not all(c.readable for c in condemned),
    )


def load_condemned(store: ObjectStore, tenant_id: str) -> list[Condemned]:
    found = []
    for stored in list(store.list(layout.condemned(tenant_id))):
        try:
            said = documents.read(store, stored.name)
            packs = frozenset(_ref(pack) for pack in said["packs"])
            indexes = frozenset(_index(tenant_id, name) for name in said["indexes"])
        except ObjectMissing:
            continue
        except (ArchiveDamaged, KeyError, TypeError, ValueError):
            found.append(Condemned(name=stored.name, modified_s=stored.modified_s, readable=False))
            continue
        found.append(Condemned(name=stored.name, modified_s=stored.modified_s, packs=packs, indexes=indexes))
    return found


def condemn(store: ObjectStore, tenant_id: str, packs: Iterable[PackRef], indexes: Iterable[str]) -> None:
    documents.write(store, layout.condemned(tenant_id), {"packs": sorted(packs), "indexes": sorted(indexes)})


def mark_damaged(store: ObjectStore, tenant_id: str, ref: PackRef, record_ids: Iterable[bytes]) -> None:
    """The next writer that meets one of these chunks stores it again. No ids: all of the pack."""
    label = f"{ref.session}-{ref.number:08x}-"
    said = {"pack": ref, "chunks": sorted(i.hex() for i in record_ids)}
    documents.write(store, layout.damaged(tenant_id), said, label)


def forget_damage(store: ObjectStore, tenant_id: str, packs: frozenset[PackRef]) -> None:
    """After the packs themselves have gone."""
    for stored in list(store.list(layout.damaged(tenant_id))):
        if _marked_pack(stored.name) in packs:
            store.delete(stored.name)


def _load_damaged(store: ObjectStore, tenant_id: str) -> tuple[set[PackRef], set[Chunk]]:
    """A mark that cannot be read counts for all of its pack, which its name tells."""
    whole: set[PackRef] = set()
    single: set[Chunk] = set()
    for stored in list(store.list(layout.damaged(tenant_id))):
        if (ref := _marked_pack(stored.name)) is None:
            continue
        try:
            chunks = [bytes.fromhex(chunk) for chunk in documents.read(store, stored.name)["chunks"]]
        except ObjectMissing:
            continue
        except (ArchiveDamaged, KeyError, TypeError, ValueError):
            chunks = []
        single.update((ref, chunk) for chunk in chunks)
        if not chunks:
            whole.add(ref)
    return whole, single


def _marked_pack(name: str) -> PackRef | None:
    pack = name.rpartition("-")[0]
    return layout.pack_ref(pack) if layout.is_pack(pack) else None


def _ref(said: list[object]) -> PackRef:
    """Names become paths that gc deletes, so nothing else may be said here."""
    session, number = said
    if not isinstance(session, str) or not layout.SESSION.fullmatch(session):
        raise ValueError(said)
    if type(number) is not int or not 0 <= number < 2**32:
        raise ValueError(said)
    return PackRef(session, number)


def _index(tenant_id: str, name: object) -> str:
    if not isinstance(name, str) or not layout.is_index(tenant_id, name):
        raise ValueError(name)
    return name
