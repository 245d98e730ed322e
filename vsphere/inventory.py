"""Everything that is there, read in one pass over leaf properties."""

import re
from typing import Any
from urllib.parse import unquote

from pyVmomi import vim

from backups.platform import Datastore, Disk, Host, Inventory, VApp, Vm
from vsphere.properties import Found, read_all
from vsphere.session import Session

VM_PATHS = (
    "name",
    "config.instanceUuid",
    "config.template",
    "config.changeTrackingEnabled",
    "config.files.vmPathName",
    "config.hardware.device",
    "runtime.host",
    "runtime.powerState",
    "parentVApp",
    "resourcePool",
)
DATASTORE_PATHS = ("summary.name", "summary.capacity", "summary.freeSpace", "summary.accessible")
PATHS: dict[type, tuple[str, ...]] = {
    vim.VirtualMachine: VM_PATHS,
    vim.VirtualApp: ("name", "parentVApp", "parent"),
    vim.HostSystem: ("name", "parent"),
    vim.ComputeResource: ("resourcePool",),
    vim.Datastore: DATASTORE_PATHS,
}


def read(session: Session) -> Inventory:
    found = read_all(session, PATHS)
    hosts = _hosts(found)
    host_names = {host.ref: host.name for host in hosts}
    return Inventory(
        instance_uuid=session.content.about.instanceUuid,
        vapps=tuple(_vapp(each) for each in found if issubclass(each.kind, vim.VirtualApp)),
        vms=tuple(_vm(each, host_names) for each in found if _is_vm(each)),
        hosts=hosts,
        datastores=tuple(datastore_of(each.ref, each.values) for each in found if is_usable_datastore(each)),
    )


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


def _is_vm(found: Found) -> bool:
    """A VM that is being made, or whose files cannot be reached, has no identity yet and is left out."""
    values = found.values
    return (
        issubclass(found.kind, vim.VirtualMachine)
        and bool(values.get("config.instanceUuid"))
        and not values.get("config.template")
    )


def _vm(found: Found, host_names: dict[str, str]) -> Vm:
    values = found.values
    return Vm(
        ref=found.ref,
        uuid=values["config.instanceUuid"],
        name=plain_name(values["name"]),
        vapp_ref=_vapp_ref(values),
        host=host_names.get(_ref(values.get("runtime.host")), ""),
        datastore=split_path(values.get("config.files.vmPathName", ""))[0],
        powered_on=values.get("runtime.powerState") == "poweredOn",
        change_tracking=bool(values.get("config.changeTrackingEnabled")),
        disks=tuple(disk_of(device) for device in disks_of(values.get("config.hardware.device"))),
    )


def _vapp_ref(values: dict[str, Any]) -> str | None:
    """Some servers set only one of the two."""
    candidates = (values.get("parentVApp"), values.get("resourcePool"), values.get("parent"))
    return next((each._moId for each in candidates if isinstance(each, vim.VirtualApp)), None)


def _vapp(found: Found) -> VApp:
    return VApp(ref=found.ref, name=plain_name(found.values["name"]), parent_ref=_vapp_ref(found.values))


def _hosts(found: list[Found]) -> tuple[Host, ...]:
    clusters = [each for each in found if issubclass(each.kind, vim.ComputeResource)]
    pools = {each.ref: _ref(each.values.get("resourcePool")) for each in clusters}
    return tuple(_host(each, pools) for each in found if issubclass(each.kind, vim.HostSystem))


def _host(found: Found, pools: dict[str, str]) -> Host:
    pool_ref = pools.get(_ref(found.values.get("parent")), "")
    return Host(ref=found.ref, name=plain_name(found.values["name"]), pool_ref=pool_ref)


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
