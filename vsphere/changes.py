"""Changed areas of a disk, from vSphere's change tracking; or the reason why it cannot be trusted."""

from collections.abc import Iterator
from typing import Any

from pyVmomi import vim, vmodl

from backups.errors import ChangeTrackingUnusable
from backups.platform import Area, Disk, Snapshot
from vsphere.faults import translated
from vsphere.session import Session
from vsphere.snapshots import snapshot_disks

ALLOCATED = "*"


def changed_areas(session: Session, snapshot: Snapshot, disk: Disk, since: str | None) -> Iterator[Area]:
    """Ascending, merged, inside the disk; each slice is asked for when it is needed."""
    now = next((d.change_id for d in snapshot_disks(session, snapshot) if d.disk.key == disk.key), None)
    _refuse_untracked(now, since)
    return _merged(_slices(session, snapshot, disk, since or ALLOCATED), disk.capacity_bytes)


def _refuse_untracked(now: str | None, since: str | None) -> None:
    """Without a change id at the snapshot, tracking was not on before it, and even `*` would leave data out."""
    if now is None:
        raise ChangeTrackingUnusable("Change tracking was not on yet when the snapshot was taken.")
    if since is not None and _generation(since) != _generation(now):
        raise ChangeTrackingUnusable("Change tracking was reset since the last archive.")


def _generation(change_id: str) -> str:
    """`<uuid>/<number>`: the uuid changes when tracking starts anew."""
    return change_id.partition("/")[0]


def _slices(session: Session, snapshot: Snapshot, disk: Disk, change_id: str) -> Iterator[Area]:
    """An answer covers a slice of the disk and at most about 2,000 areas: go on from its end until the disk's."""
    at = 0
    while at < disk.capacity_bytes:
        answer = _query(session, snapshot, disk, change_id, at)
        end = answer.startOffset + answer.length
        if end <= at:
            raise ChangeTrackingUnusable(f"vCenter's account of what changed stops at byte {at} of {disk.label}.")
        for area in sorted(answer.changedArea or (), key=lambda each: each.start):
            yield Area(start=area.start, length=area.length)
        at = end


def _query(session: Session, snapshot: Snapshot, disk: Disk, change_id: str, at: int) -> Any:
    try:
        return session.call(
            lambda stub: vim.VirtualMachine(snapshot.vm_ref, stub).QueryChangedDiskAreas(
                vim.vm.Snapshot(snapshot.ref, stub), disk.key, at, change_id
            )
        )
    except (vmodl.fault.ManagedObjectNotFound, vim.fault.NotAuthenticated, vmodl.fault.HostCommunication) as fault:
        raise translated(fault) from fault
    except vmodl.MethodFault as fault:
        raise _unusable(fault, disk) from fault


def _unusable(fault: Exception, disk: Disk) -> ChangeTrackingUnusable:
    """A changeId that vCenter does not know comes as a FileFault or an InvalidArgument: the disk was reverted, restored
    or powered off uncleanly, or lies where changes are not tracked."""
    if isinstance(fault, vim.fault.FileFault | vmodl.fault.InvalidArgument):
        reason = f"Change tracking does not know the state of {disk.label} at the last archive any more."
    elif isinstance(fault, vim.fault.NoPermission):
        reason = "The backup lacks the right to ask what changed."
    else:
        reason = f"Change tracking gave no answer for {disk.label}."
    said = translated(fault).provider_message
    return ChangeTrackingUnusable(reason, provider=f"vCenter cannot say what changed on {disk.label}: {said}")


def _merged(areas: Iterator[Area], capacity_bytes: int) -> Iterator[Area]:
    """Rests on ascending starts within a slice and between slices."""
    start = end = 0
    for area in areas:
        area_end = min(area.end, capacity_bytes)
        if area.start > end:
            if end > start:
                yield Area(start=start, length=end - start)
            start, end = area.start, area_end
        else:
            end = max(end, area_end)
    if end > start:
        yield Area(start=start, length=end - start)
