"""Each minute: starts what is due, and puts right whatever a dead worker left. Harmless when run twice at once."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from backups.errors import Conflict, HotfirstError, InvalidRequest, PlatformError
from backups.events import publish
from backups.leases import DRAIN, NO_LEASE, Repeating
from backups.locks import DATABASE_AWAY
from backups.models import Event, Plan, Recovery, Run, RunItem, SnapshotRecord, VCenter
from backups.models.recoveries import RECOVERY_FINAL
from backups.models.runs import HOLDING, RUN_FINAL, ItemState
from backups.platform import Platform
from backups.queues import hint
from backups.schedule import due
from backups.services.datastores import measure_datastores
from backups.services.loads import measure_items, set_priorities
from backups.services.plans import schedule_of
from backups.services.recoveries import hint_recovery
from backups.services.runs import finish_if_done, hint_coordinator, hint_readers, record_missed, start_run
from backups.services.selection import explain_waiting, free
from backups.services.steering import cancel_open_items, give_back_for_pause, keep_budget
from backups.services.vcenters import connect
from backups.tasks.read import give_up_removal

log = logging.getLogger(__name__)
MAX_FAILURES = 3
HINT_AGAIN_S = 45
LOAD_KEPT = timedelta(minutes=5)
EVENTS_KEPT = timedelta(days=1)
SWEPT_FOR = timedelta(days=1)
SWEEP_AGAIN = timedelta(seconds=50)
LATE_AGAIN = timedelta(minutes=10)


def tick() -> None:
    if DRAIN.value:
        return
    now = timezone.now()
    for step in (start_due_plans, reap_items, refresh_loads, measure_gated, look_after_runs, look_after_recoveries):
        _apart(step, now)
    _apart(look_for_orphans, now)
    hint("backups.tasks.sample.sample")
    Event.objects.filter(at__lt=now - EVENTS_KEPT).delete()


def _apart(step: Callable[..., None], *subject: Any) -> None:
    """One tenant's bad row must not keep the others from being looked after."""
    try:
        step(*subject)
    except DATABASE_AWAY:
        raise
    except Exception:
        log.exception("%s of %s", step.__name__, subject)


def start_due_plans(now: datetime) -> None:
    """A slot that was missed is caught up once. The next start moves on first, and only one tick moves it."""
    for plan in Plan.objects.filter(next_start_at__lte=now).select_related("tenant", "repository"):
        _apart(_start_due, plan, now)


def _start_due(plan: Plan, now: datetime) -> None:
    missed = plan.next_start_at
    assert missed is not None  # noqa: S101
    slot, following = due(schedule_of(plan), missed, now)
    with transaction.atomic():
        moved = Plan.objects.filter(pk=plan.pk, next_start_at=missed).update(next_start_at=following)
        if moved and slot:
            _start(plan, slot)


def _start(plan: Plan, slot: datetime) -> None:
    try:
        start_run(None, plan, scheduled_for=slot)
    except InvalidRequest as error:
        record_missed(plan, slot, error)
    except Conflict as error:
        if plan.runs.exclude(state__in=RUN_FINAL).filter(_at_rest(slot)).exists():
            # A run that is paused, or waits for its time, may be forgotten: so the start that it costs is told.
            record_missed(plan, slot, error)
    except HotfirstError as error:
        log.warning("the start of %s at %s was left out: %s", plan, slot, error)


def _at_rest(now: datetime) -> Q:
    return ~Q(paused_at=None) | Q(common_time__gt=now)


def reap_items(now: datetime) -> None:
    """A reader that died kept the snapshot; the item waits again, so its backup time stays."""
    for item in RunItem.objects.filter(state=ItemState.REMOVING, lease_until__lt=now).exclude(lease_owner=""):
        _reap_removal(item)
    for item in RunItem.objects.filter(state=ItemState.ARCHIVING, lease_until__lt=now):
        failures = {"failures": item.failures + 1, **NO_LEASE}
        if item.failures + 1 < MAX_FAILURES:
            item.transition(ItemState.WAITING, reader=None, **failures)
        else:
            told = "The worker that archived this VM was lost, several times; tell your provider."
            item.transition(ItemState.REMOVING, outcome=ItemState.FAILED, message=told, **failures)
        publish(item.run_id, {"item": str(item.pk), "state": item.state})


def _reap_removal(item: RunItem) -> None:
    if item.failures + 1 < MAX_FAILURES:
        item.transition(ItemState.REMOVING, failures=item.failures + 1, **NO_LEASE)
    else:
        give_up_removal(
            item, PlatformError("The workers that removed it were lost, several times; tell your provider.")
        )


def refresh_loads(now: datetime) -> None:
    """A VM that turned busy while it waited moves up."""
    stale = RunItem.objects.filter(state=ItemState.WAITING, load_at__lt=now - LOAD_KEPT)
    for run in Run.objects.filter(pk__in=stale.values("run")):
        for vcenter in VCenter.objects.filter(vms__run_items__in=stale.filter(run=run)).distinct():
            try:
                _refresh_loads(run, vcenter)
            except HotfirstError as error:
                log.warning("loads of %s on %s: %s", run, vcenter, error)


