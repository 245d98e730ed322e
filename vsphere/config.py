"""A VM's configuration as JSON and back. Only what is listed here is kept: hardware that was chosen, not what vSphere
adds by itself, and nothing that depends on where the VM lies. What else there is is named, so that nobody misses it
unawares; addresses are kept apart, so that a recovered VM can run beside its original."""

from dataclasses import replace
from typing import Any

from pyVmomi import vim, vmodl

from backups.errors import NotFound
from backups.platform import Snapshot, VmConfig
from vsphere import networks
from vsphere.inventory import disk_of, disks_of, plain_name
from vsphere.properties import read
from vsphere.session import Session

device = vim.vm.device
CONTROLLERS = (device.VirtualSCSIController, device.VirtualAHCIController, device.VirtualNVMEController)

ADDED_BY_VSPHERE = (
    device.VirtualPCIController,
    device.VirtualIDEController,
    device.VirtualPS2Controller,
    device.VirtualSIOController,
    device.VirtualKeyboard,
    device.VirtualPointingDevice,
    device.VirtualVideoCard,
    device.VirtualVMCIDevice,
)

SCALARS = {
    "hardware_version": ("version", "version"),
    "guest_id": ("guestId", "guestId"),
    "firmware": ("firmware", "firmware"),
    "annotation": ("annotation", "annotation"),
    "cpus": ("hardware.numCPU", "numCPUs"),
    "cores_per_socket": ("hardware.numCoresPerSocket", "numCoresPerSocket"),
    "memory_mb": ("hardware.memoryMB", "memoryMB"),
    "cpu_hot_add": ("cpuHotAddEnabled", "cpuHotAddEnabled"),
    "memory_hot_add": ("memoryHotAddEnabled", "memoryHotAddEnabled"),
    "nested_hypervisor": ("nestedHVEnabled", "nestedHVEnabled"),
}
"""Our name to the path in ConfigInfo and the field of ConfigSpec."""

OPTIONS = frozenset(
    {
        "disk.EnableUUID",
        "hypervisor.cpuid.v0",
        "isolation.tools.copy.disable",
        "isolation.tools.paste.disable",
        "guestinfo.metadata",
        "guestinfo.metadata.encoding",
        "guestinfo.userdata",
        "guestinfo.userdata.encoding",
    }
)
PATHS = (
    "name",
    "instanceUuid",
    "uuid",
    "bootOptions",
    "cpuAllocation",
    "memoryAllocation",
    "extraConfig",
    "hardware.device",
    *(path for path, _ in SCALARS.values()),
)


KEPT = (*CONTROLLERS, *ADDED_BY_VSPHERE, device.VirtualDisk, networks.Card)


def describe(session: Session, vm_ref: str, snapshot: Snapshot | None) -> VmConfig:
    kind, ref = (vim.vm.Snapshot, snapshot.ref) if snapshot else (vim.VirtualMachine, vm_ref)
    try:
        found = read(session, kind, ref, *(f"config.{path}" for path in PATHS))
    except vmodl.fault.ManagedObjectNotFound as fault:
        raise NotFound("This VM or snapshot is no longer in vCenter.") from fault
    values = {path.removeprefix("config."): value for path, value in found.items()}
    if "instanceUuid" not in values:
        raise NotFound("vCenter cannot read this VM's configuration; look at its files and its host.")
    return VmConfig(
        name=plain_name(values["name"]),
        uuid=values["instanceUuid"],
        settings=_settings(session, values),
        disks=tuple(replace(disk_of(d), datastore="", path="") for d in disks_of(values["hardware.device"])),
        identity=_identity(values),
        left_out=tuple(_label(each) for each in values["hardware.device"] if not isinstance(each, KEPT)),
    )


def _identity(values: dict[str, Any]) -> dict[str, Any]:
    cards = [each for each in values["hardware.device"] if isinstance(each, networks.Card)]
    addresses = [{"kind": _plain(c.addressType), "mac": _plain(c.macAddress)} for c in cards]
    return {"bios_uuid": _plain(values.get("uuid")), "addresses": addresses}


def _label(each: Any) -> str:
    return str(each.deviceInfo.label) if each.deviceInfo else _kind(each)


def _settings(session: Session, values: dict[str, Any]) -> dict[str, Any]:
    devices = values["hardware.device"]
    boot = values.get("bootOptions")
    return {
        **{name: _plain(values.get(path)) for name, (path, _) in SCALARS.items()},
        "secure_boot": bool(boot and boot.efiSecureBootEnabled),
        "cpu": allocation(values.get("cpuAllocation")),
        "memory": allocation(values.get("memoryAllocation")),
        "controllers": [_controller(each) for each in devices if isinstance(each, CONTROLLERS)],
        "disks": [_disk(each) for each in disks_of(devices)],
        "networks": [card(session, each) for each in devices if isinstance(each, networks.Card)],
        "options": {o.key: str(o.value) for o in values.get("extraConfig") or () if o.key in OPTIONS},
    }


def _plain(value: Any) -> Any:
    """pyVmomi's numbers, strings and enums are subclasses of Python's; JSON gives back Python's."""
    for kind in (bool, int, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def allocation(info: Any) -> dict[str, Any] | None:
    """The number of shares follows from the level unless that is `custom`."""
    if info is None:
        return None
    level = str(info.shares.level) if info.shares else "normal"
    return {
        "reservation": int(info.reservation or 0),
        "limit": int(info.limit) if info.limit is not None else -1,
        "level": level,
        "shares": int(info.shares.shares) if level == "custom" else None,
    }


def allocation_info(kept: dict[str, Any] | None) -> Any:
    if kept is None:
        return None
    shares = vim.SharesInfo(level=kept["level"], shares=kept["shares"] or 0)
    return vim.ResourceAllocationInfo(reservation=kept["reservation"], limit=kept["limit"], shares=shares)


def _kind(each: Any) -> str:
    return type(each).__name__.rpartition(".")[2]


def _controller(each: Any) -> dict[str, Any]:
    sharing = getattr(each, "sharedBus", None)
    return {
        "kind": _kind(each),
        "key": int(each.key),
        "bus": int(each.busNumber),
        "sharing": str(sharing) if sharing else None,
    }


def _disk(each: Any) -> dict[str, Any]:
    return {
        "key": int(each.key),
        "controller": int(each.controllerKey),
        "unit": int(each.unitNumber or 0),
        "mode": str(getattr(each.backing, "diskMode", "persistent")),
        "thin": bool(getattr(each.backing, "thinProvisioned", None)),
    }


def card(session: Session, each: Any) -> dict[str, Any]:
    connected = each.connectable.startConnected if each.connectable else True
    return {"kind": _kind(each), "network": networks.name_of(session, each), "start_connected": bool(connected)}
