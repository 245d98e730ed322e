from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Count, QuerySet
from django.utils import timezone

from backups.engine.recovering import Placement
from backups.errors import Conflict, InvalidRequest
from backups.events import publish
from backups.locks import exclusive
from backups.models import Archive, Recovery, RecoveryItem, Run, RunItem, Tenant, VApp, VCenter
from backups.models.archives import ArchiveState
from backups.models.recoveries import RECOVERY_FINAL, RecoveryMode, RecoveryState
from backups.models.runs import HOLDING
from backups.queues import hint
from backups.services import audit
from backups.services.audit import Actor
from backups.services.placements import check_placement

AS_ARCHIVED = Placement()


@dataclass(frozen=True)
class RecoveryPoint:
    """What a vApp can be recovered to: the archives of its VMs from one run. Not `complete` where the run archived
    only some of the vApp's VMs."""

    run: Run
    backup_time: datetime
    archives: list[Archive]
    complete: bool


def recovery_points(tenant: Tenant, vapp_name: str) -> list[RecoveryPoint]:
    """Newest first."""
    archives = Archive.objects.for_tenant(tenant).filter(vapp_name=vapp_name, state=ArchiveState.GOOD)
    by_run: dict[Run, list[Archive]] = {}
    for archive in archives.exclude(run=None).select_related("run", "vm__vcenter").order_by("vm_name"):
        if archive.run:
            by_run.setdefault(archive.run, []).append(archive)
    items = RunItem.objects.for_tenant(tenant).filter(run__in=by_run, vapp_name=vapp_name).order_by()
    vms_in = dict(items.values_list("run").annotate(Count("pk")))
    points = [
        RecoveryPoint(run, min(a.backup_time for a in mine), mine, len(mine) == vms_in.get(run.pk, 0))
        for run, mine in by_run.items()
    ]
    return sorted(points, key=lambda point: point.backup_time, reverse=True)


def start_recovery(
    actor: Actor,
    tenant: Tenant,
    archives: Sequence[Archive],
    *,
    mode: str,
    vapp_name: str = "",
    new_name: str = "",
    power_on: bool = False,
    placement: Placement = AS_ARCHIVED,
    everywhere: bool = False,
) -> Recovery:
    """One archive per VM. With `vapp_name` a whole vApp is recovered, as new under `new_name`; without it, the VMs
    alone. `everywhere`: the VMs may be placed anywhere, not only where the tenant's own are. The work itself is a
    worker's."""
    check_recovery(tenant, archives, mode, vapp_name, new_name)
    check_placement(tenant, archives, mode, placement, everywhere=everywhere)
    vcenter = archives[0].vm.vcenter
    with exclusive(f"recover {vcenter.pk}"):
        _hold(archives)
        _refuse_overlap(archives, mode)
        _refuse_same_name(vcenter, mode, vapp_name, new_name)
        recovery = Recovery.objects.create(
            tenant=tenant,
            vcenter=vcenter,
            requested_by=actor if isinstance(actor, User) else None,
            mode=mode,
            vapp_name=vapp_name,
            new_name=new_name,
            power_on=power_on,
            host=placement.host,
            datastore=placement.datastore,
            networks=dict(placement.networks),
            same_identity=placement.same_identity,
        )
        _add_items(recovery, archives)
        names = ", ".join(archive.vm_name for archive in archives)
        audit.record(
            actor, tenant, "recovery.start", vapp_name or names, mode=mode, vms=names, recovery=str(recovery.pk)
        )
        hint_recovery(recovery)
    return recovery


def _hold(archives: Sequence[Archive]) -> None:
    """Until the recovery is committed nobody deletes them: deleting takes the same row locks."""
    wanted = Archive.objects.select_for_update().filter(pk__in=[archive.pk for archive in archives])
    if sum(archive.state == ArchiveState.GOOD for archive in wanted) < len(archives):
        raise Conflict("An archive was deleted or found damaged meanwhile; choose another backup time.")


def _add_items(recovery: Recovery, archives: Sequence[Archive]) -> None:
    RecoveryItem.objects.bulk_create(
        RecoveryItem(
            recovery=recovery,
            tenant=recovery.tenant,
            archive=archive,
            vm_name=archive.vm_name,
            bytes_total=archive.bytes_total,
        )
        for archive in archives
    )


