"""Making a VM from a ConfigSpec."""

from itertools import chain, count
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from vsphere.lab import hardware
from vsphere.lab.config import Config
from vsphere.lab.entities import Entity, Host, Lab, check_name_is_free
from vsphere.lab.loads import IDLE, Profile
from vsphere.lab.shelf import split
from vsphere.lab.vm import OFF, VirtualMachine

if TYPE_CHECKING:
    from vsphere.lab.pools import ResourcePool


def create_vm(
    lab: Lab,
    spec: Any,
    folder: Entity | None,
    pool: "ResourcePool",
    host_ref: Any = None,
    profile: Profile = IDLE,
    power: str = OFF,
    *,
    importing: bool = False,
) -> VirtualMachine:
    """`folder` None: a VM of the vApp `pool`. Its disks are full of zeros."""
    if not spec.name:
        raise vim.fault.InvalidVmConfig(property="name", msg="A VM needs a name.")
    host = lab.registry.find(host_ref) if host_ref is not None else least_used_host(lab)
    with lab.registry.lock:
        _check_name(folder, pool, spec.name)
        home = _home(lab, spec)
        change = hardware.Change(hardware.new_config(spec.name, home), lab.shelf, home)
    try:
        change.apply(spec)
        with lab.registry.lock:
            _check_name(folder, pool, spec.name)
            vm = _add(lab, change, bool(spec.instanceUuid), folder=folder, pool=pool, host=host, profile=profile,
                      power=power, importing=importing)  # fmt: skip
    except vmodl.MethodFault:
        change.undo()
        raise
    return vm


def _add(lab: Lab, change: hardware.Change, uuid_asked_for: bool, **made: Any) -> VirtualMachine:
    if uuid_asked_for and any(vm.config.instance_uuid == change.config.instanceUuid for vm in lab.vms.values()):
        # vCenter keeps it unique among the VMs it manages.
        change.config.instanceUuid = hardware.new_config("", "").instanceUuid
    config = Config.of(change.config)
    vm = VirtualMachine(lab, config, **made)
    if config.info.changeTrackingEnabled:
        for _, disk in vm.disks():
            disk.enable_tracking(at_next_snapshot=False)
    vm.changed()
    return vm


def _check_name(folder: Entity | None, pool: "ResourcePool", name: str) -> None:
    if folder is not None:
        check_name_is_free(folder, name)
        return
    for vm in pool.vms:
        if vm.name == name:
            raise vim.fault.DuplicateName(name=name, object=vm.ref, msg=f"The name '{name}' already exists.")


def _home(lab: Lab, spec: Any) -> str:
    """`[datastore] folder`: asked for by the spec, else the VM's name, and never another VM's."""
    wanted = spec.files.vmPathName if spec.files and spec.files.vmPathName else ""
    if not wanted:
        raise vim.fault.InvalidVmConfig(property="files.vmPathName", msg="The spec names no datastore.")
    datastore, path = split(wanted)
    if datastore not in lab.datastores:
        raise vim.fault.InvalidDatastorePath(datastorePath=wanted, msg=f"There is no datastore '{datastore}'.")
    folder = path.rpartition("/")[0] if path.endswith(".vmx") else path.strip("/")
    folder = folder or spec.name.replace("/", "_")
    taken = {vm.config.home for vm in lab.vms.values()}
    home = f"[{datastore}] {folder}"
    return next(name for name in chain([home], (f"{home}_{n}" for n in count(1))) if name not in taken)


def least_used_host(lab: Lab) -> Host:
    hosts: list[Host] = lab.of_type(Host)
    used = {host.moid: 0 for host in hosts}
    for vm in lab.vms.values():
        used[vm.host.moid] += 1
    return min(hosts, key=lambda host: (used[host.moid], host.name))
