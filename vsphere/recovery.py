"""VMs made anew, brought back to what they were, switched and deleted."""

import time
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from pyVmomi import vim, vmodl

from backups.errors import PlatformUnreachable, RecoveryRefused
from backups.platform import Disk, Target, VmConfig
from vsphere import config as configs
from vsphere import networks, specs
from vsphere.disks.leases import LeaseLost
from vsphere.imports import IMPORT_REFUSED, Import, Imports
from vsphere.inventory import disk_of, disks_of, split_path
from vsphere.properties import read, read_all, read_many
from vsphere.session import Session
from vsphere.tasks import wait

MARKER = "hotfirst.marker"
IMPORTING = "importing:"
"""Before the marker of a VM whose import has not ended well yet."""
TIMEOUT_S = 3600
HELD_TIMEOUT_S = 330
"""A lease that nobody keeps alive ends after 300 seconds."""
SETTLE_S = 0.2
LOOK_AGAIN_S = (0, 1, 2, 4)
OFF, ON = "poweredOff", "poweredOn"


def create_vm(session: Session, imports: Imports, config: VmConfig, name: str, marker: str, target: Target) -> str:
    """By importing it, so that its disks can be sent as streams; where that is refused, with empty disks."""
    existing = imports.marked(marker) or find_marked(session, marker, name)
    if existing:
        return existing
    _clear_half_made(session, marker, name)
    spec = _new_vm(session, config, name, marker, target)
    place_refs = place(session, target.host_ref)
    try:
        ref = _import_vm(session, imports, spec, marker, target, place_refs)
    except (LeaseLost, *IMPORT_REFUSED):
        _clear_half_made(session, marker, name)
        ref = _create_empty(session, spec, name, marker, target, place_refs)
    _refuse_other_keys(session, ref, config)
    return ref


def _import_vm(
    session: Session, imports: Imports, spec: Any, marker: str, target: Target, place_refs: tuple[str, str]
) -> str:
    folder_ref, pool_ref = place_refs
    _mark(spec, IMPORTING + marker)

    def request(stub: Any) -> Any:
        wanted, host = vim.vm.VmImportSpec(configSpec=spec), vim.HostSystem(target.host_ref, stub)
        if target.vapp_ref:
            return vim.VirtualApp(target.vapp_ref, stub).ImportVApp(wanted, None, host)
        return vim.ResourcePool(pool_ref, stub).ImportVApp(wanted, vim.Folder(folder_ref, stub), host)

    importing = Import(session, request, lambda ref: _settle(session, ref, marker))
    imports.add(marker, importing)
    return importing.vm_ref


def _settle(session: Session, ref: str, marker: str) -> None:
    """Only now it counts as made. The lease may take a moment to let go of it."""
    spec = vim.vm.ConfigSpec(extraConfig=[specs.option(MARKER, marker)])
    for pause_s in (*LOOK_AGAIN_S, None):
        try:
            wait(session, session.call(lambda stub: vim.VirtualMachine(ref, stub).ReconfigVM_Task(spec)), TIMEOUT_S)
            return
        except vim.fault.TaskInProgress:
            if pause_s is None:
                raise
            time.sleep(pause_s or SETTLE_S)


def _clear_half_made(session: Session, marker: str, name: str) -> None:
    """An attempt that was killed leaves its lease, and with it the VM, until the lease's time runs out."""
    deadline = time.monotonic() + HELD_TIMEOUT_S
    while (ref := find_marked(session, IMPORTING + marker, name)) is not None:
        try:
            destroy_vm(session, ref)
        except vim.fault.TaskInProgress as fault:
            if time.monotonic() > deadline:
                raise PlatformUnreachable(
                    f"An earlier attempt to make {name} still holds it; it is tried again later."
                ) from fault
            time.sleep(1)


def _create_empty(
    session: Session, spec: Any, name: str, marker: str, target: Target, place_refs: tuple[str, str]
) -> str:
    folder_ref, pool_ref = place_refs
    _mark(spec, marker)

    def request(stub: Any) -> Any:
        host = vim.HostSystem(target.host_ref, stub)
        if target.vapp_ref:
            return vim.VirtualApp(target.vapp_ref, stub).CreateChildVM_Task(spec, host)
        pool = vim.ResourcePool(pool_ref, stub)
        return vim.Folder(folder_ref, stub).CreateVM_Task(spec, pool, host)

    try:
        return str(wait(session, session.call(request, repeatable=False), TIMEOUT_S)._moId)
    except PlatformUnreachable:
        return _look_again(session, marker, name)


