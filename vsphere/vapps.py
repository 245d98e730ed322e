"""vApps: resource settings, the order in which their VMs and the vApps in them start, and what they are nested in."""

from typing import Any

from pyVmomi import vim, vmodl

from backups.errors import NotFound, PlatformUnreachable
from backups.platform import VAppConfig
from vsphere.config import allocation, allocation_info
from vsphere.inventory import plain_name
from vsphere.properties import read, read_all, read_many
from vsphere.recovery import place
from vsphere.session import Session

UNLIMITED = {"reservation": 0, "limit": -1, "level": "normal", "shares": None}
ENTITY_FIELDS = {
    "start_order": "startOrder",
    "start_delay_s": "startDelay",
    "waiting_for_guest": "waitingForGuest",
    "start_action": "startAction",
    "stop_delay_s": "stopDelay",
    "stop_action": "stopAction",
}


def describe(session: Session, vapp_ref: str) -> VAppConfig:
    try:
        values = read(
            session,
            vim.VirtualApp,
            vapp_ref,
            "name",
            "config.cpuAllocation",
            "config.memoryAllocation",
            "vAppConfig.entityConfig",
            "parent",
        )
    except vmodl.fault.ManagedObjectNotFound as fault:
        raise NotFound("This vApp is no longer in vCenter; refresh the inventory.") from fault
    return VAppConfig(
        name=plain_name(values["name"]),
        settings={
            "cpu": allocation(values.get("config.cpuAllocation")),
            "memory": allocation(values.get("config.memoryAllocation")),
            "start_order": _start_order(session, values.get("vAppConfig.entityConfig") or []),
            "nested": _nested(session, values.get("vAppConfig.entityConfig") or []),
            "within": _within(session, values.get("parent")),
        },
    )


def _nested(session: Session, entities: list[Any]) -> list[dict[str, Any]]:
    """The vApps in it, by name, with their place in the order; each has an order of its own for its VMs."""
    vapps = [each for each in entities if isinstance(each.key, vim.VirtualApp)]
    names = read_many(session, vim.VirtualApp, [each.key._moId for each in vapps], "name")
    entries = [{"vapp": plain_name(names[e.key._moId]["name"])} | _entry(e) for e in vapps if e.key._moId in names]
    return sorted(entries, key=lambda entry: entry["vapp"])


def _within(session: Session, parent: Any) -> list[str]:
    """The names of the vApps around it, outermost first."""
    names: list[str] = []
    while isinstance(parent, vim.VirtualApp):
        values = read(session, vim.VirtualApp, parent._moId, "name", "parent")
        names.insert(0, plain_name(values["name"]))
        parent = values.get("parent")
    return names


def _start_order(session: Session, entities: list[Any]) -> list[dict[str, Any]]:
    """VMs only."""
    vms = [each for each in entities if isinstance(each.key, vim.VirtualMachine)]
    uuids = read_many(session, vim.VirtualMachine, [each.key._moId for each in vms], "config.instanceUuid")
    entries = [
        {"vm": uuids[each.key._moId]["config.instanceUuid"]} | _entry(each) for each in vms if uuids.get(each.key._moId)
    ]
    return sorted(entries, key=lambda entry: (entry["start_order"] or 0, entry["vm"]))


def _entry(entity: Any) -> dict[str, Any]:
    kept = {name: getattr(entity, field) for name, field in ENTITY_FIELDS.items()}
    return {name: str(value) if isinstance(value, str) else value for name, value in kept.items()}


def create(session: Session, config: VAppConfig, name: str, host_ref: str) -> str:
    """Inside the vApps that it was in, if these are still there."""
    folder_ref, root_ref = place(session, host_ref)
    pool_ref = _innermost(session, config.settings.get("within", []), root_ref)
    existing = _find(session, name, pool_ref)
    if existing:
        return existing

    def request(stub: Any) -> Any:
        nested = pool_ref != root_ref
        pool, folder = vim.ResourcePool(pool_ref, stub), None if nested else vim.Folder(folder_ref, stub)
        return pool.CreateVApp(name, _resources(UNLIMITED, UNLIMITED), vim.vApp.VAppConfigSpec(), folder)

    try:
        return str(session.call(request, repeatable=False)._moId)
    except PlatformUnreachable:
        existing = _find(session, name, pool_ref)
        if existing:
            return existing
        raise


def _innermost(session: Session, within: list[str], root_ref: str) -> str:
    pool_ref = root_ref
    for name in within:
        found = _find(session, name, pool_ref)
        if found is None:
            return root_ref
        pool_ref = found
    return pool_ref


def _find(session: Session, name: str, pool_ref: str) -> str | None:
    vapps = read_all(session, {vim.VirtualApp: ("name", "parent")})
    return next(
        (v.ref for v in vapps if plain_name(v.values["name"]) == name and v.values["parent"]._moId == pool_ref), None
    )


def _resources(cpu: dict[str, Any], memory: dict[str, Any]) -> Any:
    return vim.ResourceConfigSpec(cpuAllocation=_expandable(cpu), memoryAllocation=_expandable(memory))


def _expandable(kept: dict[str, Any]) -> Any:
    info = allocation_info(kept)
    info.expandableReservation = True
    return info


def configure(session: Session, vapp_ref: str, config: VAppConfig, vm_refs: dict[str, str]) -> None:
    """Entries of VMs and vApps that were not recovered are left out."""
    settings = config.settings
    order = [entry for entry in settings.get("start_order", []) if entry["vm"] in vm_refs]
    nested = [(entry, _find(session, entry["vapp"], vapp_ref)) for entry in settings.get("nested", [])]

    def request(stub: Any) -> None:
        vapp = vim.VirtualApp(vapp_ref, stub)
        vapp.UpdateConfig(None, _resources(settings.get("cpu") or UNLIMITED, settings.get("memory") or UNLIMITED))
        entities = [_entity(entry, vim.VirtualMachine(vm_refs[entry["vm"]], stub)) for entry in order]
        entities += [_entity(entry, vim.VirtualApp(ref, stub)) for entry, ref in nested if ref]
        if entities:
            vapp.UpdateVAppConfig(vim.vApp.VAppConfigSpec(entityConfig=entities))

    session.call(request)


def _entity(entry: dict[str, Any], member: Any) -> Any:
    kept = {field: entry.get(name) for name, field in ENTITY_FIELDS.items()}
    return vim.vApp.EntityConfigInfo(key=member, **kept)
