"""Where a disk's bytes lie: the flat file of its base, on which datastore, in which datacenter."""

from typing import Any

from pyVmomi import vim

from backups.errors import DiskUnreadable
from vsphere.disks.folder import File
from vsphere.inventory import split_path
from vsphere.properties import read
from vsphere.session import Session

INDEPENDENT = ("independent_persistent", "independent_nonpersistent")


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
