"""Everything that is there: vSphere's objects, reduced to what the inventory is made of as they come, and the inventory
made of them."""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from pyVmomi import vim

from backups.platform import Datastore, Disk, Host, Inventory, VApp, Vm
from vsphere import tags
from vsphere.properties import Found, read_all
from vsphere.session import Session

DEVICES = "config.hardware.device"
VM_PATHS = (
    "name",
    "config.instanceUuid",
    "config.template",
    "config.changeTrackingEnabled",
    "config.files.vmPathName",
    DEVICES,
    "runtime.host",
    "runtime.powerState",
    "parent",
    "parentVApp",
    "resourcePool",
    "network",
)
DATASTORE_PATHS = ("summary.name", "summary.capacity", "summary.freeSpace", "summary.accessible")
PATHS: dict[type, tuple[str, ...]] = {
    vim.VirtualMachine: VM_PATHS,
    vim.VirtualApp: ("name", "parentVApp", "parent", "parentFolder"),
    vim.ResourcePool: ("name", "parent"),
    vim.HostSystem: ("name", "parent", "network"),
    vim.Network: ("name",),
    vim.ComputeResource: ("name", "parent", "resourcePool"),
    vim.Folder: ("name", "parent"),
    vim.Datacenter: ("name", "parent"),
    vim.Datastore: DATASTORE_PATHS,
}
Tags = Mapping[str, tuple[str, ...]]
"""By the ref of the object that carries them."""


def read(session: Session) -> Inventory:
    mirror = Mirror(session.content.about.instanceUuid)
    for found in read_all(session, PATHS, compact):
        mirror.take(found)
    return mirror.inventory(tags.read(session))


def compact(found: Found) -> Found:
    """A VM's devices are most of what vCenter sends, and only its disks are wanted."""
    if DEVICES in found.values:
        found.values[DEVICES] = tuple(disk_of(device) for device in disks_of(found.values[DEVICES]))
    return found


class Mirror:
    """What vCenter has told of each object, by ref."""

    def __init__(self, instance_uuid: str) -> None:
        self.instance_uuid = instance_uuid
        self._objects: dict[str, Found] = {}

    def take(self, found: Found) -> None:
        """Changed properties are merged; None takes one away."""
        known = self._objects.get(found.ref)
        values = (known.values if known else {}) | found.values
        kept = {name: value for name, value in values.items() if value is not None}
        self._objects[found.ref] = Found(found.kind, found.ref, kept)

    def drop(self, ref: str) -> None:
        self._objects.pop(ref, None)

    def inventory(self, tagged: Tags) -> Inventory:
        return _Reading(self._objects, tagged).inventory(self.instance_uuid)


