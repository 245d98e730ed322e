"""The ConfigSpecs that make a VM anew, or bring one back, from what `vsphere.config` keeps."""

from collections.abc import Iterable, Sequence
from typing import Any

from pyVmomi import vim

from backups.errors import RecoveryRefused
from backups.platform import Disk, VmConfig
from vsphere.config import OPTIONS, SCALARS, allocation_info
from vsphere.networks import Card

device = vim.vm.device
Change = vim.vm.device.VirtualDeviceSpec


def scalars(config: VmConfig) -> Any:
    settings = config.settings
    known = {field: settings.get(name) for name, (_, field) in SCALARS.items() if settings.get(name) is not None}
    return vim.vm.ConfigSpec(
        **known,
        bootOptions=vim.vm.BootOptions(efiSecureBootEnabled=bool(settings.get("secure_boot"))),
        cpuAllocation=allocation_info(settings.get("cpu")),
        memoryAllocation=allocation_info(settings.get("memory")),
        extraConfig=[option(key, value) for key, value in settings.get("options", {}).items() if key in OPTIONS],
    )


def option(key: str, value: str) -> Any:
    """An empty value takes the option away."""
    return vim.option.OptionValue(key=key, value=value)


def controllers(kept: Iterable[dict[str, Any]]) -> list[Any]:
    return [_added(_controller(each)) for each in kept]


def _controller(kept: dict[str, Any]) -> Any:
    made = _of_kind(kept["kind"], device.VirtualController)(key=kept["key"], busNumber=kept["bus"])
    if kept.get("sharing"):
        made.sharedBus = kept["sharing"]
    return made


def disks(config: VmConfig, wanted: Iterable[Disk], datastore: str) -> list[Any]:
    """New files on `datastore`, named by vSphere."""
    placed = {each["key"]: each for each in config.settings.get("disks", ())}
    return [_added(_disk(each, placed.get(each.key), datastore), "create") for each in wanted]


def _disk(disk: Disk, placed: dict[str, Any] | None, datastore: str) -> Any:
    if placed is None:
        raise RecoveryRefused(f"The archive does not say to which controller {disk.label} belongs.")
    backing = device.VirtualDisk.FlatVer2BackingInfo(
        fileName=f"[{datastore}]", diskMode=placed["mode"], thinProvisioned=placed["thin"]
    )
    return device.VirtualDisk(
        key=disk.key,
        controllerKey=placed["controller"],
        unitNumber=placed["unit"],
        capacityInBytes=disk.capacity_bytes,
        capacityInKB=disk.capacity_bytes // 1024,
        backing=backing,
    )


def cards(
    kept: Iterable[dict[str, Any]], available: dict[str, Any], addresses: Sequence[dict[str, Any]] = ()
) -> list[Any]:
    """Cards whose network does not exist at the target are left out. `addresses`: one a card, if they are kept."""
    made = []
    for number, each in enumerate(kept):
        if each["network"] in available:
            card = _card(each, -1 - number, available[each["network"]])
            if number < len(addresses):
                card.macAddress = addresses[number]["mac"]
                card.addressType = ADDRESS_KINDS.get(addresses[number]["kind"], "manual")
            made.append(_added(card))
    return made


ADDRESS_KINDS = {"assigned": "assigned"}
"""An address that a host has generated can be given to another VM only as one typed in by hand."""


def _card(kept: dict[str, Any], key: int, backing: Any) -> Any:
    connectable = device.VirtualDevice.ConnectInfo(
        startConnected=kept["start_connected"], connected=False, allowGuestControl=True
    )
    return _of_kind(kept["kind"], Card)(key=key, backing=backing, connectable=connectable, addressType="generated")


def _of_kind(name: str, base: type) -> Any:
    kind = getattr(device, name, None)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise RecoveryRefused(f"The archive names a device this version does not know: {name}.")
    return kind


def removed(each: Any) -> Any:
    """Files of a disk that is taken away stay on the datastore."""
    return Change(operation="remove", device=each)


def edited(each: Any) -> Any:
    return Change(operation="edit", device=each)


def _added(each: Any, file_operation: str | None = None) -> Any:
    return Change(operation="add", device=each, fileOperation=file_operation)
