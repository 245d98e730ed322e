"""Resource pools, and vApps, which are resource pools with an order to start their VMs in."""

import uuid
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from vsphere.lab import imports, provisioning, wire
from vsphere.lab.entities import Entity, Lab, check_name_is_free
from vsphere.lab.registry import Managed, refs
from vsphere.lab.sessions import Call
from vsphere.lab.state import Record
from vsphere.lab.tasks import Task

if TYPE_CHECKING:
    from vsphere.lab.inventory import Cluster
    from vsphere.lab.vm import VirtualMachine


def default_resources() -> Any:
    def allocation() -> Any:
        shares = vim.SharesInfo(level="normal", shares=4000)
        return vim.ResourceAllocationInfo(reservation=0, expandableReservation=True, limit=-1, shares=shares)

    return vim.ResourceConfigSpec(cpuAllocation=allocation(), memoryAllocation=allocation())


class ResourcePool(Entity):
    wsdl = vim.ResourcePool
    prefix = "resgroup"

    def __init__(self, lab: Lab, name: str, parent: Entity, resources: Any = None, moid: str | None = None) -> None:
        self.resources = resources or default_resources()
        self.vms: list[VirtualMachine] = []
        super().__init__(lab, name, parent, moid)

    def record(self) -> Record:
        return super().record() | {"resources": wire.to_xml(self.resources)}

    @property
    def cluster(self) -> "Cluster":
        above: Any = self.parent
        while isinstance(above, ResourcePool):
            above = above.parent
        return above

    def children(self) -> list[Managed]:
        return [*self.kids, *self.vms]

    def p_owner(self) -> Any:
        return self.cluster.ref

    def p_resourcePool(self) -> list[Any]:
        return refs(self.kids)

    def p_vm(self) -> list[Any]:
        return refs(self.vms)

    def p_config(self) -> Any:
        return self.resources

    def p_runtime(self) -> Any:
        return wire.filled(vim.ResourcePool.RuntimeInfo, overallStatus="green")

    def p_summary(self) -> Any:
        return vim.ResourcePool.Summary(name=self.name, config=self.resources, runtime=self.p_runtime())

    def UpdateConfig(self, call: Call, name: str | None = None, config: Any = None) -> None:
        with self.registry.lock:
            if name and name != self.name:
                check_name_is_free(self.parent, name)
                self.name = name
            self.resources = config or self.resources
            self.save()
            self.registry.touch(self)

    def CreateResourcePool(self, call: Call, name: str, spec: Any) -> Any:
        with self.registry.lock:
            check_name_is_free(self, name)
            made = ResourcePool(self.lab, name, self, spec)
            made.save()
        return made.ref

    def CreateVApp(self, call: Call, name: str, resSpec: Any, configSpec: Any, vmFolder: Any = None) -> Any:
        folder = self.registry.find(vmFolder) if vmFolder is not None else None
        if folder is None and not isinstance(self, VApp):
            raise vmodl.fault.InvalidArgument(invalidProperty="vmFolder", msg="A top-level vApp needs a folder.")
        with self.registry.lock:
            check_name_is_free(self, name)
            made = VApp(self.lab, name, self, resSpec, folder=folder)
            made.configure(configSpec)
        return made.ref

    def CreateChildVM_Task(self, call: Call, config: Any, host: Any = None) -> Any:
        def work(_task: Task) -> Any:
            return provisioning.create_vm(self.lab, config, None, self, host).ref

        return self.lab.tasks.start("CreateChildVM_Task", self, self.name, work)

    def ImportVApp(self, call: Call, spec: Any, folder: Any = None, host: Any = None) -> Any:
        home = self.registry.find(folder) if folder is not None else None
        return imports.begin(self, call, spec, home, host)

    def MoveIntoResourcePool(self, call: Call, list: list[Any]) -> None:
        for ref in list:
            vm = self.registry.find(ref)
            if not isinstance(ref, vim.VirtualMachine):
                raise vmodl.fault.NotSupported(msg="The lab moves only VMs between pools.")
            folder = None if isinstance(self, VApp) else vm.parent or self.cluster.datacenter.folder("vm")
            vm.move_to(self, folder)

    def Destroy_Task(self, call: Call) -> Any:
        def work(_task: Task) -> None:
            if self.kids or self.vms or not isinstance(self.parent, ResourcePool):
                raise vim.fault.ResourceInUse(name=self.name, msg="The pool is in use.")
            self.vanish()

        return self.lab.tasks.start("Destroy_Task", self, self.name, work)