class _Reading:
    """The inventory that the objects make; paths are put together once."""

    def __init__(self, objects: Mapping[str, Found], tagged: Tags) -> None:
        self._objects, self._tagged = objects, tagged
        self._paths: dict[str, str] = {}

    def inventory(self, instance_uuid: str) -> Inventory:
        vms = [self._vm(each) for each in self._of(vim.VirtualMachine) if each.values.get("config.instanceUuid")]
        return Inventory(
            instance_uuid=instance_uuid,
            vapps=tuple(self._vapp(each) for each in self._of(vim.VirtualApp)),
            vms=tuple(vm for vm in vms if not vm.template),
            hosts=tuple(self._host(each) for each in self._of(vim.HostSystem)),
            datastores=tuple(
                datastore_of(each.ref, each.values) for each in self._of(vim.Datastore) if is_usable_datastore(each)
            ),
            templates=tuple(vm for vm in vms if vm.template),
        )

    def _of(self, kind: type) -> Iterable[Found]:
        return (each for each in self._objects.values() if issubclass(each.kind, kind))

    def _vm(self, found: Found) -> Vm:
        """One that is being made, or whose files cannot be reached, has no identity yet and is left out before."""
        values = found.values
        vapp_ref = _vapp_ref(values)
        return Vm(
            ref=found.ref,
            uuid=values["config.instanceUuid"],
            name=plain_name(values["name"]),
            vapp_ref=vapp_ref,
            host=self._name(_ref(values.get("runtime.host"))),
            datastore=split_path(values.get("config.files.vmPathName", ""))[0],
            powered_on=values.get("runtime.powerState") == "poweredOn",
            change_tracking=bool(values.get("config.changeTrackingEnabled")),
            disks=values.get(DEVICES, ()),
            folder=self._folder(_ref(values.get("parent")), vapp_ref),
            pool=self._path(_ref(values.get("resourcePool"))),
            tags=self._tagged.get(found.ref, ()),
            template=bool(values.get("config.template")),
            networks=self._networks(values),
        )

    def _vapp(self, found: Found) -> VApp:
        parent_ref = _vapp_ref(found.values)
        return VApp(
            ref=found.ref,
            name=plain_name(found.values["name"]),
            parent_ref=parent_ref,
            folder=self._folder(_ref(found.values.get("parentFolder")), parent_ref),
            pool=self._path(found.ref),
            tags=self._tagged.get(found.ref, ()),
        )

    def _host(self, found: Found) -> Host:
        cluster = self._objects.get(_ref(found.values.get("parent")))
        pool_ref = _ref(cluster.values.get("resourcePool")) if cluster else ""
        name, networks = plain_name(found.values["name"]), self._networks(found.values)
        return Host(ref=found.ref, name=name, pool_ref=pool_ref, networks=networks)

    def _networks(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """By the names that archives know them by, which stay escaped."""
        seen = (self._objects.get(_ref(each)) for each in values.get("network", ()))
        return tuple(sorted({each.values["name"] for each in seen if each}))

    def _folder(self, folder_ref: str, vapp_ref: str | None) -> str:
        """What lies in a vApp has no folder of its own; the outermost vApp has one."""
        vapp = self._objects.get(vapp_ref or "")
        if folder_ref or vapp is None:
            return self._path(folder_ref)
        return self._folder(_ref(vapp.values.get("parentFolder")), _vapp_ref(vapp.values))

    def _path(self, ref: str) -> str:
        """As vSphere writes it, without the root folder; names stay escaped in it."""
        found = self._objects.get(ref)
        if found is None:
            return ""  # the root folder, or what the account may not see
        if ref not in self._paths:
            self._paths[ref] = f"{self._path(_ref(found.values.get('parent')))}/{found.values['name']}"
        return self._paths[ref]

    def _name(self, ref: str) -> str:
        found = self._objects.get(ref)
        return plain_name(found.values["name"]) if found else ""


def disk_of(device: Any) -> Disk:
    path = getattr(device.backing, "fileName", "")
    return Disk(
        key=device.key,
        label=device.deviceInfo.label if device.deviceInfo else f"Disk {device.key}",
        capacity_bytes=device.capacityInBytes or device.capacityInKB * 1024,
        datastore=split_path(path)[0],
        path=path,
    )


def disks_of(devices: Any) -> list[Any]:
    return [device for device in devices or () if isinstance(device, vim.vm.device.VirtualDisk)]


def plain_name(name: str) -> str:
    """vSphere escapes `%`, `/` and `\\` in names."""
    return unquote(name)


def split_path(path: str) -> tuple[str, str]:
    """`[store] dir/file` into datastore and path."""
    match = re.fullmatch(r"\[(.*?)\] ?(.*)", path)
    return (match[1], match[2]) if match else ("", path)


def _vapp_ref(values: dict[str, Any]) -> str | None:
    """Some servers set only one of the two."""
    candidates = (values.get("parentVApp"), values.get("resourcePool"), values.get("parent"))
    return next((each._moId for each in candidates if isinstance(each, vim.VirtualApp)), None)


def is_usable_datastore(found: Found) -> bool:
    return issubclass(found.kind, vim.Datastore) and found.values.get("summary.accessible", True)


def datastore_of(ref: str, values: dict[str, Any]) -> Datastore:
    return Datastore(
        ref=ref,
        name=plain_name(values["summary.name"]),
        capacity_bytes=values["summary.capacity"],
        free_bytes=values["summary.freeSpace"],
    )


def _ref(managed_object: Any) -> str:
    return managed_object._moId if managed_object is not None else ""