def check_recovery(
    tenant: Tenant, archives: Sequence[Archive], mode: str, vapp_name: str = "", new_name: str = ""
) -> None:
    """Raises InvalidRequest with what cannot be, as far as is known before anything is begun."""
    if not archives:
        raise InvalidRequest("Choose at least one archive to recover.")
    if any(archive.tenant_id != tenant.pk for archive in archives):
        raise InvalidRequest("These archives do not all belong to this tenant.")
    if any(archive.state != ArchiveState.GOOD for archive in archives):
        raise InvalidRequest("An archive that is damaged or deleted cannot be recovered; choose another backup time.")
    if len({archive.vm_id for archive in archives}) < len(archives):
        raise InvalidRequest("Choose one archive for each VM.")
    if len({archive.vm.vcenter_id for archive in archives}) > 1:
        raise InvalidRequest("These VMs lie in different vCenters; recover those of each vCenter by themselves.")
    if mode not in RecoveryMode.values:
        raise InvalidRequest("Recover either in place, or as new.")
    lost = next((archive for archive in archives if archive.vm.tenant_id != tenant.pk), None)
    if mode == RecoveryMode.IN_PLACE and lost:
        raise InvalidRequest(f"{lost.vm_name} no longer belongs to this tenant; recover it as new instead.")
    gone = next((archive for archive in archives if archive.vm.vanished_at), None)
    if mode == RecoveryMode.IN_PLACE and gone:
        raise InvalidRequest(f"{gone.vm_name} is no longer in vCenter; recover it as new instead.")
    if mode == RecoveryMode.AS_NEW and vapp_name:
        _check_new_vapp(archives[0], new_name)


def _check_new_vapp(archive: Archive, new_name: str) -> None:
    if not new_name.strip():
        raise InvalidRequest("Give the new vApp a name.")
    taken = VApp.objects.filter(vcenter=archive.vm.vcenter, name=new_name, vanished_at=None)
    if taken.exists():
        raise InvalidRequest(f"There is a vApp named {new_name} already; choose another name.")


def _refuse_overlap(archives: Sequence[Archive], mode: str) -> None:
    if mode != RecoveryMode.IN_PLACE:
        return
    vms = [archive.vm_id for archive in archives]
    if (other := in_place_now().filter(archive__vm__in=vms).first()) is not None:
        raise Conflict(f"{other.vm_name} is being recovered in place already; wait until that ends.")
    if (held := RunItem.objects.filter(vm__in=vms, state__in=HOLDING).first()) is not None:
        raise Conflict(f"{held.vm_name} is being backed up; wait until that ends, or cancel the run.")


def _refuse_same_name(vcenter: VCenter, mode: str, vapp_name: str, new_name: str) -> None:
    if mode != RecoveryMode.AS_NEW or not vapp_name:
        return
    going_on = Recovery.objects.filter(vcenter=vcenter, new_name=new_name).exclude(vapp_name="")
    if going_on.exclude(state__in=RECOVERY_FINAL).exists():
        raise Conflict(f"A vApp is being recovered as {new_name} already; choose another name.")


def in_place_now() -> QuerySet[RecoveryItem]:
    going_on = RecoveryItem.objects.filter(recovery__mode=RecoveryMode.IN_PLACE)
    return going_on.exclude(recovery__state__in=RECOVERY_FINAL)


def cancel_recovery(actor: Actor, recovery: Recovery) -> None:
    """What is half done is cleaned up by the worker. A VM recovered in place is left powered off, and says so."""
    with transaction.atomic():
        if not Recovery.objects.filter(pk=recovery.pk).exclude(state__in=RECOVERY_FINAL).update(cancelled=True):
            raise Conflict("This recovery has ended already.")
        audit.record(actor, recovery.tenant, "recovery.cancel", str(recovery), recovery=str(recovery.pk))
        hint_recovery(recovery)
        publish(recovery.pk, {"cancelled": True})


def hint_recovery(recovery: Recovery) -> None:
    Recovery.objects.filter(pk=recovery.pk).update(hinted_at=timezone.now())
    hint("backups.tasks.recover.recover", str(recovery.pk), long=True)


def end_recovery(recovery: Recovery) -> None:
    """Failed if any of its VMs failed; the sentence counts them."""
    recovery.refresh_from_db(fields=["cancelled"])
    items = list(recovery.items.all())
    good = sum(item.state == RecoveryState.SUCCEEDED for item in items)
    state = RecoveryState.SUCCEEDED if good == len(items) else RecoveryState.FAILED
    if recovery.cancelled and good < len(items):
        state = RecoveryState.CANCELLED
    told = recovery.message if recovery.error_code else f"{good} of {len(items)} VMs recovered."
    with transaction.atomic():
        ended = {"finished_at": timezone.now(), "message": told, "lease_owner": "", "lease_until": None}
        if recovery.transition(state, **ended):
            audit.record(None, recovery.tenant, "recovery.end", str(recovery), state=state, message=told)
            publish(recovery.pk, {"state": state, "end": True})
