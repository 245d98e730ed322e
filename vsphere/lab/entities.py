"""What every object of the inventory has, and what all of them share."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import NAMESPACE_URL, uuid5

from pyVmomi import vim

from vsphere.lab import wire
from vsphere.lab.faults import Faults
from vsphere.lab.registry import Managed, Registry, refs
from vsphere.lab.sessions import Call
from vsphere.lab.shelf import DiskShelf
from vsphere.lab.state import Record, Store
from vsphere.lab.stores import Stores
from vsphere.lab.tasks import Task, Tasks

if TYPE_CHECKING:
    from vsphere.lab.leases import Lease
    from vsphere.lab.vm import VirtualMachine


@dataclass
class Lab:
    registry: Registry
    store: Store
    tasks: Tasks
    faults: Faults
    shelf: DiskShelf
    stores: Stores
    vms: "dict[str, VirtualMachine]" = field(default_factory=dict)
    """By managed object id."""
    datastores: "dict[str, Datastore]" = field(default_factory=dict)
    """By name."""
    lease_timeout_s: float = 300.0
    leases: "dict[str, Lease]" = field(default_factory=dict)
    """Those that are held, by ticket."""

    def of_type(self, kind: type[Managed]) -> list[Any]:
        with self.registry.lock:
            return [managed for managed in self.registry.objects.values() if isinstance(managed, kind)]


FRESH_S, LOOKS_APART = 0.5, 20
"""A look at a datastore's files is good for so long, and for so many times what it took."""


class Entity(Managed):
    in_tree = True
    prefix: ClassVar[str]

    def __init__(self, lab: Lab, name: str, parent: "Entity | None", moid: str | None = None) -> None:
        self.lab, self.name, self.parent = lab, name, parent
        self.kids: list[Entity] = []
        with lab.registry.lock:
            super().__init__(lab.registry, moid or f"{self.prefix}-{lab.registry.next_serial()}")
            if parent is not None:
                parent.kids.append(self)
                lab.registry.touch(parent)

    def p_name(self) -> str:
        return self.name

    def p_parent(self) -> Any:
        return self.parent.ref if self.parent else None

    def p_overallStatus(self) -> str:
        return "green"

    def p_configStatus(self) -> str:
        return "green"

    def p_effectiveRole(self) -> list[int]:
        return [-1]

    def children(self) -> list[Managed]:
        return list(self.kids)

    def record(self) -> Record:
        """What is kept of it; the constructor's counterpart in `restoring` reads it."""
        return {
            "kind": type(self).__name__,
            "moid": self.moid,
            "name": self.name,
            "parent": self.parent.moid if self.parent else None,
        }

    def save(self) -> None:
        self.lab.store.save(self.moid, self.record())

    def vanish(self) -> None:
        """Leaves the inventory."""
        with self.registry.lock:
            if self.parent is not None:
                self.parent.kids.remove(self)
                self.registry.touch(self.parent)
            self.registry.remove(self)
            self.lab.store.forget(self.moid)

    def Rename_Task(self, call: Call, newName: str) -> Any:
        def work(_task: Task) -> None:
            self.renamed(newName)

        return self.lab.tasks.start("Rename_Task", self, self.name, work)

    def renamed(self, name: str) -> None:
        with self.registry.lock:
            check_name_is_free(self.parent, name)
            self.name = name
            self.save()
            self.registry.touch(self)


def check_name_is_free(parent: Entity | None, name: str) -> None:
    for kid in parent.kids if parent else ():
        if kid.name == name:
            raise vim.fault.DuplicateName(name=name, object=kid.ref, msg=f"The name '{name}' already exists.")


