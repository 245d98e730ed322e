"""A reader: takes the waiting VM of the highest priority, archives it, removes its snapshot, takes the next."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Count, Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from backups.engine.watch import Watch
from backups.errors import HotfirstError, Interrupted, PlatformError
from backups.events import publish
from backups.leases import DRAIN, NO_LEASE, Heartbeat, lease_fields, release
from backups.locks import DATABASE_AWAY, exclusive
from backups.models import Recovery, Run, RunItem, SnapshotRecord
from backups.models.plans import OverBudget
from backups.models.recoveries import RecoveryState
from backups.models.runs import HOLDING, ITEM_FINAL, CancelMode, ItemState, RunState
from backups.platform import Platform
from backups.services.archiving import archive_item
from backups.services.datastores import slowdown
from backups.services.runs import finish_if_done, hint_coordinator, hint_readers
from backups.services.selection import free, next_waiting
from backups.services.steering import beyond_budget, keep_budget
from backups.services.vcenters import connect

log = logging.getLogger(__name__)
MAX_FAILURES = 3
RETRY_S = 10
LOOK_AGAIN_S = 20
REMOVAL_S = 13 * 3600
SNAPSHOTS_OWN = (
    "snapshot_at", "held_since", "archiving_at", "removing_at", "removed_at", "position", "reader", "batch"
)  # fmt: skip
"""What an item forgets with a snapshot that it gives back."""
LONGEST_REST_S = 2.0


def read_waiting() -> None:
    try:
        _read_all()
    except DATABASE_AWAY as error:
        log.warning("reading stopped: %s", error)
        connection.close()


def _read_all() -> None:
    while not DRAIN.value and (item := claim()):
        _work_at(item)
        _look_after(item.run)
        if Recovery.objects.filter(state=RecoveryState.QUEUED).exists():
            # Somebody waits for his data: this reader makes room for the recovery that is queued behind it.
            hint_readers(1)
            return


def claim() -> RunItem | None:
    """The next item, under a lock over all readers everywhere: so caps hold and the order is exact."""
    with exclusive("selection"):
        now = timezone.now()
        item = RunItem.objects.filter(free(now), state=ItemState.REMOVING).first() or next_waiting(now)
        if item is None:
            return None
        fields = {"attempt": item.attempt + 1, **lease_fields()}
        if item.state == ItemState.WAITING:
            fields |= _place(item) | {"archiving_at": now, "started_at": item.started_at or now, "bytes_read": 0}
            fields |= {"message": "", "error_code": "", "held_back": ""}
        won = item.transition(ItemState.ARCHIVING if item.state == ItemState.WAITING else ItemState.REMOVING, **fields)
        publish(item.run_id, {"item": str(item.pk), "state": item.state})
    return RunItem.objects.select_related("run__repository", "vm__vcenter", "tenant").get(pk=item.pk) if won else None


def _place(item: RunItem) -> dict[str, int]:
    """The position in the order and the number of the free reader; a repeated attempt keeps its position."""
    mates = RunItem.objects.filter(run=item.run_id)
    working = mates.filter(state__in=(ItemState.ARCHIVING, ItemState.REMOVING)).exclude(pk=item.pk)
    busy = set(working.values_list("reader", flat=True))
    reader = next(number for number in range(1, len(busy) + 2) if number not in busy)
    return {"reader": reader, "position": item.position or mates.exclude(position=None).count() + 1}


def _work_at(item: RunItem) -> None:
    def should_stop() -> str | None:
        return _why_stop(item) if item.state == ItemState.ARCHIVING else None

    def on_progress(progress: dict[str, int]) -> None:
        publish(item.run_id, {"item": str(item.pk), "state": item.state, **progress})

    with Heartbeat(item, should_stop=should_stop, on_progress=on_progress) as beat:
        try:
            with connect(item.vm.vcenter) as platform:
                if item.state == ItemState.ARCHIVING:
                    _archive(item, platform, Paced(beat, lambda: slowdown(item, platform)))
                if item.state == ItemState.REMOVING:
                    # vCenter answers when it has consolidated, however long that takes.
                    beat.expect_silence(REMOVAL_S)
                    _remove(item, platform)
        except HotfirstError as error:
            _take_failure(item, error)
            if item.outcome:
                release(item)
        except DATABASE_AWAY:
            raise
        except Exception:
            log.exception("item %s", item.pk)
            _take_failure(item, PlatformError(f"An unexpected error; tell your provider the reference {item.pk}."))
            release(item)


class Paced:
    """A watch that rests as often as it is checked, while the datastore is too slow. Measured in the reader's own
    thread, since the heart must not wait for vCenter."""

    def __init__(self, watch: Watch, slowdown: Callable[[], float]) -> None:
        self._watch, self._slowdown = watch, slowdown
        self._owner, self._rest = threading.get_ident(), 0.0
        self._looked_at = self._checked_at = time.monotonic()

    def report(self, **progress: Any) -> None:
        self._watch.report(**progress)

    def check(self) -> None:
        self._watch.check()
        if threading.get_ident() != self._owner:
            return
        now = time.monotonic()
        if now - self._looked_at > LOOK_AGAIN_S:
            self._looked_at, self._rest = now, self._slowdown()
        if self._rest:
            time.sleep(min((now - self._checked_at) * self._rest, LONGEST_REST_S))
        self._checked_at = time.monotonic()


def _archive(item: RunItem, platform: Platform, watch: Watch) -> None:
    try:
        archive_item(item, platform, watch)
    except Interrupted as error:
        _take_interruption(item, error)
    except HotfirstError as error:
        _take_failure(item, error)
    except DATABASE_AWAY:
        raise
    except Exception as error:
        log.exception("archiving item %s", item.pk)
        told = f"An unexpected error stopped this archive. Tell your provider the reference {item.pk}."
        item.transition(ItemState.REMOVING, outcome=ItemState.ERRORED, message=told, error_code=type(error).__name__)
    publish(item.run_id, {"item": str(item.pk), "state": item.state})


def _why_stop(item: RunItem) -> str | None:
    if Run.objects.filter(pk=item.run_id, cancel=CancelMode.NOW).exists():
        return "The run was cancelled."
    if _beyond_budget(item):
        return "Its snapshot was held for longer than the plan allows."
    return _too_long(item)


def _too_long(item: RunItem) -> str | None:
    limit_s = settings.HOTFIRST_ARCHIVE_TIMEOUT_S
    if item.archiving_at is None or timezone.now() < item.archiving_at + timedelta(seconds=limit_s):
        return None
    return f"Its archive was not complete after {limit_s / 3600:.0f} h, so it was stopped; the next run tries again."


def _beyond_budget(item: RunItem) -> bool:
    """A VM that is tried again alone is let finish: no order could hold its snapshot for less."""
    budget_s = item.run.hold_budget_s
    if not budget_s or item.alone or item.held_from is None:
        return False
    if item.run.over_budget != OverBudget.SKIP and item.run.items.exclude(state__in=ITEM_FINAL).count() == 1:
        return False
    return timezone.now() > item.held_from + timedelta(seconds=budget_s)


def _take_interruption(item: RunItem, error: Interrupted) -> None:
    """Cancelled, held or read for too long: the snapshot goes. Drained: the item waits, snapshot and all, for
    the next reader. Overtaken: the writes below count for nothing."""
    if Run.objects.filter(pk=item.run_id).exclude(cancel=CancelMode.NONE).exists():
        item.transition(ItemState.REMOVING, outcome=ItemState.CANCELLED, message=str(error))
    elif _beyond_budget(item):
        item.transition(ItemState.REMOVING, **beyond_budget(item.run))
    elif told := _too_long(item):
        item.transition(ItemState.REMOVING, outcome=ItemState.FAILED, message=told)
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
    if not item.mine().update(removing_at=Coalesce("removing_at", timezone.now()), grown_bytes=_growth(item, platform)):
        # Overtaken, or the archive's commit failed: without its row the snapshot is all there is.
        return
    platform.remove_snapshot(item.snapshot_name, item.vm.ref)
    with transaction.atomic():
        SnapshotRecord.objects.filter(name=item.snapshot_name).update(removed_at=timezone.now())
        item.transition(item.outcome, **(_anew(item) if item.outcome == ItemState.QUEUED else _ended()), **NO_LEASE)
        publish(item.run_id, {"item": str(item.pk), "state": item.state})


def _growth(item: RunItem, platform: Platform) -> int | None:
    """Told in the report; that it cannot be had must not keep the snapshot."""
    try:
        return platform.snapshot_growth([item.vm.ref]).get(item.vm.ref)
    except Exception as error:  # noqa: BLE001 - whatever it is, the snapshot is to go
        log.warning("growth of the snapshot of %s: %r", item.vm_name, error)
        return None


def _ended() -> dict[str, Any]:
    now = timezone.now()
    return {"removed_at": now, "finished_at": now}


def _anew(item: RunItem) -> dict[str, Any]:
    """The snapshot was given back; another will be taken. What it cost so far stays on the account."""
    held_s = (timezone.now() - item.held_from).total_seconds() if item.held_from else 0.0
    cleared = dict.fromkeys(SNAPSHOTS_OWN)
    return {**cleared, "outcome": "", "snapshot_ref": "", "earlier_hold_s": item.earlier_hold_s + max(held_s, 0.0)}


def _take_removal_failure(item: RunItem, error: HotfirstError, last_try: bool, again: dict[str, Any]) -> None:
    """After the last try the item ends, so that its run can. The journal's row stays open; the tick tries on."""
    if last_try:
        give_up_removal(item, error)
    else:
        item.transition(ItemState.REMOVING, failures=item.failures + 1, **again)


