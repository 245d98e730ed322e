"""Virtual hardware: a VM's ConfigInfo, made and changed by ConfigSpecs."""

import copy
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pyVmomi import VmomiSupport, vim

from vsphere.lab import wire
from vsphere.lab.shelf import DiskShelf, split

device: Any = vim.vm.device
GUESTS = {"debian12_64Guest": "Debian GNU/Linux 12 (64-bit)", "ubuntu64Guest": "Ubuntu Linux (64-bit)"}
SCSI_RESERVED_UNIT = 7
FIRST_KEYS = (
    (device.VirtualPCIController, 100),
    (device.VirtualIDEController, 200),
    (device.VirtualVideoCard, 500),
    (device.VirtualSCSIController, 1000),
    (device.VirtualEthernetCard, 4000),
    (device.VirtualAHCIController, 15000),
    (device.VirtualNVMEController, 31000),
)
HANDLED_APART = {"name", "files", "extraConfig", "deviceChange", "vAppConfig", "repConfig", "instanceUuid"}


def _copied_fields() -> list[str]:
    info = {field.name: field.type for field in vim.vm.ConfigInfo._GetPropertyList()}
    spec = vim.vm.ConfigSpec._GetPropertyList()
    return [f.name for f in spec if info.get(f.name) is f.type and f.name not in HANDLED_APART]


COPIED = _copied_fields()


def disks(config: Any) -> list[Any]:
    return [found for found in config.hardware.device if isinstance(found, device.VirtualDisk)]


def new_config(name: str, home: str) -> Any:
    """`home` is the VM's folder, as `[datastore] folder`."""
    return wire.filled(
        vim.vm.ConfigInfo,
        name=name,
        uuid=str(uuid.uuid4()),
        instanceUuid=str(uuid.uuid4()),
        guestId="otherGuest64",
        version="vmx-19",
        firmware="bios",
        changeTrackingEnabled=False,
        createDate=wire.now(),
        files=vim.vm.FileInfo(vmPathName=f"{home}/{name}.vmx", snapshotDirectory=home + "/", logDirectory=home + "/"),
        bootOptions=vim.vm.BootOptions(bootDelay=0, efiSecureBootEnabled=False),
        hardware=vim.vm.VirtualHardware(
            numCPU=1,
            numCoresPerSocket=1,
            memoryMB=1024,
            device=[
                device.VirtualPCIController(key=100, busNumber=0),
                device.VirtualIDEController(key=200, busNumber=0),
                device.VirtualVideoCard(key=500, controllerKey=100, unitNumber=0, videoRamSizeInKB=4096),
            ],
        ),
    )


