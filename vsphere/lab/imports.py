"""VMs and vApps on their way in: ImportVApp. What is there when its lease is ready is kept only if it is completed."""

from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from vsphere.lab import provisioning
from vsphere.lab.entities import Entity
from vsphere.lab.leases import Cargo, Lease, Slot
from vsphere.lab.sessions import Call

if TYPE_CHECKING:
    from vsphere.lab.pools import ResourcePool, VApp
    from vsphere.lab.vm import VirtualMachine


def begin(pool: "ResourcePool", call: Call, spec: Any, folder: Entity | None, host: Any) -> Any:
    def prepare() -> Cargo:
        made: list[VirtualMachine] = []
        try:
            entity = _make(pool, call, spec, folder, host, made)
        except vmodl.MethodFault:
            for vm in made:
                vm.destroy()
            raise
        disks = [(vm, *each) for vm in made for each in vm.disks()]
        slots = (Slot(vm, device, disk, f"disk-{n}.vmdk") for n, (vm, device, disk) in enumerate(disks))
        return Cargo(entity, tuple(slots))

    return Lease(pool.lab, call, prepare, undo=_undo).ref


def _make(
    pool: "ResourcePool", call: Call, spec: Any, folder: Entity | None, host: Any, made: "list[VirtualMachine]"
) -> Entity:
    if isinstance(spec, vim.vm.VmImportSpec):
        in_vapp = isinstance(pool.ref, vim.VirtualApp)
        if folder is None and not in_vapp:
            raise vmodl.fault.InvalidArgument(invalidProperty="folder", msg="A VM outside a vApp needs a folder.")
        vm = provisioning.create_vm(pool.lab, spec.configSpec, None if in_vapp else folder, pool, host, importing=True)
        made.append(vm)
        return vm
    ref = pool.CreateVApp(call, spec.name, spec.resourcePoolSpec, spec.vAppConfigSpec, folder.ref if folder else None)
    vapp: VApp = pool.registry.find(ref)
    try:
        members = [_make(vapp, call, child, None, host, made) for child in spec.child]
        _order(vapp, members, spec.child)
    except vmodl.MethodFault:
        vapp.vanish_with_kids()
        raise
    return vapp


def _order(vapp: "VApp", members: list[Entity], specs: list[Any]) -> None:
    entries = []
    for member, spec in zip(members, specs, strict=True):
        if spec.entityConfig is not None:
            spec.entityConfig.key = member.ref
            entries.append(spec.entityConfig)
    vapp.configure(vim.vApp.VAppConfigSpec(entityConfig=entries))


def _undo(cargo: Cargo) -> None:
    for vm in cargo.vms:
        if vm.moid in vm.registry.objects:
            vm.destroy()
    vanish = getattr(cargo.entity, "vanish_with_kids", None)
    if vanish:
        vanish()
