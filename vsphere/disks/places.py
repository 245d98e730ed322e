"""Which device a disk is, and where its bytes lie: its base's flat file, on which datastore, in which datacenter."""

from collections.abc import Iterable
from typing import Any

from pyVmomi import vim

from backups.errors import DiskUnreadable, NotFound, RecoveryRefused
from vsphere.disks.folder import File
from vsphere.inventory import disks_of, split_path
from vsphere.properties import read
from vsphere.session import Session

INDEPENDENT = ("independent_persistent", "independent_nonpersistent")


def disk_device(hardware: Iterable[Any], disk_key: int) -> Any:
    """Raises NotFound."""
    device = next((each for each in disks_of(hardware) if each.key == disk_key), None)
    if device is None:
        raise NotFound(f"The VM has no disk {disk_key} any more.")
    return device


def idle_disk(session: Session, vm_ref: str, disk_key: int) -> Any:
    """Raises RecoveryRefused unless the disk's base is its state and nobody writes to it."""
    values = read(
        session, vim.VirtualMachine, vm_ref, "name", "runtime.powerState", "snapshot", "config.hardware.device"
    )
    if values["runtime.powerState"] != "poweredOff":
        raise RecoveryRefused(f"{values['name']} is powered on; power it off first.")
    if values.get("snapshot") is not None:
        raise RecoveryRefused(f"{values['name']} has snapshots; remove them first.")
    return disk_device(values.get("config.hardware.device") or (), disk_key)


def flat_file(session: Session, device: Any) -> File:
    """Raises DiskUnreadable for disks that have no flat file."""
    backing: Any = device.backing
    if not isinstance(device.backing, vim.vm.device.VirtualDisk.FlatVer2BackingInfo):
        label = device.deviceInfo.label
        raise DiskUnreadable(f"{label} is a raw device or of an old format, which cannot be read; convert it first.")
    datastore, path = split_path(backing.fileName)
    return File(datacenter_path(session, backing.datastore._moId), datastore, path.removesuffix(".vmdk") + "-flat.vmdk")


def datacenter_path(session: Session, datastore_ref: str) -> str:
    """Datastore names are unique within a datacenter only. `dcPath` is its inventory path below the root folder."""
    names: list[str] = []
    kind: type = vim.Datastore
    ref = datastore_ref
    while True:
        values = read(session, kind, ref, "name", "parent")
        parent = values.get("parent")
        if parent is None:
            return "/".join(reversed(names))
        if kind is vim.Datacenter or names:
            names.append(values["name"])
        kind, ref = type(parent), parent._moId