def find_marked(session: Session, marker: str, name: str) -> str | None:
    """The marker itself is read only of VMs that carry the id made from it, or the name: extra options are long."""
    wanted = (_uuid_of(marker.removeprefix(IMPORTING)), name)
    paths = ("name", "config.instanceUuid")
    vms = read_all(session, {vim.VirtualMachine: paths})
    candidates = [vm.ref for vm in vms if any(vm.values.get(p) in wanted for p in paths)]
    options = read_many(session, vim.VirtualMachine, candidates, "config.extraConfig")
    for ref, values in options.items():
        if any(o.key == MARKER and o.value == marker for o in values.get("config.extraConfig") or ()):
            return ref
    return None


def _uuid_of(marker: str) -> str:
    return str(uuid5(NAMESPACE_OID, f"{MARKER}:{marker}"))


def _look_again(session: Session, marker: str, name: str) -> str:
    """The request may have arrived although the connection broke. It is not sent again here: the next attempt looks
    for the marker first."""
    for pause_s in LOOK_AGAIN_S:
        time.sleep(pause_s)
        found = find_marked(session, marker, name)
        if found:
            return found
    raise PlatformUnreachable(f"The connection to vCenter broke while {name} was made; it is tried again later.")


def _new_vm(session: Session, config: VmConfig, name: str, marker: str, target: Target) -> Any:
    spec = specs.scalars(config)
    spec.name, spec.instanceUuid = name, _uuid_of(marker)
    addresses: list[dict[str, Any]] = []
    if target.same_identity:
        _refuse_twin(session, config)
        spec.instanceUuid, spec.uuid = config.uuid, config.identity.get("bios_uuid")
        addresses = config.identity.get("addresses", [])
    spec.files = vim.vm.FileInfo(vmPathName=f"[{target.datastore}]")
    kept = config.settings
    spec.deviceChange = [
        *specs.controllers(kept.get("controllers", ())),
        *specs.disks(config, config.disks, target.datastore),
        *specs.cards(_cards_at(config, target), networks.of_host(session, target.host_ref), addresses),
    ]
    return spec


def _cards_at(config: VmConfig, target: Target) -> list[dict[str, Any]]:
    return networks.mapped(config.settings.get("networks", ()), target.network_map)


def _refuse_twin(session: Session, config: VmConfig) -> None:
    """Two VMs of one identity would take each other's addresses, and vCenter would give one of them another."""
    path = "config.instanceUuid"
    if any(vm.values.get(path) == config.uuid for vm in read_all(session, {vim.VirtualMachine: (path,)})):
        raise RecoveryRefused(
            f"{config.name} is still there, and no other VM can have its identity; recover it in place, or as another."
        )


def warnings(session: Session, config: VmConfig, target: Target) -> tuple[str, ...]:
    lost = [f"{label} is of a kind that is not recovered, and is left out." for label in config.left_out]
    return (*lost, *networks.warnings(_cards_at(config, target), networks.of_host(session, target.host_ref)))


def _mark(spec: Any, marker: str) -> None:
    spec.extraConfig = [o for o in spec.extraConfig if o.key != MARKER] + [specs.option(MARKER, marker)]


def place(session: Session, host_ref: str) -> tuple[str, str]:
    """The VM folder of the host's datacenter, and the root pool of its compute resource."""
    parent = read(session, vim.HostSystem, host_ref, "parent")["parent"]
    pool = read(session, vim.ComputeResource, parent._moId, "resourcePool")["resourcePool"]
    while not isinstance(parent, vim.Datacenter):
        parent = read(session, type(parent), parent._moId, "parent").get("parent")
        if parent is None:
            raise RecoveryRefused("The host belongs to no datacenter; choose another host.")
    folder = read(session, vim.Datacenter, parent._moId, "vmFolder")["vmFolder"]
    return folder._moId, pool._moId


def _refuse_other_keys(session: Session, ref: str, config: VmConfig) -> None:
    devices = read(session, vim.VirtualMachine, ref, "config.hardware.device")["config.hardware.device"]
    made = {disk_of(each).key: disk_of(each).capacity_bytes for each in disks_of(devices)}
    if made != {disk.key: disk.capacity_bytes for disk in config.disks}:
        raise RecoveryRefused("vCenter made the VM with other disks than asked for; recover to another host.")


