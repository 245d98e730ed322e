"""Steps 2 to 4 of a run, on one platform: measure, switch change tracking on, snapshot all at one common time."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from backups.errors import HotfirstError, NotFound, PermissionMissing, PlatformError
from backups.platform import Load, Platform, Quiesce, Snapshot, SnapshotOrder

log = logging.getLogger(__name__)
AT_ONCE = 8


def measure(platform: Platform, vm_refs: Sequence[str], window_s: int) -> dict[str, Load]:
    """A load for every ref asked for. Counters that cannot be had are no reason not to back up: the loads are
    then zero, without samples, and the caller falls back on history."""
    try:
        return platform.load(vm_refs, window_s)
    except PermissionMissing as error:
        log.warning("no load counters: %s", error)
        return {ref: Load() for ref in vm_refs}


def snapshot_all(
    platform: Platform, orders: Sequence[SnapshotOrder], quiesce: Quiesce, at: datetime | None = None
) -> dict[str, Snapshot | HotfirstError]:
    """By VM ref; all at the common time `at` (None: now). One VM's failure is that VM's alone; only trouble with the
    platform as a whole is raised."""
    results = platform.create_snapshots(orders, at=at, quiesce=quiesce)
    return {ref: _expected(result) for ref, result in results.items()}


def _expected(result: Snapshot | Exception) -> Snapshot | HotfirstError:
    if isinstance(result, Snapshot | HotfirstError):
        return result
    raise result


def track_changes(platform: Platform, vm_refs: Sequence[str]) -> None:
    """Before the snapshots, and not between them: each is a task of vCenter's own."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda vm_ref: _track_changes(platform, vm_ref), vm_refs))


def _track_changes(platform: Platform, vm_ref: str) -> None:
    """Where it cannot be had the archive is a full one, and says so."""
    try:
        platform.enable_change_tracking(vm_ref)
    except NotFound:
        log.info("%s is gone; its snapshot will say so", vm_ref)
    except PlatformError as error:
        log.warning("change tracking of %s: %s", vm_ref, error)