class VApp(ResourcePool):
    wsdl = vim.VirtualApp
    prefix = "resgroup-v"

    def __init__(
        self,
        lab: Lab,
        name: str,
        parent: Entity,
        resources: Any = None,
        *,
        folder: Entity | None,
        config: Any = None,
        moid: str | None = None,
    ) -> None:
        self.folder = folder
        self.app_config = config or wire.filled(vim.vApp.VAppConfigInfo, instanceUuid=str(uuid.uuid4()))
        super().__init__(lab, name, parent, resources, moid)
        if folder is not None:
            with lab.registry.lock:
                folder.kids.append(self)
                lab.registry.touch(folder)

    def record(self) -> Record:
        return super().record() | {
            "folder": self.folder.moid if self.folder else None,
            "app_config": wire.to_xml(self.app_config),
        }

    def vanish(self) -> None:
        with self.registry.lock:
            if self.folder is not None:
                self.folder.kids.remove(self)
                self.registry.touch(self.folder)
            super().vanish()

    def p_parentFolder(self) -> Any:
        return self.folder.ref if self.folder else None

    def p_parentVApp(self) -> Any:
        return self.parent.ref if isinstance(self.parent, VApp) else None

    def p_vAppConfig(self) -> Any:
        """Members that nobody gave a place in the order are shown, too."""
        shown = wire.filled(vim.vApp.VAppConfigInfo, **{name: getattr(self.app_config, name) for name in SHOWN})
        known = {entry.key._moId: entry for entry in self.app_config.entityConfig}
        members: list[Entity] = [*self.vms, *(kid for kid in self.kids if isinstance(kid, VApp))]
        shown.entityConfig = [known.get(member.moid) or self._default_entry(member) for member in members]
        return shown

    def _default_entry(self, member: Entity) -> Any:
        return vim.vApp.EntityConfigInfo(
            key=member.ref,
            tag=member.name,
            startOrder=1,
            startDelay=120,
            waitingForGuest=False,
            startAction="powerOn",
            stopDelay=120,
            stopAction="powerOff",
        )

    def p_summary(self) -> Any:
        running = any(vm.running for vm in self.all_vms())
        return vim.VirtualApp.Summary(
            name=self.name,
            config=self.resources,
            runtime=self.p_runtime(),
            vAppState="started" if running else "stopped",
            instanceUuid=self.app_config.instanceUuid,
        )

    def all_vms(self) -> "list[VirtualMachine]":
        return [*self.vms, *(vm for kid in self.kids if isinstance(kid, VApp) for vm in kid.all_vms())]

    def configure(self, spec: Any) -> None:
        for name in SHOWN:
            value = getattr(spec, name, None)
            if value is not None and not (isinstance(value, list) and not value):
                setattr(self.app_config, name, value)
        self.save()
        self.registry.touch(self)

    def UpdateVAppConfig(self, call: Call, spec: Any) -> None:
        with self.registry.lock:
            self.configure(spec)

    def PowerOnVApp_Task(self, call: Call) -> Any:
        return self._power_task("PowerOnVApp_Task", "poweredOn")

    def PowerOffVApp_Task(self, call: Call, force: bool) -> Any:
        return self._power_task("PowerOffVApp_Task", "poweredOff")

    def _power_task(self, method: str, power: str) -> Any:
        def work(task: Task) -> None:
            vms = self.in_start_order()
            if power == "poweredOff":
                vms.reverse()
            for done, vm in enumerate(vms, 1):
                if vm.power != power:
                    vm.set_power(power)
                task.progress(100 * done // len(vms))
            self.registry.touch(self)

        return self.lab.tasks.start(method, self, self.name, work)

    def in_start_order(self) -> "list[VirtualMachine]":
        """The delays between the groups are left out: a lab's guests boot at once."""
        entries = sorted(self.p_vAppConfig().entityConfig, key=lambda entry: entry.startOrder or 0)
        members = [self.registry.find(entry.key) for entry in entries if entry.startAction != "none"]
        return [vm for member in members for vm in (member.in_start_order() if isinstance(member, VApp) else [member])]

    def Destroy_Task(self, call: Call) -> Any:
        def work(_task: Task) -> None:
            vms = self.all_vms()
            if any(vm.running for vm in vms):
                raise vim.fault.InvalidPowerState(
                    requestedState="poweredOff", existingState="poweredOn", msg="Power the vApp off first."
                )
            for vm in vms:
                vm.destroy()
            self.vanish_with_kids()

        return self.lab.tasks.start("Destroy_Task", self, self.name, work)

    def vanish_with_kids(self) -> None:
        for kid in tuple(self.kids):
            if isinstance(kid, VApp):
                kid.vanish_with_kids()
        self.vanish()


SHOWN = (
    "eula",
    "ipAssignment",
    "ovfEnvironmentTransport",
    "installBootRequired",
    "installBootStopDelay",
    "entityConfig",
    "annotation",
    "instanceUuid",
    "managedBy",
)
