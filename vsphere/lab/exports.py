"""Disks on their way out: ExportVm and ExportSnapshot."""

from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from vsphere.lab.leases import Cargo, Lease, Slot
from vsphere.lab.sessions import Call

if TYPE_CHECKING:
    from vsphere.lab.snapshots import Snapshot
    from vsphere.lab.vm import VirtualMachine


def of_vm(vm: "VirtualMachine", call: Call) -> Any:
    if vm.running:
        raise vim.fault.InvalidPowerState(
            requestedState="poweredOff", existingState=vm.power, msg="Power the VM off before you export it."
        )
    return Lease(vm.lab, call, lambda: _cargo(vm, vm.disks(), None)).ref


def of_snapshot(snapshot: "Snapshot", call: Call) -> Any:
    vm = snapshot.vm
    return Lease(vm.lab, call, lambda: _cargo(vm, vm.disks(snapshot.config), snapshot.number)).ref


def _cargo(vm: "VirtualMachine", disks: list[Any], snapshot: int | None) -> Cargo:
    slots = (Slot(vm, device, disk, f"disk-{n}.vmdk", snapshot) for n, (device, disk) in enumerate(disks))
    return Cargo(vm, tuple(slots))
