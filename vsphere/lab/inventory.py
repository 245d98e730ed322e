"""The tree of the inventory around its VMs: folders, datacenter, cluster."""

from typing import Any

from pyVmomi import vim, vmodl

from vsphere.lab import provisioning, registering, wire
from vsphere.lab.entities import Datastore, Entity, Host, Lab, Network, check_name_is_free
from vsphere.lab.pools import ResourcePool
from vsphere.lab.registry import Managed, refs
from vsphere.lab.sessions import Call
from vsphere.lab.state import Record
from vsphere.lab.tasks import Task
from vsphere.lab.vm import VirtualMachine

GIB = 2**30


class Folder(Entity):
    wsdl = vim.Folder
    prefix = "group"

    def __init__(
        self, lab: Lab, name: str, parent: Entity | None, holds: tuple[str, ...], moid: str | None = None
    ) -> None:
        self.holds = holds
        super().__init__(lab, name, parent, moid)

    def record(self) -> Record:
        return super().record() | {"holds": list(self.holds)}

    def p_childType(self) -> list[Any]:
        return [getattr(vim, name) for name in self.holds]

    def p_childEntity(self) -> list[Any]:
        return refs(self.kids)

    def CreateFolder(self, call: Call, name: str) -> Any:
        with self.registry.lock:
            check_name_is_free(self, name)
            made = Folder(self.lab, name, self, self.holds)
            made.save()
        return made.ref

    def CreateVM_Task(self, call: Call, config: Any, pool: Any, host: Any = None) -> Any:
        def work(_task: Task) -> Any:
            if "VirtualMachine" not in self.holds:
                raise vmodl.fault.NotSupported(msg="This folder does not hold VMs.")
            target = self.registry.find(pool)
            in_vapp = isinstance(target.ref, vim.VirtualApp)
            return provisioning.create_vm(self.lab, config, None if in_vapp else self, target, host).ref

        return self.lab.tasks.start("CreateVM_Task", self, self.name, work)

    def RegisterVM_Task(
        self, call: Call, path: str, asTemplate: bool, pool: Any, name: str | None = None, host: Any = None
    ) -> Any:
        def work(_task: Task) -> Any:
            target, place = self.registry.find(pool), self.registry.find(host) if host is not None else None
            place = place or provisioning.least_used_host(self.lab)
            return registering.register(VirtualMachine, path, name, self, target, place)

        return self.lab.tasks.start("RegisterVM_Task", self, self.name, work)

    def MoveIntoFolder_Task(self, call: Call, list: list[Any]) -> Any:
        def work(_task: Task) -> None:
            for ref in list:
                self._take(self.registry.find(ref))

        return self.lab.tasks.start("MoveIntoFolder_Task", self, self.name, work)

    def _take(self, moved: Entity) -> None:
        if not isinstance(moved, Folder | VirtualMachine) or moved.parent is None:
            raise vmodl.fault.NotSupported(msg="The lab moves only folders, and VMs that lie in one.")
        with self.registry.lock:
            check_name_is_free(self, moved.name)
            before, moved.parent = moved.parent, self
            before.kids.remove(moved)
            self.kids.append(moved)
            moved.save()
            self.registry.touch(before, self, moved)

    def Destroy_Task(self, call: Call) -> Any:
        def work(_task: Task) -> None:
            if self.kids or not isinstance(self.parent, Folder):
                raise vim.fault.ResourceInUse(name=self.name, msg="The folder is in use.")
            self.vanish()

        return self.lab.tasks.start("Destroy_Task", self, self.name, work)


class Datacenter(Entity):
    wsdl = vim.Datacenter
    prefix = "datacenter"

    def folder(self, name: str) -> Entity:
        return next(kid for kid in self.kids if kid.name == name)

    def p_vmFolder(self) -> Any:
        return self.folder("vm").ref

    def p_hostFolder(self) -> Any:
        return self.folder("host").ref

    def p_datastoreFolder(self) -> Any:
        return self.folder("datastore").ref

    def p_networkFolder(self) -> Any:
        return self.folder("network").ref

    def p_datastore(self) -> list[Any]:
        return refs(self.lab.of_type(Datastore))

    def p_network(self) -> list[Any]:
        return refs(self.lab.of_type(Network))


class Cluster(Entity):
    wsdl = vim.ClusterComputeResource
    prefix = "domain-c"

    @property
    def datacenter(self) -> Datacenter:
        above: Any = self.parent
        while not isinstance(above, Datacenter):
            above = above.parent
        return above

    def p_resourcePool(self) -> Any:
        return next(kid.ref for kid in self.kids if isinstance(kid, ResourcePool))

    def p_host(self) -> list[Any]:
        return refs(kid for kid in self.kids if isinstance(kid, Host))

    def p_datastore(self) -> list[Any]:
        return refs(self.lab.of_type(Datastore))

    def p_network(self) -> list[Any]:
        return refs(self.lab.of_type(Network))

    def p_summary(self) -> Any:
        hosts = len(self.p_host())
        return wire.filled(
            vim.ClusterComputeResource.Summary,
            numHosts=hosts,
            numEffectiveHosts=hosts,
            totalCpu=48_000 * hosts,
            effectiveCpu=48_000 * hosts,
            totalMemory=256 * GIB * hosts,
            effectiveMemory=256 * 1024 * hosts,
            numCpuCores=16 * hosts,
            numCpuThreads=32 * hosts,
            overallStatus="green",
        )

    def children(self) -> list[Managed]:
        return list(self.kids)
