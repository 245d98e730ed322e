import logging
from collections.abc import Iterable
from datetime import datetime
from itertools import groupby

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from backups.archive import gc, verify
from backups.errors import ArchiveDamaged, Conflict, InvalidRequest
from backups.models import Archive, Plan, RecoveryItem, Vm
from backups.models.archives import ArchiveState
from backups.models.recoveries import RecoveryState
from backups.retention import Candidate, Verdict, judge
from backups.services import audit
from backups.services.audit import Actor
from backups.services.plans import rules_of, vms_of
from backups.services.repositories import open_store
from backups.services.tenants import reading_keys

log = logging.getLogger(__name__)
IN_USE = (RecoveryState.QUEUED, RecoveryState.RUNNING)


def delete_archive(actor: Actor, archive: Archive, reason: str = "by hand") -> None:
    """The row first, the manifest after it: a kill between the two leaves a manifest that the tick deletes. No
    other archive is touched, since every manifest is complete."""
    with transaction.atomic():
        held = Archive.objects.select_for_update().get(pk=archive.pk)
        if held.locked_until and held.locked_until > timezone.now():
            raise Conflict(f"This archive is locked until {_day(held.locked_until)}; nobody can delete it before.")
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
    now = timezone.now()
    for vm in vms:
        for archive, verdict in retention_of(plan, vm, now):
            if not verdict.stays:
                _delete_by_rule(archive, f"retention of {plan.name}: {verdict}")


def _delete_by_rule(archive: Archive, reason: str) -> None:
    try:
        delete_archive(None, archive, reason)
    except Conflict as error:
        log.info("retention leaves %s: %s", archive, error)


def retention_of(plan: Plan, vm: Vm, now: datetime) -> list[tuple[Archive, Verdict]]:
    """What the plan's rules say now of each archive of the VM, newest first."""
    return _judged(plan, _present(plan).filter(vm=vm), now)


def dry_run(plan: Plan, now: datetime) -> list[tuple[Archive, Verdict]]:
    """The same of all VMs that the plan protects, without deleting anything. The plan need not be saved."""
    there = _present(plan).filter(vm__in=vms_of(plan)).defer("change_ids", "vapp_config").order_by("vm")
    by_vm = groupby(there, key=lambda archive: archive.vm_id)
    return [judged for _, archives in by_vm for judged in _judged(plan, archives, now)]


def _present(plan: Plan) -> QuerySet[Archive]:
    used = RecoveryItem.objects.filter(archive=OuterRef("pk"), state__in=IN_USE)
    return Archive.objects.for_tenant(plan.tenant).exclude(state=ArchiveState.DELETED).annotate(in_use=Exists(used))


def _judged(plan: Plan, archives: Iterable[Archive], now: datetime) -> list[tuple[Archive, Verdict]]:
    there = {str(archive.pk): archive for archive in archives}
    verdicts = judge(rules_of(plan), [_candidate(archive) for archive in there.values()], now)
    return [(there[key], verdict) for key, verdict in verdicts.items()]


def _candidate(archive: Archive) -> Candidate:
    return Candidate(
        id=str(archive.pk),
        backup_time=archive.backup_time,
        good=archive.state == ArchiveState.GOOD,
        locked_until=archive.locked_until,
        in_use=archive.in_use,  # type: ignore[attr-defined]
    )


def lock_archive(actor: Actor, archive: Archive, until: datetime) -> Archive:
    """A lock is only ever prolonged."""
    if until <= timezone.now():
        raise InvalidRequest("A lock ends in the future; choose a later day.")
    with transaction.atomic():
        held = Archive.objects.select_for_update().get(pk=archive.pk)
        if held.state == ArchiveState.DELETED:
            raise Conflict("This archive has been deleted; nothing is left to lock.")
        if held.locked_until and held.locked_until > until:
            raise Conflict(f"The archive is locked until {_day(held.locked_until)}; a lock is never shortened.")
        held.locked_until = until
        held.save(update_fields=["locked_until"])
        detail = {"archive": str(held.pk), "until": until.isoformat()}
        audit.record(actor, held.tenant, "archive.lock", str(held), **detail)
    return held


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