class Datastore(Entity):
    wsdl = vim.Datastore
    prefix = "datastore"

    def __init__(self, lab: Lab, name: str, parent: Entity | None, capacity_bytes: int, moid: str | None = None):
        self.capacity_bytes = capacity_bytes
        self._used_bytes, self._look_again_at = 0, 0.0
        (lab.shelf.root / name).mkdir(parents=True, exist_ok=True)
        super().__init__(lab, name, parent, moid)
        lab.datastores[name] = self

    def record(self) -> Record:
        return super().record() | {"capacity_bytes": self.capacity_bytes}

    @property
    def uuid(self) -> str:
        """As VMFS writes it; counters name the datastore by it."""
        digits = uuid5(NAMESPACE_URL, self.moid).hex
        return f"{digits[:8]}-{digits[8:16]}-{digits[16:20]}-{digits[20:]}"

    def free_bytes(self) -> int:
        """As of a moment ago: a look at every file takes its time when there are thousands."""
        scripted = self.lab.faults.free_bytes(self.name)
        if scripted is not None:
            return scripted
        if time.monotonic() >= self._look_again_at:
            self._look()
        return max(0, self.capacity_bytes - self._used_bytes)

    def _look(self) -> None:
        began = time.monotonic()
        files = (self.lab.shelf.root / self.name).rglob("*.vmdk")
        self._used_bytes = sum(allocated_bytes(path) for path in files)
        took_s = time.monotonic() - began
        self._look_again_at = time.monotonic() + max(FRESH_S, LOOKS_APART * took_s)

    def is_full(self) -> bool:
        return self.free_bytes() <= 0

    def RefreshDatastore(self, call: Call) -> None:
        self._look_again_at = 0.0
        self.registry.touch(self)

    def p_summary(self) -> Any:
        return vim.Datastore.Summary(
            datastore=self.ref,
            name=self.name,
            url=self._url(),
            capacity=self.capacity_bytes,
            freeSpace=self.free_bytes(),
            accessible=True,
            multipleHostAccess=True,
            type="VMFS",
            maintenanceMode="normal",
        )

    def p_info(self) -> Any:
        return wire.filled(
            vim.host.VmfsDatastoreInfo,
            name=self.name,
            url=self._url(),
            freeSpace=self.free_bytes(),
            maxFileSize=self.capacity_bytes,
            maxMemoryFileSize=self.capacity_bytes,
            vmfs=wire.filled(
                vim.host.VmfsVolume,
                name=self.name,
                uuid=self.uuid,
                type="VMFS",
                capacity=self.capacity_bytes,
                extent=[vim.host.ScsiDisk.Partition(diskName=f"naa.{self.uuid}", partition=1)],
            ),
        )

    def p_capability(self) -> Any:
        return vim.Datastore.Capability(
            directoryHierarchySupported=True,
            rawDiskMappingsSupported=False,
            perFileThinProvisioningSupported=True,
        )

    def _url(self) -> str:
        return f"ds:///vmfs/volumes/{self.uuid}/"

    def p_vm(self) -> list[Any]:
        return refs(vm for vm in self.lab.vms.values() if vm.datastore == self.name)


def allocated_bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:  # A delta that was merged meanwhile.
        return 0


class Network(Entity):
    wsdl = vim.Network
    prefix = "network"

    def p_summary(self) -> Any:
        return vim.Network.Summary(network=self.ref, name=self.name, accessible=True, ipPoolName="")

    def p_vm(self) -> list[Any]:
        return refs(self.lab.vms.values())


class Host(Entity):
    wsdl = vim.HostSystem
    prefix = "host"

    def p_runtime(self) -> Any:
        return vim.host.RuntimeInfo(connectionState="connected", powerState="poweredOn", inMaintenanceMode=False)

    def p_summary(self) -> Any:
        return vim.host.Summary(
            host=self.ref,
            runtime=self.p_runtime(),
            config=vim.host.Summary.ConfigSummary(
                name=self.name, port=443, vmotionEnabled=False, faultToleranceEnabled=False
            ),
            quickStats=vim.host.Summary.QuickStats(),
            overallStatus="green",
            rebootRequired=False,
        )

    def p_vm(self) -> list[Any]:
        return refs(vm for vm in self.lab.vms.values() if vm.host is self)

    def p_datastore(self) -> list[Any]:
        return refs(self.lab.of_type(Datastore))

    def p_network(self) -> list[Any]:
        return refs(self.lab.of_type(Network))
