from django.db import transaction
from django.utils import timezone

from backups.errors import HotfirstError
from backups.models import Tenant, VApp, VCenter, Vm
from backups.platform import Inventory
from backups.platform import Vm as PlatformVm
from backups.services import audit
from backups.services.audit import Actor

SEEN = ("ref", "name", "host", "datastore", "powered_on", "capacity_bytes", "vanished_at", "vapp")


def refresh(vcenter: VCenter) -> None:
    """Reads the whole inventory and stores it. On failure the reason is kept beside the vCenter, and raised."""
    from backups.services.vcenters import connect  # vcenters enrols with `store` below

    try:
        with connect(vcenter) as platform:
            seen = platform.inventory()
    except HotfirstError as error:
        VCenter.objects.filter(pk=vcenter.pk).update(sync_error=error.provider_message)
        raise
    with transaction.atomic():
        store(vcenter, seen)


def refresh_tenant(tenant: Tenant) -> None:
    """Every vCenter on which the tenant has something."""
    mine = VCenter.objects.filter(vms__tenant=tenant) | VCenter.objects.filter(vapps__tenant=tenant)
    for vcenter in mine.distinct():
        refresh(vcenter)


def store(vcenter: VCenter, seen: Inventory) -> None:
    """Rows are found by identity, so renames and moves keep their history; what has gone is marked, not deleted."""
    vapps = _store_vapps(vcenter, seen)
    _store_vms(vcenter, seen, vapps)
    VCenter.objects.filter(pk=vcenter.pk).update(synced_at=timezone.now(), sync_error="")


def _store_vapps(vcenter: VCenter, seen: Inventory) -> dict[str, VApp]:
    rows: dict[str, VApp] = {}
    for vapp in seen.vapps:
        rows[vapp.ref], _ = VApp.objects.update_or_create(
            vcenter=vcenter, ref=vapp.ref, defaults={"name": vapp.name, "vanished_at": None}
        )
    for vapp in seen.vapps:
        parent = rows.get(vapp.parent_ref or "")
        if rows[vapp.ref].parent_id != (parent.pk if parent else None):
            VApp.objects.filter(pk=rows[vapp.ref].pk).update(parent=parent)
    gone = VApp.objects.filter(vcenter=vcenter, vanished_at=None).exclude(ref__in=rows)
    gone.update(vanished_at=timezone.now())
    return rows


def _store_vms(vcenter: VCenter, seen: Inventory, vapps: dict[str, VApp]) -> None:
    known = {vm.instance_uuid: vm for vm in Vm.objects.filter(vcenter=vcenter)}
    for vm in seen.vms:
        row = known.get(vm.uuid)
        vapp = vapps.get(vm.vapp_ref or "")
        if row is None:
            row = Vm(vcenter=vcenter, instance_uuid=vm.uuid)
            _copy(vm, row, vapp)
            row.save(force_insert=True)
        else:
            # What people decide is written only where the vApp decides otherwise: they may be deciding just now.
            decided = ["tenant", "plan"] if _copy(vm, row, vapp) else []
            row.save(update_fields=[*SEEN, *decided])
    gone = Vm.objects.filter(vcenter=vcenter, vanished_at=None).exclude(instance_uuid__in=[vm.uuid for vm in seen.vms])
    gone.update(vanished_at=timezone.now())


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
