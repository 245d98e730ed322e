"""What may not be relied on: packs and indexes that gc has condemned, and chunks that were found damaged. Both are
said by small write-once objects, so that writers need no locks."""

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from backups.archive import layout
from backups.archive.layout import PackRef
from backups.archive.store import ObjectMissing, ObjectStore
from backups.errors import ArchiveDamaged

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Refused:
    packs: frozenset[PackRef] = frozenset()
    indexes: frozenset[str] = frozenset()
    chunks: frozenset[tuple[PackRef, bytes]] = frozenset()

    def refuses(self, ref: PackRef, record_id: bytes) -> bool:
        return ref in self.packs or (ref, record_id) in self.chunks


@dataclass(frozen=True, kw_only=True)
class Condemned:
    name: str
    modified_s: float
    packs: frozenset[PackRef] = field(default_factory=frozenset)
    indexes: frozenset[str] = field(default_factory=frozenset)


def load(store: ObjectStore, tenant_id: str) -> Refused:
    """To be called before the indexes are listed."""
    condemned = load_condemned(store, tenant_id)
    whole, single = _load_damaged(store, tenant_id)
    return Refused(
        packs=frozenset(whole).union(*(c.packs for c in condemned)),
        indexes=frozenset().union(*(c.indexes for c in condemned)),
        chunks=frozenset(single),
    )


def load_condemned(store: ObjectStore, tenant_id: str) -> list[Condemned]:
    found = []
    for stored in list(store.list(layout.condemned(tenant_id))):
        try:
            said = _parsed(store, stored.name)
        except ObjectMissing:
            continue
        packs = frozenset(PackRef(*pack) for pack in said["packs"])
        indexes = frozenset(said["indexes"])
        found.append(Condemned(name=stored.name, modified_s=stored.modified_s, packs=packs, indexes=indexes))
    return found


def condemn(store: ObjectStore, tenant_id: str, packs: Iterable[PackRef], indexes: Iterable[str]) -> None:
    said = {"version": VERSION, "packs": sorted(packs), "indexes": sorted(indexes)}
    store.put(layout.condemned(tenant_id) + secrets.token_hex(16), json.dumps(said).encode())


def mark_damaged(store: ObjectStore, tenant_id: str, ref: PackRef, record_ids: Iterable[bytes]) -> None:
    """The next writer that meets one of these chunks stores it again. No ids: all of the pack."""
    said = {"version": VERSION, "pack": ref, "chunks": sorted(i.hex() for i in record_ids)}
    name = f"{ref.session}-{ref.number:08x}-{secrets.token_hex(8)}"
    store.put(layout.damaged(tenant_id) + name, json.dumps(said).encode())


def forget_damage(store: ObjectStore, tenant_id: str, packs: frozenset[PackRef]) -> None:
    """After the packs themselves have gone."""
    for stored in list(store.list(layout.damaged(tenant_id))):
        if PackRef(*_parsed(store, stored.name)["pack"]) in packs:
            store.delete(stored.name)


def _load_damaged(store: ObjectStore, tenant_id: str) -> tuple[set[PackRef], set[tuple[PackRef, bytes]]]:
    whole: set[PackRef] = set()
    single: set[tuple[PackRef, bytes]] = set()
    for stored in list(store.list(layout.damaged(tenant_id))):
        try:
            said = _parsed(store, stored.name)
        except ObjectMissing:
            continue
        ref = PackRef(*said["pack"])
        single.update((ref, bytes.fromhex(chunk)) for chunk in said["chunks"])
        if not said["chunks"]:
            whole.add(ref)
    return whole, single


def _parsed(store: ObjectStore, name: str) -> dict[str, Any]:
    try:
        said = json.loads(store.get(name))
    except ValueError as error:
        raise ArchiveDamaged(f"{name} is damaged.") from error
    if said.get("version") != VERSION:
        raise ArchiveDamaged(f"{name} has a version that this product does not know; update it.")
    return said
