from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from django.db import transaction
from django.utils import timezone

from backups.errors import HotfirstError, Interrupted
from backups.models import Tenant, VApp, VCenter, Vm
from backups.platform import Inventory, InventoryChange, Platform
from backups.platform import Vm as PlatformVm
from backups.services import audit
from backups.services.audit import Actor

SEEN = ("ref", "name", "host", "datastore", "powered_on", "capacity_bytes", "vanished_at", "vapp")
SEEN_COLUMNS = (*SEEN[:-1], "vapp_id")
DECIDED = ("tenant", "plan")
BATCH_ROWS = 500
P = TypeVar("P", VApp, Vm)


def refresh(vcenter: VCenter) -> None:
    """Reads the whole inventory and stores it. On failure the reason is kept beside the vCenter, and raised."""
    from backups.services.vcenters import connect, what_is_lacking  # vcenters enrols with `store` below

    with kept_beside(vcenter):
        with connect(vcenter) as platform:
            seen, lacking = platform.inventory(), what_is_lacking(platform)
        with transaction.atomic():
            store(vcenter, seen, lacking)


def follow(
    vcenter: VCenter,
    platform: Platform,
    since: str | None,
    wait_s: float,
    *,
    lacking: str = "",
    first: Callable[[], None] = lambda: None,
) -> str:
    """For a worker that keeps a session: waits for a change, stores it in one transaction, and answers with the version
    for the next call. None at first; a version whose change was not stored leads to everything anew. `first` opens the
    transaction, and raises Interrupted if the change is not to be stored."""
    with kept_beside(vcenter):
        change = platform.watch(since, wait_s)
        with transaction.atomic():
            first()
            apply(vcenter, change, lacking)
    return change.version


@contextmanager
def kept_beside(vcenter: VCenter) -> Iterator[None]:
    try:
        yield
    except Interrupted:
        raise
    except HotfirstError as error:
        VCenter.objects.filter(pk=vcenter.pk).update(sync_error=error.provider_message)
        raise


def refresh_tenant(tenant: Tenant) -> None:
    """Every vCenter on which the tenant has something."""
    mine = VCenter.objects.filter(vms__tenant=tenant) | VCenter.objects.filter(vapps__tenant=tenant)
    for vcenter in mine.distinct():
        refresh(vcenter)


def store(vcenter: VCenter, seen: Inventory, lacking: str = "") -> None:
    """`lacking`: what the account may not do, for the provider to read."""
    apply(vcenter, InventoryChange(version="", full=True, seen=seen), lacking)


def apply(vcenter: VCenter, change: InventoryChange, lacking: str = "") -> None:
    """Rows are found by identity, so renames and moves keep their history; what has gone is marked, not deleted. Only
    rows that look different are written."""
    # First, since it holds the row: a refresh and a watcher do not make the same VM twice.
    vcenter.synced_at = timezone.now()
    VCenter.objects.filter(pk=vcenter.pk).update(synced_at=vcenter.synced_at, sync_error=lacking)
    vapps = _apply_vapps(vcenter, change)
    _apply_vms(vcenter, change, vapps)


def _apply_vapps(vcenter: VCenter, change: InventoryChange) -> dict[str, VApp]:
    """All that are there now, by ref."""
    rows = {row.ref: row for row in VApp.objects.filter(vcenter=vcenter)}
    new = [VApp(vcenter=vcenter, ref=each.ref, name=each.name) for each in change.seen.vapps if each.ref not in rows]
    VApp.objects.bulk_create(new, BATCH_ROWS)
    rows |= {row.ref: row for row in new}
    changed = []
    for each in change.seen.vapps:
        row, parent = rows[each.ref], rows.get(each.parent_ref or "")
        if (row.name, row.parent_id, row.vanished_at) != (each.name, parent.pk if parent else None, None):
            row.name, row.parent, row.vanished_at = each.name, parent, None
            changed.append(row)
    VApp.objects.bulk_update(changed, ["name", "parent", "vanished_at"], BATCH_ROWS)
    here = {each.ref for each in change.seen.vapps}
    gone = [row for row in rows.values() if (row.ref not in here if change.full else row.ref in change.gone)]
    VApp.objects.bulk_update(_marked(gone), ["vanished_at"], BATCH_ROWS)
    return {row.ref: row for row in rows.values() if row.vanished_at is None}


