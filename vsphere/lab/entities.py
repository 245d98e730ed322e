"""What every object of the inventory has, and what all of them share."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pyVmomi import vim

from vsphere.lab.faults import Faults
from vsphere.lab.registry import Managed, Registry, refs
from vsphere.lab.sessions import Call
from vsphere.lab.shelf import DiskShelf
from vsphere.lab.state import Record, Store
from vsphere.lab.tasks import Task, Tasks

if TYPE_CHECKING:
    from vsphere.lab.vm import VirtualMachine


@dataclass
class Lab:
    registry: Registry
    store: Store
    tasks: Tasks
    faults: Faults
    shelf: DiskShelf
    vms: "dict[str, VirtualMachine]" = field(default_factory=dict)
    """By managed object id."""

    def of_type(self, kind: type[Managed]) -> list[Any]:
        with self.registry.lock:
            return [managed for managed in self.registry.objects.values() if isinstance(managed, kind)]


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
        (lab.shelf.root / name).mkdir(parents=True, exist_ok=True)
        super().__init__(lab, name, parent, moid)

    def record(self) -> Record:
        return super().record() | {"capacity_bytes": self.capacity_bytes}

    def used_bytes(self) -> int:
        files = (self.lab.shelf.root / self.name).rglob("*")
        return sum(path.stat().st_blocks * 512 for path in files if path.suffix == ".vmdk")

    def p_summary(self) -> Any:
        return vim.Datastore.Summary(
            datastore=self.ref,
            name=self.name,
            url=self._url(),
            capacity=self.capacity_bytes,
            freeSpace=self._free_bytes(),
            accessible=True,
            multipleHostAccess=True,
            type="VMFS",
            maintenanceMode="normal",
        )

    def p_info(self) -> Any:
        return vim.Datastore.Info(
            name=self.name,
            url=self._url(),
            freeSpace=self._free_bytes(),
            maxFileSize=self.capacity_bytes,
            maxMemoryFileSize=self.capacity_bytes,
        )

    def p_capability(self) -> Any:
        return vim.Datastore.Capability(
            directoryHierarchySupported=True,
            rawDiskMappingsSupported=False,
            perFileThinProvisioningSupported=True,
        )

    def _url(self) -> str:
        return f"ds:///vmfs/volumes/{self.moid}/"

    def _free_bytes(self) -> int:
        return max(0, self.capacity_bytes - self.used_bytes())

    def p_vm(self) -> list[Any]:
        return refs(vm for vm in self.lab.vms.values() if vm.datastore == self.name)


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
