"""Changed areas of a disk, from vSphere's change tracking; or the reason why it cannot be trusted."""

from collections.abc import Iterator
from typing import Any

from pyVmomi import vim, vmodl

from backups.errors import ChangeTrackingUnusable
from backups.platform import Area, Disk, Snapshot
from vsphere.faults import translated
from vsphere.inventory import disk_of, disks_of
from vsphere.properties import read
from vsphere.session import Session
from vsphere.snapshots import snapshot_disks
from vsphere.tasks import wait

ALLOCATED = "*"
SWITCH_TIMEOUT_S = 600


def changed_areas(session: Session, snapshot: Snapshot, disk: Disk, since: str | None) -> Iterator[Area]:
    """Ascending, merged, inside the disk; each slice is asked for when it is needed."""
    now = next((d.change_id for d in snapshot_disks(session, snapshot) if d.disk.key == disk.key), None)
    _refuse_untracked(now, since)
    return _merged(_slices(session, snapshot.vm_ref, snapshot.ref, disk, since or ALLOCATED), disk.capacity_bytes)


def changed_since(session: Session, vm_ref: str, disk_key: int, since: str) -> Iterator[Area]:
    """Up to now, of a VM that is powered off."""
    devices = read(session, vim.VirtualMachine, vm_ref, "config.hardware.device").get("config.hardware.device")
    device = next((each for each in disks_of(devices) if each.key == disk_key), None)
    if device is None:
        raise ChangeTrackingUnusable("The VM has no such disk any more.")
    _refuse_untracked(getattr(device.backing, "changeId", None) or None, since)
    disk = disk_of(device)
    return _merged(_slices(session, vm_ref, None, disk, since), disk.capacity_bytes)


def switch_tracking(session: Session, vm_ref: str, on: bool) -> None:
    """Switched off and on again it begins anew, and says so by its change ids."""
    spec = vim.vm.ConfigSpec(changeTrackingEnabled=on)
    task = session.call(lambda stub: vim.VirtualMachine(vm_ref, stub).ReconfigVM_Task(spec))
    wait(session, task, SWITCH_TIMEOUT_S)


def _refuse_untracked(now: str | None, since: str | None) -> None:
    """Without a change id at the snapshot, tracking was not on before it, and even `*` would leave data out."""
    if now is None:
        raise ChangeTrackingUnusable("Change tracking was not on yet when the snapshot was taken.")
    if since is not None and _generation(since) != _generation(now):
        raise ChangeTrackingUnusable("Change tracking was reset since the last archive.")


def _generation(change_id: str) -> str:
    """`<uuid>/<number>`: the uuid changes when tracking starts anew."""
    return change_id.partition("/")[0]


def _slices(session: Session, vm_ref: str, snapshot_ref: str | None, disk: Disk, change_id: str) -> Iterator[Area]:
    """An answer covers a slice of the disk and at most about 2,000 areas: go on from its end until the disk's."""
    at = 0
    while at < disk.capacity_bytes:
        answer = _query(session, vm_ref, snapshot_ref, disk, change_id, at)
        end = answer.startOffset + answer.length
        if end <= at or answer.startOffset > at:
            raise ChangeTrackingUnusable(f"vCenter's account of what changed stops at byte {at} of {disk.label}.")
        for area in sorted(answer.changedArea or (), key=lambda each: each.start):
            yield Area(start=area.start, length=area.length)
        at = end


def _query(session: Session, vm_ref: str, snapshot_ref: str | None, disk: Disk, change_id: str, at: int) -> Any:
    def request(stub: Any) -> Any:
        snapshot = vim.vm.Snapshot(snapshot_ref, stub) if snapshot_ref else None
        return vim.VirtualMachine(vm_ref, stub).QueryChangedDiskAreas(snapshot, disk.key, at, change_id)

    try:
        return session.call(request)
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