def give_up_removal(item: RunItem, error: HotfirstError) -> None:
    kept = "The archive is complete, but its" if item.archive_id else "The"
    told = f"{kept} snapshot could not be removed yet; Hotfirst goes on trying. {error}"
    item.transition(ItemState.FAILED, message=told, error_code=error.code, finished_at=timezone.now(), **NO_LEASE)
    publish(item.run_id, {"item": str(item.pk), "state": item.state})


def _look_after(run: Run) -> None:
    """The next batch, when fewer items wait than readers could take; the end, when none are left."""
    open_items = RunItem.objects.filter(run=run)
    keep_budget(run)
    _hint_those_without_room(run)
    if open_items.filter(state=ItemState.QUEUED).exists():
        if open_items.filter(state=ItemState.WAITING).count() < run.readers:
            hint_coordinator(run)
    else:
        finish_if_done(run)


def _hint_those_without_room(run: Run) -> None:
    """A snapshot has gone: where caps hold, other runs may have waited for its place; the tenant with the fewest open
    snapshots first, this run last."""
    capped = Q(vm__vcenter__snapshots_per_datastore__gt=0) | Q(vm__vcenter__snapshots_per_host__gt=0)
    left = RunItem.objects.filter(capped, state=ItemState.QUEUED, run__state=RunState.RUNNING, run__paused_at=None)
    holding = Count("tenant__run_items", filter=Q(tenant__run_items__state__in=HOLDING))
    others = Run.objects.filter(pk__in=left.values("run")).exclude(pk=run.pk)
    for other in others.annotate(open_snapshots=holding).order_by("open_snapshots"):
        hint_coordinator(other)