@dataclass
class Change:
    """A ConfigSpec applied to a copy of a ConfigInfo. Files are made at once, so that the caller can undo them; files
    to be deleted are left to the caller, who deletes them once the new config is safe."""

    config: Any
    shelf: DiskShelf
    home: str
    created: list[str] = field(default_factory=list)
    doomed: list[str] = field(default_factory=list)
    grown: list[tuple[str, int]] = field(default_factory=list)
    _keys: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Any, shelf: DiskShelf) -> "Change":
        home = config.files.vmPathName.rpartition("/")[0]
        return cls(copy.deepcopy(config), shelf, home)

    def apply(self, spec: Any) -> None:
        """Raises a vSphere fault, after which `undo` is due."""
        for name in COPIED:
            value = getattr(spec, name)
            if value is not None and not (isinstance(value, list) and not value):
                setattr(self.config, name, _merged(getattr(self.config, name), value))
        hardware = self.config.hardware
        hardware.numCPU = spec.numCPUs or hardware.numCPU
        hardware.numCoresPerSocket = spec.numCoresPerSocket or hardware.numCoresPerSocket
        hardware.memoryMB = int(spec.memoryMB or hardware.memoryMB)
        self.config.name = spec.name or self.config.name
        self.config.instanceUuid = spec.instanceUuid or self.config.instanceUuid
        self.config.guestFullName = GUESTS.get(self.config.guestId, self.config.guestId)
        self.config.modified = wire.now()
        self.config.changeVersion = self.config.modified.isoformat()
        self._options(spec.extraConfig)
        for change in spec.deviceChange:
            self._device(change)

    def undo(self) -> None:
        for file_name in self.created:
            self.shelf.delete(file_name)

    def _options(self, options: list[Any]) -> None:
        kept = {option.key: option for option in self.config.extraConfig}
        for option in options:
            if option.value == "":
                kept.pop(option.key, None)
            else:
                kept[option.key] = option
        self.config.extraConfig = list(kept.values())

    def _device(self, change: Any) -> None:
        if change.operation == "add":
            self._add(change.device, change.fileOperation)
            return
        devices = self.config.hardware.device
        index = next((i for i, found in enumerate(devices) if found.key == change.device.key), None)
        if index is None:
            raise vim.fault.InvalidDeviceSpec(
                deviceIndex=0, property="key", msg=f"There is no device {change.device.key}."
            )
        old = devices[index]
        if change.operation == "remove":
            del devices[index]
            if isinstance(old, device.VirtualDisk) and change.fileOperation == "destroy":
                self.doomed.append(old.backing.fileName)
        else:
            devices[index] = self._edited(old, change.device)

    def _edited(self, old: Any, new: Any) -> Any:
        if isinstance(old, device.VirtualDisk):
            capacity_bytes = _capacity_bytes(new)
            if capacity_bytes and capacity_bytes != _capacity_bytes(old):
                self.grown.append((old.backing.fileName, capacity_bytes))
                old.capacityInBytes, old.capacityInKB = capacity_bytes, capacity_bytes // 1024
            return old
        return _merged(old, new)

    def _add(self, new: Any, file_operation: str | None) -> None:
        asked_key = new.key
        new.controllerKey = self._keys.get(new.controllerKey, new.controllerKey)
        self._place(new)
        if isinstance(new, device.VirtualDisk):
            self._add_disk(new, file_operation)
        elif isinstance(new, device.VirtualEthernetCard):
            self._add_card(new)
        self._keys[asked_key] = new.key
        self.config.hardware.device.append(new)

    def _place(self, new: Any) -> None:
        """Keys and units as vSphere gives them: the first SCSI disk of the first controller is 2000."""
        if isinstance(new, device.VirtualDisk):
            controller = self._controller(new.controllerKey)
            taken = {d.unitNumber for d in self.config.hardware.device if d.controllerKey == controller.key}
            if new.unitNumber is None or new.unitNumber < 0:
                new.unitNumber = next(u for u in range(64) if u not in taken and u != SCSI_RESERVED_UNIT)
            if new.unitNumber in taken:
                raise vim.fault.InvalidDeviceSpec(deviceIndex=0, property="unitNumber", msg="The unit is taken.")
            first = 2000 + 16 * controller.busNumber + new.unitNumber
        else:
            first = next((key for kind, key in FIRST_KEYS if isinstance(new, kind)), 13000)
            first += getattr(new, "busNumber", None) or 0
        taken_keys = {d.key for d in self.config.hardware.device}
        new.key = next(key for key in range(first, first + 10_000) if key not in taken_keys)
        new.deviceInfo = vim.Description(label=self._label(new), summary=type(new).__name__.rpartition(".")[2])

    def _controller(self, key: int | None) -> Any:
        for found in self.config.hardware.device:
            if isinstance(found, device.VirtualController) and found.key == key:
                return found
        raise vim.fault.InvalidDeviceSpec(deviceIndex=0, property="controllerKey", msg=f"No controller {key}.")

    def _label(self, new: Any) -> str:
        if isinstance(new, device.VirtualDisk):
            return f"Hard disk {len(disks(self.config)) + 1}"
        if isinstance(new, device.VirtualSCSIController):
            return f"SCSI controller {new.busNumber}"
        if isinstance(new, device.VirtualEthernetCard):
            cards = [d for d in self.config.hardware.device if isinstance(d, device.VirtualEthernetCard)]
            return f"Network adapter {len(cards) + 1}"
        return f"{type(new).__name__.rpartition('.')[2]} {new.key}"

    def _add_disk(self, new: Any, file_operation: str | None) -> None:
        file_name = new.backing.fileName or ""
        if file_operation == "create":
            if not file_name or not split(file_name)[1]:
                file_name = next(self._free_names(file_name))
            disk = self.shelf.create(file_name, _capacity_bytes(new))
            self.created.append(file_name)
        else:
            disk = self.shelf.get(file_name)
        new.backing = device.VirtualDisk.FlatVer2BackingInfo(
            fileName=file_name, diskMode=new.backing.diskMode or "persistent", thinProvisioned=True
        )
        new.capacityInBytes, new.capacityInKB = disk.meta.capacity_bytes, disk.meta.capacity_bytes // 1024

    def _free_names(self, datastore_name: str) -> Iterator[str]:
        """The VM's folder, on the datastore asked for."""
        datastore, folder = split(self.home)
        if datastore_name:
            datastore = split(datastore_name)[0]
        stem = PurePosixPath(self.config.files.vmPathName).stem
        for number in range(1000):
            suffix = f"_{number}" if number else ""
            name = f"[{datastore}] {folder}/{stem}{suffix}.vmdk"
            flat = name.removesuffix(".vmdk") + "-flat.vmdk"
            if not self.shelf.exists(flat):
                yield name

    def _add_card(self, new: Any) -> None:
        if not new.macAddress or new.addressType == "generated":
            random = uuid.uuid4().bytes
            new.macAddress = f"00:50:56:{0x80 + random[0] % 64:02x}:{random[1]:02x}:{random[2]:02x}"
            new.addressType = "assigned"


def _capacity_bytes(disk: Any) -> int:
    return int(disk.capacityInBytes or (disk.capacityInKB or 0) * 1024)


def _merged(old: Any, new: Any) -> Any:
    """A data object's fields that are set replace the old ones."""
    if not isinstance(new, VmomiSupport.DataObject) or type(old) is not type(new):
        return new
    made = copy.copy(old)
    for info in type(new)._GetPropertyList():
        value = getattr(new, info.name)
        if value is not None and not (isinstance(value, list) and not value):
            setattr(made, info.name, value)
    return made


def with_chain(disk: Any, chain: list[str], change_id: str | None, disk_uuid: str, datastore: Any) -> Any:
    """The device as it is shown: its backing is the last file of `chain`, with the ones below as parents."""
    backing = None
    for file_name in chain:
        backing = device.VirtualDisk.FlatVer2BackingInfo(
            fileName=file_name,
            datastore=datastore,
            diskMode=disk.backing.diskMode,
            split=False,
            writeThrough=False,
            thinProvisioned=True,
            uuid=disk_uuid,
            parent=backing,
        )
    if backing is not None:
        backing.changeId = change_id
    shown = copy.copy(disk)
    shown.backing = backing
    return shown
