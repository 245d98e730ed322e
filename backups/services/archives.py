from collections.abc import Iterable

from django.db import transaction
from django.utils import timezone

from backups.archive import gc, verify
from backups.errors import ArchiveDamaged, Conflict
from backups.models import Archive, Plan, Vm
from backups.models.archives import ArchiveState
from backups.models.recoveries import RecoveryState
from backups.retention import Kept, reasons_to_keep
from backups.services import audit
from backups.services.audit import Actor
from backups.services.repositories import open_store
from backups.services.tenants import reading_keys

IN_USE = (RecoveryState.QUEUED, RecoveryState.RUNNING)


def delete_archive(actor: Actor, archive: Archive, reason: str = "by hand") -> None:
    """The row first, the manifest after it: a kill between the two leaves a manifest that the tick deletes. No
    other archive is touched, since every manifest is complete."""
    with transaction.atomic():
        Archive.objects.select_for_update().get(pk=archive.pk)
        if archive.recovery_items.filter(state__in=IN_USE).exists():
            raise Conflict("This archive is being recovered; delete it afterwards.")
        open_archive = Archive.objects.filter(pk=archive.pk).exclude(state=ArchiveState.DELETED)
        if not open_archive.update(state=ArchiveState.DELETED, deleted_at=timezone.now()):
            raise Conflict("This archive has been deleted already.")
        subject = f"{archive.vm_name} of {archive.backup_time.isoformat()}"
        audit.record(actor, archive.tenant, "archive.delete", subject, archive=str(archive.pk), reason=reason)
    gc.delete_archive(open_store(archive.repository), str(archive.tenant_id), str(archive.pk))


def verify_archive(actor: Actor, archive: Archive) -> bool:
    """Reads, decrypts and compares all of it. A damaged archive is marked, and the next run reads everything."""
    try:
        verify.check(open_store(archive.repository), reading_keys(archive.tenant), str(archive.pk))
        state = ArchiveState.GOOD
    except ArchiveDamaged:
        state = ArchiveState.DAMAGED
    with transaction.atomic():
        kept = Archive.objects.filter(pk=archive.pk).exclude(state=ArchiveState.DELETED)
        kept.update(state=state, verified_at=timezone.now())
        audit.record(actor, archive.tenant, "archive.verify", str(archive), archive=str(archive.pk), state=state)
    return state == ArchiveState.GOOD


def apply_retention(plan: Plan, vms: Iterable[Vm]) -> None:
    """Called after each run. Only archives that this plan's tenant has of these VMs are considered."""
    for vm in vms:
        good = Archive.objects.for_tenant(plan.tenant).filter(vm=vm, state=ArchiveState.GOOD)
        archives = list(good.exclude(recovery_items__state__in=IN_USE))
        kept = reasons_to_keep(
            [Kept(id=str(a.pk), backup_time=a.backup_time) for a in archives],
            count=plan.keep_count,
            days=plan.keep_days,
            now=timezone.now(),
        )
        for archive in archives:
            if str(archive.pk) not in kept:
                delete_archive(None, archive, reason=f"retention of {plan.name}")
