"""An archive that is locked until a date is not deleted before it, by nobody and for no reason. A lock is an empty
object whose name says it all, and the latest date counts: so a lock can be prolonged and never shortened. FORMAT.md,
section 9."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from math import ceil

from backups.archive import layout
from backups.archive.clock import store_time
from backups.archive.store import ObjectStore
from backups.errors import ArchiveMissing, Conflict, InvalidRequest


def lock(store: ObjectStore, tenant_id: str, archive_id: str, until: datetime) -> None:
    """Raises ArchiveMissing; InvalidRequest for a time without zone, or one that is over."""
    if until.tzinfo is None or until.timestamp() <= store_time(store, tenant_id):
        raise InvalidRequest("An archive is locked until a time to come, given with its time zone.")
    with suppress(Conflict):
        store.put(f"{layout.archive_locks(tenant_id, archive_id)}{ceil(until.timestamp())}", b"")
    # Looked at afterwards: if it exists now, whoever deletes it from now on sees the lock.
    if not store.exists(layout.archive(tenant_id, archive_id)):
        raise ArchiveMissing(f"Archive {archive_id} is not in the repository, so it cannot be locked.")


def locked_until(store: ObjectStore, tenant_id: str, archive_id: str) -> datetime | None:
    """None if there is no lock, or if it is over."""
    times = [until_s for _, _, until_s in _locks(store, layout.archive_locks(tenant_id, archive_id))]
    if not times or max(times) <= store_time(store, tenant_id):
        return None
    return datetime.fromtimestamp(max(times), UTC)


def locked(store: ObjectStore, tenant_id: str, now_s: float) -> set[str]:
    """The archives under a lock at that time of the store."""
    return {archive for _, archive, until_s in _locks(store, layout.locks(tenant_id)) if until_s > now_s}


def forget_expired(store: ObjectStore, tenant_id: str, now_s: float) -> None:
    for name, _, until_s in list(_locks(store, layout.locks(tenant_id))):
        if until_s <= now_s:
            store.delete(name)


def copy(source: ObjectStore, target: ObjectStore, tenant_id: str, archive_id: str) -> None:
    for name, _, _ in _locks(source, layout.archive_locks(tenant_id, archive_id)):
        with suppress(Conflict):
            target.put(name, b"")


def _locks(store: ObjectStore, prefix: str) -> Iterator[tuple[str, str, int]]:
    for stored in list(store.list(prefix)):
        *_, archive_id, until_s = stored.name.split("/")
        if until_s.isdecimal():
            yield stored.name, archive_id, int(until_s)
