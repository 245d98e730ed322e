"""A reader: takes the waiting VM of the highest priority, archives it, removes its snapshot, takes the next."""

import logging
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import Count, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone

from backups.errors import HotfirstError, Interrupted
from backups.events import publish
from backups.leases import DRAIN, NO_LEASE, Heartbeat, lease_fields, release
from backups.locks import exclusive
from backups.models import Run, RunItem, SnapshotRecord
from backups.models.runs import CancelMode, ItemState, RunState
from backups.platform import Platform
from backups.services.archiving import archive_item
from backups.services.runs import finish_if_done, hint_coordinator
from backups.services.vcenters import connect

log = logging.getLogger(__name__)
MAX_FAILURES = 3
RETRY_S = 10


def read_waiting() -> None:
    while not DRAIN.value and (item := claim()):
        _work_at(item)
        _look_after(item.run)


def claim() -> RunItem | None:
    """The next item, under a lock over all readers everywhere: so caps hold and the order is exact."""
    with exclusive("selection"):
        now = timezone.now()
        free = Q(lease_until=None) | Q(lease_until__lt=now)
        item = RunItem.objects.filter(free, state=ItemState.REMOVING).first() or _waiting(free).first()
        if item is None:
            return None
        fields = {"attempt": item.attempt + 1, **lease_fields()}
        if item.state == ItemState.WAITING:
            fields |= _place(item) | {"archiving_at": now, "started_at": item.started_at or now, "bytes_read": 0}
            fields |= {"message": "", "error_code": ""}
        won = item.transition(ItemState.ARCHIVING if item.state == ItemState.WAITING else ItemState.REMOVING, **fields)
        publish(item.run_id, {"item": str(item.pk), "state": item.state})
    return RunItem.objects.select_related("run__repository", "vm__vcenter", "tenant").get(pk=item.pk) if won else None


def _waiting(free: Q) -> QuerySet[RunItem]:
    """Under the run's cap of readers; the tenant with the fewest busy readers first, so that none starves while
    no reader idles; then by priority."""
    removing = Q(state=ItemState.REMOVING, lease_until__gt=timezone.now()) & ~Q(lease_owner="")
    busy = RunItem.objects.filter(Q(state=ItemState.ARCHIVING) | removing).order_by()
    in_run = busy.filter(run=OuterRef("run")).values("run").annotate(n=Count("pk")).values("n")
    in_tenant = busy.filter(tenant=OuterRef("tenant")).values("tenant").annotate(n=Count("pk")).values("n")
    return (
        RunItem.objects.filter(free, state=ItemState.WAITING, run__state=RunState.RUNNING, run__cancel=CancelMode.NONE)
        .annotate(busy_in_run=Coalesce(Subquery(in_run), 0), busy_in_tenant=Coalesce(Subquery(in_tenant), 0))
        .filter(busy_in_run__lt=F("run__readers"))
        .order_by("busy_in_tenant", "-priority", "vm_name")
    )


def _place(item: RunItem) -> dict[str, int]:
    """The position in the order and the number of the free reader; a repeated attempt keeps its position."""
    mates = RunItem.objects.filter(run=item.run_id)
    working = mates.filter(state__in=(ItemState.ARCHIVING, ItemState.REMOVING)).exclude(pk=item.pk)
    busy = set(working.values_list("reader", flat=True))
    reader = next(number for number in range(1, len(busy) + 2) if number not in busy)
    return {"reader": reader, "position": item.position or mates.exclude(position=None).count() + 1}


def _work_at(item: RunItem) -> None:
    def should_stop() -> str | None:
        cancelled = item.state == ItemState.ARCHIVING and _cancelled_now(item)
        return "The run was cancelled." if cancelled else None

    def on_progress(progress: dict[str, int]) -> None:
        publish(item.run_id, {"item": str(item.pk), "state": item.state, **progress})

    with Heartbeat(item, should_stop=should_stop, on_progress=on_progress) as beat:
        try:
            with connect(item.vm.vcenter) as platform:
                if item.state == ItemState.ARCHIVING:
                    _archive(item, platform, beat)
                if item.state == ItemState.REMOVING:
                    _remove(item, platform)
        except HotfirstError as error:
            _take_failure(item, error)
            if item.outcome:
                release(item)