def _apply_vms(vcenter: VCenter, change: InventoryChange, vapps: dict[str, VApp]) -> None:
    known = _known_vms(vcenter, change)
    new, changed, moved = [], [], []
    for vm in change.seen.vms:
        row, vapp = known.get(vm.uuid), vapps.get(vm.vapp_ref or "")
        if row is None:
            row = known[vm.uuid] = Vm(vcenter=vcenter, instance_uuid=vm.uuid)
            _copy(vm, row, vapp)
            new.append(row)
            continue
        before = [getattr(row, name) for name in SEEN_COLUMNS]
        # What people decide is written only where the vApp decides otherwise: they may be deciding just now.
        if _copy(vm, row, vapp):
            moved.append(row)
        elif before != [getattr(row, name) for name in SEEN_COLUMNS]:
            changed.append(row)
    Vm.objects.bulk_create(new, BATCH_ROWS)
    Vm.objects.bulk_update(changed, SEEN, BATCH_ROWS)
    Vm.objects.bulk_update(moved, [*SEEN, *DECIDED], BATCH_ROWS)
    Vm.objects.bulk_update(_marked(_gone_vms(known, change)), ["vanished_at"], BATCH_ROWS)


def _known_vms(vcenter: VCenter, change: InventoryChange) -> dict[str, Vm]:
    rows = Vm.objects.filter(vcenter=vcenter)
    if not change.full:
        told = [vm.uuid for vm in (*change.seen.vms, *change.seen.templates)]
        rows = rows.filter(instance_uuid__in=told) | rows.filter(ref__in=change.gone)
    return {row.instance_uuid: row for row in rows}


def _gone_vms(known: dict[str, Vm], change: InventoryChange) -> list[Vm]:
    """A template is not backed up: its row waits as that of a VM does that has gone."""
    here = {vm.uuid for vm in change.seen.vms}
    templates = {vm.uuid for vm in change.seen.templates}
    if change.full:
        return [row for uuid, row in known.items() if uuid not in here]
    return [row for uuid, row in known.items() if uuid in templates or (row.ref in change.gone and uuid not in here)]


def _marked(gone: list[P]) -> list[P]:
    fresh = [row for row in gone if row.vanished_at is None]
    for row in fresh:
        row.vanished_at = timezone.now()
    return fresh


def _copy(vm: PlatformVm, row: Vm, vapp: VApp | None) -> bool:
    """A VM belongs to the tenant of its vApp; outside one, to whom it was assigned. True if that changed."""
    row.ref, row.name, row.host, row.datastore = vm.ref, vm.name, vm.host, vm.datastore
    row.powered_on, row.capacity_bytes, row.vanished_at = vm.powered_on, vm.capacity_bytes, None
    row.vapp = vapp
    moved = vapp is not None and row.tenant_id != vapp.tenant_id
    if vapp and moved:
        row.tenant, row.plan = vapp.tenant, None
    return moved


@transaction.atomic
def assign_vapp(actor: Actor, vapp: VApp, tenant: Tenant | None) -> None:
    """The vApp and its VMs, now and later, belong to the tenant; plans of the one before no longer apply."""
    if vapp.tenant_id != (tenant.pk if tenant else None):
        VApp.objects.filter(pk=vapp.pk).update(tenant=tenant, plan=None)
        Vm.objects.filter(vapp=vapp).update(tenant=tenant, plan=None)
        audit.record(actor, tenant, "vapp.assign", vapp.name, to=tenant.name if tenant else None)


@transaction.atomic
def assign_vm(actor: Actor, vm: Vm, tenant: Tenant | None) -> None:
    if vm.tenant_id != (tenant.pk if tenant else None):
        Vm.objects.filter(pk=vm.pk).update(tenant=tenant, plan=None)
        audit.record(actor, tenant, "vm.assign", vm.name, to=tenant.name if tenant else None)