def reconfigure_vm(session: Session, vm_ref: str, config: VmConfig) -> None:
    paths = ("name", "runtime.powerState", "runtime.host", "snapshot", "config.files.vmPathName")
    values = read(session, vim.VirtualMachine, vm_ref, *paths, "config.hardware.device", "config.extraConfig")
    _refuse_busy(values)
    spec = specs.scalars(config)
    spec.version = None  # a VM's hardware version can only rise, by an upgrade of its own
    spec.extraConfig += _cleared_options(values, config)
    spec.deviceChange = _device_changes(session, values, config)
    wait(session, session.call(lambda stub: vim.VirtualMachine(vm_ref, stub).ReconfigVM_Task(spec)), TIMEOUT_S)


def _refuse_busy(values: dict[str, Any]) -> None:
    if values["runtime.powerState"] != OFF:
        raise RecoveryRefused(f"{values['name']} is powered on; power it off first.")
    if values.get("snapshot") is not None:
        raise RecoveryRefused(f"{values['name']} has snapshots; remove them first.")


def _cleared_options(values: dict[str, Any], config: VmConfig) -> list[Any]:
    kept = config.settings.get("options", {})
    present = {o.key for o in values.get("config.extraConfig") or () if o.key in configs.OPTIONS}
    return [specs.option(key, "") for key in sorted(present - set(kept))]


def _device_changes(session: Session, values: dict[str, Any], config: VmConfig) -> list[Any]:
    devices = values["config.hardware.device"]
    present = {each.key: each for each in devices}
    wanted = {disk.key: disk for disk in config.disks}
    surplus = [each for each in disks_of(devices) if each.key not in wanted]
    missing = [disk for disk in config.disks if disk.key not in present]
    lacking = [each for each in config.settings.get("controllers", ()) if each["key"] not in present]
    datastore = split_path(values["config.files.vmPathName"])[0]
    return [
        *(specs.removed(each) for each in surplus),
        *specs.controllers(lacking),
        *specs.disks(config, missing, datastore),
        *_resized(devices, wanted),
        *_card_changes(session, values, config),
    ]


def _resized(devices: Any, wanted: dict[int, Disk]) -> list[Any]:
    changes = []
    for each in disks_of(devices):
        disk, now_bytes = wanted.get(each.key), disk_of(each).capacity_bytes
        if disk is None or disk.capacity_bytes == now_bytes:
            continue
        if disk.capacity_bytes < now_bytes:
            raise RecoveryRefused(f"{disk.label} has been enlarged since and cannot shrink; recover the VM as new.")
        each.capacityInBytes, each.capacityInKB = disk.capacity_bytes, disk.capacity_bytes // 1024
        changes.append(specs.edited(each))
    return changes


def _card_changes(session: Session, values: dict[str, Any], config: VmConfig) -> list[Any]:
    """Cards keep their addresses where kind and network are as they were; else all are made anew."""
    present = [each for each in values["config.hardware.device"] if isinstance(each, networks.Card)]
    wanted = config.settings.get("networks", [])
    if [configs.card(session, each) for each in present] == wanted:
        return []
    available = networks.of_host(session, values["runtime.host"]._moId)
    return [*(specs.removed(each) for each in present), *specs.cards(wanted, available)]


def power(session: Session, vm_ref: str, on: bool) -> None:
    state = read(session, vim.VirtualMachine, vm_ref, "runtime.powerState")["runtime.powerState"]
    if (state == ON) == on:
        return

    def request(stub: Any) -> Any:
        vm = vim.VirtualMachine(vm_ref, stub)
        return vm.PowerOnVM_Task() if on else vm.PowerOffVM_Task()

    try:
        wait(session, session.call(request), TIMEOUT_S)
    except vim.fault.InvalidPowerState as fault:
        if (fault.existingState == ON) != on:
            raise


def destroy_vm(session: Session, vm_ref: str) -> None:
    try:
        power(session, vm_ref, False)
        wait(session, session.call(lambda stub: vim.VirtualMachine(vm_ref, stub).Destroy_Task()), TIMEOUT_S)
    except vmodl.fault.ManagedObjectNotFound:
        return


def enable_change_tracking(session: Session, vm_ref: str) -> bool:
    paths = ("config.changeTrackingEnabled", "capability.changeTrackingSupported")
    values = read(session, vim.VirtualMachine, vm_ref, *paths)
    if values.get("config.changeTrackingEnabled"):
        return True
    if not values.get("capability.changeTrackingSupported", True):
        return False
    spec = vim.vm.ConfigSpec(changeTrackingEnabled=True)
    wait(session, session.call(lambda stub: vim.VirtualMachine(vm_ref, stub).ReconfigVM_Task(spec)), TIMEOUT_S)
    return bool(read(session, vim.VirtualMachine, vm_ref, *paths).get("config.changeTrackingEnabled"))
