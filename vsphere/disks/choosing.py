"""By which way a disk is read: the first that works, tried in the order of what it costs, with the reason why the
cheaper ones did not."""

from collections.abc import Callable
from typing import Any

from pyVmomi import vim

from backups.errors import DiskUnreadable, NotFound, PermissionMissing
from backups.platform import Disk, DiskReader, Snapshot
from vsphere.disks import nbd_reader
from vsphere.disks.datastore import DatastoreReader
from vsphere.disks.folder import FolderClient
from vsphere.disks.nfc import Export, NfcReader
from vsphere.disks.places import INDEPENDENT, disk_device, flat_file, idle_disk
from vsphere.faults import translating
from vsphere.inventory import disk_of
from vsphere.properties import read
from vsphere.session import Session

Way = Callable[[str], DiskReader]
"""Opens the disk and proves that it can be read; told why no cheaper way did."""
RANGES = "the datastore answers ranges"


def open_snapshot_disk(session: Session, folder: FolderClient, snapshot: Snapshot, disk: Disk) -> DiskReader:
    """Raises DiskUnreadable, NotFound."""
    hardware = read(session, vim.vm.Snapshot, snapshot.ref, "config.hardware.device")["config.hardware.device"]
    device = disk_device(hardware, disk.key)
    if device.backing.diskMode in INDEPENDENT:
        raise DiskUnreadable(f"{disk.label} is independent, so no snapshot covers it; make it dependent in vCenter.")

    def over_datastore(_why: str) -> DiskReader:
        if getattr(device.backing, "parent", None) is not None:
            raise DiskUnreadable("older snapshots lie below the backup's, so its file alone is not its state")
        return _datastore_reader(session, folder, device, f"no older snapshot lies below, and {RANGES}")

    def over_nfc(why: str) -> DiskReader:
        return _exported(
            session, lambda stub: vim.vm.Snapshot(snapshot.ref, stub).ExportSnapshot(), hardware, device, why
        )

    ways: list[tuple[str, Way]] = [("datastore", over_datastore), ("nfc", over_nfc)]
    if pattern := nbd_reader.template():
        ways.insert(1, ("nbd", lambda why: nbd_reader.open_disk(pattern, snapshot, disk_of(device), why)))
    return _first_that_works(ways)


def open_current_disk(session: Session, folder: FolderClient, vm_ref: str, disk_key: int) -> DiskReader:
    """Of a VM that is powered off. Raises RecoveryRefused, DiskUnreadable, NotFound."""
    device = idle_disk(session, vm_ref, disk_key)

    def over_datastore(_why: str) -> DiskReader:
        if getattr(device.backing, "parent", None) is not None:
            raise DiskUnreadable("the disk lies on another, so its file alone is not its state")
        return _datastore_reader(session, folder, device, f"the VM is powered off, and {RANGES}")

    def over_nfc(why: str) -> DiskReader:
        hardware = read(session, vim.VirtualMachine, vm_ref, "config.hardware.device")["config.hardware.device"]
        return _exported(session, lambda stub: vim.VirtualMachine(vm_ref, stub).ExportVm(), hardware, device, why)

    return _first_that_works([("datastore", over_datastore), ("nfc", over_nfc)])


def _first_that_works(ways: list[tuple[str, Way]]) -> DiskReader:
    why: list[str] = []
    for name, way in ways:
        try:
            with translating():
                return way("; ".join(why))
        except (DiskUnreadable, PermissionMissing, NotFound) as error:
            why.append(f"not {name}: {str(error).rstrip('.')}")
            last = error
    raise DiskUnreadable(f"The disk can be read in no way ({'; '.join(why)}).") from last


def _datastore_reader(session: Session, folder: FolderClient, device: Any, reason: str) -> DiskReader:
    reader = DatastoreReader(folder, flat_file(session, device), disk_of(device).capacity_bytes)
    reader.probe(reason)
    return reader


def _exported(session: Session, request: Callable[[Any], Any], hardware: Any, device: Any, why: str) -> DiskReader:
    size = disk_of(device).capacity_bytes
    return NfcReader(lambda: Export(session, request, hardware, device.key, size), size, why)
