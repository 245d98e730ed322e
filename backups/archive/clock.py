"""The time by the store's own clock, because hosts' clocks differ."""

import secrets

from backups.archive import layout
from backups.archive.store import ObjectStore


def store_time(store: ObjectStore, tenant_id: str) -> float:
    folder = layout.clock(tenant_id)
    name = f"{folder}{secrets.token_hex(8)}"
    store.put(name, b"")
    try:
        return next(stored.modified_s for stored in store.list(folder) if stored.name == name)
    finally:
        store.delete(name)
