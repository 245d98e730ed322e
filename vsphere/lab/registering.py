"""VMs that become templates and back, and VMs that leave the inventory without their files and come again, under
another managed object id."""

import copy
import json
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from vsphere.lab.config import Config
from vsphere.lab.loads import Profile
from vsphere.lab.shelf import split

if TYPE_CHECKING:
    from vsphere.lab.entities import Entity, Host
    from vsphere.lab.pools import ResourcePool
    from vsphere.lab.vm import VirtualMachine


def mark(vm: "VirtualMachine", *, template: bool) -> None:
    _refuse_running(vm)
    info = copy.copy(vm.config.info)
    info.template = template
    vm.config = Config.of(info)
    vm.changed()


def unregister(vm: "VirtualMachine") -> None:
    """What vCenter knew of it stays in its .vmx file."""
    _refuse_running(vm)
    if vm.snapshots:
        raise vmodl.fault.NotSupported(msg="The lab does not unregister VMs that have snapshots.")
    path = vm.lab.shelf.path(*split(vm.config.info.files.vmPathName))
    path.write_text(json.dumps(vm.record()))
    vm.vanish()


def register(
    kind: "type[VirtualMachine]", path: str, name: str | None, folder: "Entity", pool: "ResourcePool", host: "Host"
) -> Any:
    """`kind`: the class of VMs, which imports this module."""
    file = folder.lab.shelf.path(*split(path))
    if not file.exists():
        raise vim.fault.FileNotFound(file=path, msg=f"File {path} was not found.")
    record = json.loads(file.read_text())
    config = Config.parse(record["config"])
    if name:
        config.info.name = name
    vm = kind(folder.lab, Config.of(config.info), folder=folder, pool=pool, host=host, profile=Profile.of(record))
    file.unlink()
    vm.changed()
    return vm.ref


def _refuse_running(vm: "VirtualMachine") -> None:
    if vm.running:
        raise vim.fault.InvalidPowerState(
            requestedState="poweredOff", existingState=vm.power, msg="Power the VM off first."
        )
