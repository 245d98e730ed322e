"""OvfManager: CreateImportSpec for the OVF descriptor of one VM. Of the hardware it knows CPUs, memory, SCSI and IDE
controllers, disks and network cards; what else there is comes back as a warning."""

import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from pyVmomi import vim

from vsphere.lab import wire
from vsphere.lab.entities import Lab, Network
from vsphere.lab.registry import Managed
from vsphere.lab.sessions import Call

OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
RASD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}"
CPUS, MEMORY, IDE, SCSI, CARD, DISK = 3, 4, 5, 6, 10, 17
IGNORED = {IDE, 1, 14, 15, 20, 23, 24}
"""What every VM has anyway, or what holds nothing to import."""
UNITS = re.compile(r"byte(?: *\* *2\^(\d+))?")
device: Any = vim.vm.device
CONTROLLERS = {
    "lsilogic": device.VirtualLsiLogicController,
    "lsilogicsas": device.VirtualLsiLogicSASController,
    "virtualscsi": device.ParaVirtualSCSIController,
}
CARDS = {"vmxnet3": device.VirtualVmxnet3, "e1000": device.VirtualE1000, "e1000e": device.VirtualE1000e}


class OvfManager(Managed):
    wsdl = vim.OvfManager

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        super().__init__(lab.registry, "OvfManager")

    def CreateImportSpec(self, call: Call, ovfDescriptor: str, resourcePool: Any, datastore: Any, cisp: Any) -> Any:
        store = self.registry.find(datastore).name
        try:
            return _Descriptor(ovfDescriptor, self.lab).result(store, cisp)
        except (ElementTree.ParseError, LookupError, ValueError, TypeError) as error:
            fault = vim.fault.OvfInvalidPackage(lineNumber=0, msg=f"The descriptor cannot be read: {error!r}")
            return vim.OvfManager.CreateImportSpecResult(error=[fault])


class _Descriptor:
    def __init__(self, text: str, lab: Lab) -> None:
        root = ElementTree.fromstring(text)  # noqa: S314 - a lab trusts its clients
        self._lab = lab
        self._files = {file.attrib[f"{OVF}id"]: file.attrib for file in root.iter(f"{OVF}File")}
        self._disks = {disk.attrib[f"{OVF}diskId"]: disk.attrib for disk in root.iter(f"{OVF}Disk")}
        system = root.find(f"{OVF}VirtualSystem")
        if system is None:
            raise ValueError("It has no VirtualSystem.")
        self._system = system
        self._items = [self._item(item) for item in self._system.iter(f"{OVF}Item")]

    @staticmethod
    def _item(item: ElementTree.Element) -> dict[str, str]:
        return {child.tag.removeprefix(RASD): (child.text or "").strip() for child in item}

    def result(self, datastore: str, params: Any) -> Any:
        named = self._system.find(f"{OVF}Name")
        name = params.entityName or (named.text if named is not None else None) or self._system.attrib[f"{OVF}id"]
        self._file_items: list[Any] = []
        self._warnings: list[Any] = []
        changes = [change for item in self._items for change in self._changes(item, name, params)]
        spec = vim.vm.ConfigSpec(
            name=name,
            guestId="otherGuest64",
            numCPUs=int(self._first(CPUS, "VirtualQuantity", "1")),
            memoryMB=int(self._first(MEMORY, "VirtualQuantity", "1024")),
            files=vim.vm.FileInfo(vmPathName=f"[{datastore}]"),
            deviceChange=changes,
        )
        return vim.OvfManager.CreateImportSpecResult(
            importSpec=vim.vm.VmImportSpec(configSpec=spec), fileItem=self._file_items, warning=self._warnings
        )

    def _first(self, kind: int, field: str, otherwise: str) -> str:
        return next((item[field] for item in self._items if int(item["ResourceType"]) == kind), otherwise)

    def _changes(self, item: dict[str, str], name: str, params: Any) -> Iterator[Any]:
        kind, key = int(item["ResourceType"]), -int(item["InstanceID"])
        added = device.VirtualDeviceSpec(operation="add")
        if kind == SCSI:
            made = CONTROLLERS[item.get("ResourceSubType", "lsilogic").lower()]
            added.device = made(key=key, busNumber=int(item.get("Address", "0")), sharedBus="noSharing")
        elif kind == DISK:
            added.device, added.fileOperation = self._disk(item, key, name), "create"
        elif kind == CARD:
            added.device = self._card(item, key, params)
        else:
            if kind not in IGNORED | {CPUS, MEMORY}:
                self._warnings.append(wire.filled(vim.fault.OvfUnsupportedElement, name=item.get("ElementName", "")))
            return
        yield added

    def _disk(self, item: dict[str, str], key: int, name: str) -> Any:
        disk = self._disks[item["HostResource"].rpartition("/")[2]]
        unit_bytes = UNITS.fullmatch(disk.get(f"{OVF}capacityAllocationUnits", "byte"))
        capacity_bytes = int(disk[f"{OVF}capacity"]) << int((unit_bytes and unit_bytes[1]) or 0)
        unit = int(item.get("AddressOnParent", "0"))
        if reference := disk.get(f"{OVF}fileRef"):
            self._file_items.append(self._file_item(reference, item, name, unit))
        return device.VirtualDisk(
            key=key,
            controllerKey=-int(item["Parent"]),
            unitNumber=unit,
            capacityInBytes=capacity_bytes,
            capacityInKB=capacity_bytes // 1024,
            backing=device.VirtualDisk.FlatVer2BackingInfo(fileName="", diskMode="persistent", thinProvisioned=True),
        )

    def _file_item(self, reference: str, item: dict[str, str], name: str, unit: int) -> Any:
        """`deviceId` is the import key that the lease has for the disk."""
        file = self._files[reference]
        parent = {each["InstanceID"]: each for each in self._items}[item["Parent"]]
        controller = CONTROLLERS[parent.get("ResourceSubType", "lsilogic").lower()].__name__.rpartition(".")[2]
        return vim.OvfManager.FileItem(
            deviceId=f"/{name}/{controller}{parent.get('Address', '0')}:{unit}",
            path=file[f"{OVF}href"],
            size=int(file.get(f"{OVF}size", "0")) or None,
            cimType=DISK,
            create=False,
        )

    def _card(self, item: dict[str, str], key: int, params: Any) -> Any:
        wanted = item.get("Connection", "")
        mapping = {each.name: each.network for each in params.networkMapping}
        networks: list[Network] = self._lab.of_type(Network)
        chosen = next((n for n in networks if n.ref == mapping.get(wanted) or n.name == wanted), networks[0])
        return CARDS[item.get("ResourceSubType", "vmxnet3").lower()](
            key=key,
            addressType="generated",
            backing=device.VirtualEthernetCard.NetworkBackingInfo(deviceName=chosen.name, network=chosen.ref),
            connectable=device.VirtualDevice.ConnectInfo(startConnected=True, allowGuestControl=True, connected=False),
        )