def _refresh_loads(run: Run, vcenter: VCenter) -> None:
    waiting = RunItem.objects.filter(run=run, state=ItemState.WAITING, vm__vcenter=vcenter).select_related("vm")
    items = list(waiting)
    with connect(vcenter) as platform:
        measure_items(platform, items)
    set_priorities(run.policy, items)


def look_after_runs(now: datetime) -> None:
    for run in Run.objects.exclude(state__in=RUN_FINAL):
        _apart(_look_after_run, run, now)


def _look_after_run(run: Run, now: datetime) -> None:
    if run.cancel:
        cancel_open_items(run)
    elif run.paused_at:
        give_back_for_pause(run)
    else:
        keep_budget(run)
    items = RunItem.objects.filter(run=run)
    unattended = run.lease_until is None or run.lease_until < now
    stale = run.hinted_at is None or run.hinted_at < now - timedelta(seconds=HINT_AGAIN_S)
    to_coordinate = items.filter(state__in=(ItemState.QUEUED, ItemState.SNAPSHOTTING)).exists()
    if unattended and to_coordinate and (stale or run.lease_until):
        hint_coordinator(run)
    claimable = items.filter(free(now), state__in=(ItemState.WAITING, ItemState.REMOVING))
    busy = items.filter(state=ItemState.ARCHIVING).count()
    hint_readers(min(claimable.count(), max(run.readers - busy, 1)))
    explain_waiting(run)
    finish_if_done(run)


def measure_gated(_: datetime) -> None:
    """Where nothing new starts, nobody else would notice that the datastore has become quick again."""
    waiting = RunItem.objects.filter(state=ItemState.WAITING)
    for vcenter in VCenter.objects.filter(latency_stop_ms__gt=0, vms__run_items__in=waiting).distinct():
        try:
            with connect(vcenter) as platform:
                measure_datastores(vcenter, platform)
        except HotfirstError as error:
            log.warning("datastores of %s: %s", vcenter, error)


def look_after_recoveries(now: datetime) -> None:
    stale = now - timedelta(seconds=HINT_AGAIN_S)
    dead = Q(lease_until__lt=now) | Q(lease_until=None, hinted_at__lt=stale)
    for recovery in Recovery.objects.exclude(state__in=RECOVERY_FINAL).filter(dead):
        hint_recovery(recovery)


def look_for_orphans(now: datetime) -> None:
    """Removal can take as long as vCenter likes, so it is long work, and one worker's for each vCenter."""
    open_orphans, late = _orphans()
    not_lately = Q(swept_at=None) | Q(swept_at__lt=now - LATE_AGAIN)
    due = Q(pk__in=open_orphans.values("vcenter")) | not_lately & Q(pk__in=late.values("vcenter"))
    for vcenter in VCenter.objects.filter(due):
        hint("backups.tasks.tick.remove_orphans", str(vcenter.pk), long=True)


def remove_orphans(vcenter_id: str) -> None:
    """Journalled snapshots that no item holds; and those that turned up in vCenter after their row was closed,
    which a request that outlived its worker can make."""
    now = timezone.now()
    free_now = Q(swept_at=None) | Q(swept_at__lt=now - SWEEP_AGAIN)
    if not VCenter.objects.filter(free_now, pk=vcenter_id).update(swept_at=now):
        return
    vcenter = VCenter.objects.get(pk=vcenter_id)
    open_orphans, late = _orphans()
    try:
        with Repeating(lambda: VCenter.objects.filter(pk=vcenter_id).update(swept_at=timezone.now()), SWEEP_AGAIN / 3):
            _sweep(vcenter, [*open_orphans.filter(vcenter=vcenter)], {r.name for r in late.filter(vcenter=vcenter)})
    except HotfirstError as error:
        log.warning("orphaned snapshots on %s: %s", vcenter, error)


def _orphans() -> tuple[QuerySet[SnapshotRecord], QuerySet[SnapshotRecord]]:
    held = Q(item__state__in=HOLDING, name=F("item__snapshot_name"))
    records = SnapshotRecord.objects.exclude(held)
    return records.filter(removed_at=None), records.filter(created_at__gt=timezone.now() - SWEPT_FOR)


def _sweep(vcenter: VCenter, orphans: list[SnapshotRecord], late: set[str]) -> None:
    with connect(vcenter) as platform:
        for record in orphans:
            if _removed(platform, record.name, record.vm_ref):
                SnapshotRecord.objects.filter(pk=record.pk).update(removed_at=timezone.now())
        for snapshot in platform.find_snapshots("hotfirst-"):
            if snapshot.name in late:
                _removed(platform, snapshot.name, snapshot.vm_ref)


def _removed(platform: Platform, name: str, vm_ref: str) -> bool:
    """One that will not go must not keep the others."""
    try:
        platform.remove_snapshot(name, vm_ref)
    except HotfirstError as error:
        log.warning("the orphaned snapshot %s: %s", name, error)
        return False
    log.info("removed the orphaned snapshot %s", name)
    return True