def _archive(item: RunItem, platform: Platform, beat: Heartbeat) -> None:
    try:
        archive_item(item, platform, beat)
    except Interrupted as error:
        _take_interruption(item, error)
    except HotfirstError as error:
        _take_failure(item, error)
    except Exception as error:
        log.exception("archiving item %s", item.pk)
        told = f"An unexpected error stopped this archive. Tell your provider the reference {item.pk}."
        item.transition(ItemState.REMOVING, outcome=ItemState.ERRORED, message=told, error_code=type(error).__name__)
    publish(item.run_id, {"item": str(item.pk), "state": item.state})


def _cancelled_now(item: RunItem) -> bool:
    return Run.objects.filter(pk=item.run_id, cancel=CancelMode.NOW).exists()


def _take_interruption(item: RunItem, error: Interrupted) -> None:
    """Cancelled: the snapshot goes. Drained: the item waits, snapshot and all, for the next reader. Overtaken: the
    writes below count for nothing."""
    if Run.objects.filter(pk=item.run_id).exclude(cancel=CancelMode.NONE).exists():
        item.transition(ItemState.REMOVING, outcome=ItemState.CANCELLED, message=str(error))
    else:
        item.transition(ItemState.WAITING, reader=None, **NO_LEASE)


def _take_failure(item: RunItem, error: HotfirstError) -> None:
    told = {"message": str(error), "error_code": error.code, "failures": item.failures + 1}
    again = {"lease_owner": "", "lease_until": timezone.now() + timedelta(seconds=RETRY_S)}
    last_try = item.failures + 1 >= MAX_FAILURES
    if item.state == ItemState.REMOVING:
        _take_removal_failure(item, error, last_try, again)
    elif error.retryable and not last_try:
        item.transition(ItemState.WAITING, **told | again)
    else:
        item.transition(ItemState.REMOVING, outcome=ItemState.FAILED, **told | {"failures": 0})


def _remove(item: RunItem, platform: Platform) -> None:
    """At once, before this reader takes its next item."""
    if not item.mine().update(removing_at=Coalesce("removing_at", timezone.now())):
        # Overtaken, or the archive's commit failed: without its row the snapshot is all there is.
        return
    platform.remove_snapshot(item.snapshot_name, item.vm.ref)
    now = timezone.now()
    with transaction.atomic():
        SnapshotRecord.objects.filter(name=item.snapshot_name).update(removed_at=now)
        item.transition(item.outcome, removed_at=now, finished_at=now, **NO_LEASE)
        publish(item.run_id, {"item": str(item.pk), "state": item.state})


def _take_removal_failure(item: RunItem, error: HotfirstError, last_try: bool, again: dict[str, Any]) -> None:
    """After the last try the item ends, so that its run can. The journal's row stays open; the tick tries on."""
    if not last_try:
        item.transition(ItemState.REMOVING, failures=item.failures + 1, **again)
        return
    kept = "The archive is complete, but its" if item.archive_id else "The"
    told = f"{kept} snapshot could not be removed yet; Hotfirst goes on trying. {error}"
    item.transition(ItemState.FAILED, message=told, error_code=error.code, finished_at=timezone.now(), **NO_LEASE)
    publish(item.run_id, {"item": str(item.pk), "state": item.state})


def _look_after(run: Run) -> None:
    """The next batch, when fewer items wait than readers could take; the end, when none are left."""
    open_items = RunItem.objects.filter(run=run)
    if open_items.filter(state=ItemState.QUEUED).exists():
        if open_items.filter(state=ItemState.WAITING).count() < run.readers:
            hint_coordinator(run)
    else:
        finish_if_done(run)
