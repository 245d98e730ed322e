import logging
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from itertools import groupby

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from backups.archive import gc, locks, verify
from backups.archive.clock import store_time
from backups.archive.store import ObjectStore
from backups.errors import ArchiveDamaged, ArchiveMissing, Conflict, InvalidRequest
from backups.models import Archive, Plan, RecoveryItem, Repository, Tenant, Vm
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
    """The repository is asked first. Then the row, and the manifest after it: a kill between the two leaves a manifest
    that `collect` deletes. No other archive is touched, since every manifest is complete."""
    _learn_of_lock(archive)
    with transaction.atomic():
        held = _held(archive)
        if held.locked_until and held.locked_until > timezone.now():
            raise Conflict(f"This archive is locked until {_day(held.locked_until)}; nobody can delete it before.")
        if archive.recovery_items.filter(state__in=IN_USE).exists():
            raise Conflict("This archive is being recovered; delete it afterwards.")
        if held.state == ArchiveState.DELETED:
            raise Conflict("This archive has been deleted already.")
        Archive.objects.filter(pk=held.pk).update(state=ArchiveState.DELETED, deleted_at=timezone.now())
        audit.record(actor, held.tenant, "archive.delete", _subject(held), archive=str(held.pk), reason=reason)
    if refusal := finish_deleting(held, was=held.state):
        raise refusal


def finish_deleting(archive: Archive, *, was: str = ArchiveState.GOOD) -> Conflict | None:
    """Deletes the manifest of a row that says deleted, with the row locked, so that it is not brought back meanwhile.
    If somebody locked it in the repository, past this database, it stays, and its row is what it `was`: the refusal is
    returned."""
    with transaction.atomic():
        held = _held(archive)
        if held.state != ArchiveState.DELETED:
            return None
        try:
            gc.delete_archive(open_store(held.repository), str(held.tenant_id), str(held.pk))
        except Conflict as refusal:
            Archive.objects.filter(pk=held.pk).update(state=was, deleted_at=None)
            audit.record(None, held.tenant, "archive.keep", _subject(held), archive=str(held.pk), reason=str(refusal))
            return refusal
    return None


def undelete_archive(actor: Actor, archive: Archive) -> None:
    """The manifest first: after a kill between the two the row says deleted, and the call may be repeated. Raises
    ArchiveMissing when the time for it is over."""
    with transaction.atomic():
        held = _held(archive)
        if held.state != ArchiveState.DELETED:
            raise Conflict("This archive has not been deleted.")
        with suppress(Conflict):
            gc.undelete_archive(open_store(held.repository), str(held.tenant_id), str(held.pk))
        Archive.objects.filter(pk=held.pk).update(state=ArchiveState.GOOD, deleted_at=None, verified_at=None)
        audit.record(actor, held.tenant, "archive.undelete", _subject(held), archive=str(held.pk))


def _held(archive: Archive) -> Archive:
    return Archive.objects.select_for_update().get(pk=archive.pk)


def _learn_of_lock(archive: Archive) -> None:
    """A kill may have left a lock in the repository that the row does not tell of."""
    until = locks.locked_until(open_store(archive.repository), str(archive.tenant_id), str(archive.pk))
    if until:
        shorter = Q(locked_until=None) | Q(locked_until__lt=until)
        Archive.objects.filter(shorter, pk=archive.pk).update(locked_until=until)


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
    """A lock is only ever prolonged. The repository first, so that the row never claims a lock that is not there: after
    a kill between the two the archive is locked all the same, and the row learns of it when it is to be deleted."""
    if until <= timezone.now():
        raise InvalidRequest("A lock ends in the future; choose a later day.")
    _refuse_lock(Archive.objects.get(pk=archive.pk), until)
    locks.lock(open_store(archive.repository), str(archive.tenant_id), str(archive.pk), until)
    with transaction.atomic():
        held = _held(archive)
        _refuse_lock(held, until)
        held.locked_until = until
        held.save(update_fields=["locked_until"])
        detail = {"archive": str(held.pk), "until": until.isoformat()}
        audit.record(actor, held.tenant, "archive.lock", str(held), **detail)
    return held


def _refuse_lock(archive: Archive, until: datetime) -> None:
    if archive.state == ArchiveState.DELETED:
        raise Conflict("This archive has been deleted; nothing is left to lock.")
    if archive.locked_until and archive.locked_until > until:
        raise Conflict(f"The archive is locked until {_day(archive.locked_until)}; a lock is never shortened.")


def lock_as_the_rows_say(store: ObjectStore, repository: Repository, tenant: Tenant) -> None:
    """Locks that are older than locks in repositories, or whose repository was put back from a copy."""
    rows = Archive.objects.for_tenant(tenant).filter(repository=repository, locked_until__gt=timezone.now())
    rows = rows.exclude(state=ArchiveState.DELETED)
    there = locks.locked(store, str(tenant.pk), store_time(store, str(tenant.pk))) if rows else set()
    for archive in rows:
        if str(archive.pk) in there or archive.locked_until is None:
            continue
        try:
            locks.lock(store, str(tenant.pk), str(archive.pk), archive.locked_until)
        except (ArchiveMissing, InvalidRequest) as error:
            log.warning("%s is not locked in %s: %s", archive, repository, error)


def _subject(archive: Archive) -> str:
    return f"{archive.vm_name} of {archive.backup_time.isoformat()}"


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
