"""A run's coordinator: measures loads, chooses the next batch and takes its snapshots. One per run at a time."""

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import F, Max, Q
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from backups.batches import next_batch
from backups.engine.snapshotting import snapshot_all, track_changes
from backups.errors import HotfirstError, Interrupted, NotFound, PlatformUnreachable
from backups.events import publish
from backups.leases import DRAIN, Heartbeat, held, lease_fields, release
from backups.locks import DATABASE_AWAY, exclusive
from backups.models import Run, RunItem, SnapshotRecord, VCenter
from backups.models.plans import Policy
from backups.models.runs import ITEM_FINAL, CancelMode, ItemState, RunState
from backups.platform import Platform, Quiesce, Snapshot, SnapshotOrder
from backups.services.changes import expect_changes
from backups.services.datastores import is_slow, measure_datastores
from backups.services.forecasts import foretell
from backups.services.loads import measure_items, set_priorities
from backups.services.recoveries import in_place_now
from backups.services.runs import finish_if_done, hint_coordinator, hint_readers
from backups.services.selection import could_be_read
from backups.services.situation import limits_of, queued_of, situation_of
from backups.services.steering import cancel_open_items, give_back_for_pause, give_up_abandoned
from backups.services.vcenters import connect

log = logging.getLogger(__name__)
MAX_FAILURES = 3
RETRY_S = 20
PREPARE = timedelta(seconds=75)
SNAPSHOTS_S = 3600
LOAD_FRESH = timedelta(minutes=1)


def coordinate(run_id: str) -> None:
    try:
        _coordinate(run_id)
    except DATABASE_AWAY as error:
        log.warning("coordinating %s stopped: %s", run_id, error)
        connection.close()


def _coordinate(run_id: str) -> None:
    run = _claim(run_id)
    if run is None:
        return
    stalled_at: int | None = None
    try:
        with Heartbeat(run) as beat:
            stalled_at = _take_batches(run, beat)
    except Interrupted as error:
        log.info("coordinating %s stopped: %s", run.pk, error)
    except HotfirstError as error:
        _take_failure(run, error)
    except DATABASE_AWAY:
        raise
    except Exception:
        log.exception("coordinating %s", run.pk)
        _take_bug(run)
    release(run)
    _hand_on(run, stalled_at)


def _hand_on(run: Run, stalled_at: int | None) -> None:
    """Hints sent while this coordinator held the lease came to nothing, so what they would have said is said now.
    A run that waits for room, a cap or its time is looked at again when one of its items ends, or by the tick."""
    states = list(RunItem.objects.filter(run=run).values_list("state", flat=True))
    waiting = states.count(ItemState.WAITING)
    if waiting or ItemState.REMOVING in states:
        hint_readers(run.readers)
    if ItemState.QUEUED in states and waiting < run.readers and not DRAIN.value and stalled_at != _ended(run):
        backing_off = Run.objects.filter(pk=run.pk, lease_until__gt=timezone.now()).exists()
        if not backing_off:
            hint_coordinator(run)
    finish_if_done(run)


def _ended(run: Run) -> int:
    """Grows whenever an item of the run leaves its snapshot behind."""
    return SnapshotRecord.objects.filter(item__run=run).exclude(removed_at=None).count()


def _claim(run_id: str) -> Run | None:
    free = Q(lease_until=None) | Q(lease_until__lt=timezone.now())
    claimed = Run.objects.filter(free, pk=run_id, state__in=(RunState.QUEUED, RunState.RUNNING)).update(
        state=RunState.RUNNING, attempt=F("attempt") + 1, started_at=Coalesce("started_at", Now()), **lease_fields()
    )
    return Run.objects.get(pk=run_id) if claimed else None


def _take_batches(run: Run, beat: Heartbeat) -> int | None:
    """Until as many items wait as the readers can take. Answers with `_ended` if no batch could be taken now."""
    while True:
        beat.check()
        ended = _ended(run)
        run.refresh_from_db(fields=["cancel", "paused_at"])
        if run.cancel != CancelMode.NONE:
            cancel_open_items(run)
            give_up_abandoned(run, ItemState.CANCELLED)
        elif run.paused_at:
            give_back_for_pause(run)
            give_up_abandoned(run, ItemState.QUEUED)
        if run.paused_at or _too_early(run):
            return ended
        queued = [item for item in _unfinished(run) if item.state != ItemState.WAITING]
        if not queued or could_be_read(run) >= run.readers:
            return None
        with ExitStack() as sessions:
            platforms = _connect_all(run, queued, sessions)
            if platforms is None:
                return None
            if not _snapshot_batch(run, [i for i in queued if i.vm.vcenter in platforms], platforms, beat):
                return ended
        run.mine().update(failures=0)
        run.failures = 0


def _too_early(run: Run) -> bool:
    """The tick looks again each minute; the last one is waited for with everything prepared."""
    return bool(run.common_time and run.common_time > timezone.now() + PREPARE)


def _take_failure(run: Run, error: HotfirstError) -> None:
    """Trouble with vCenter between two steps: tried again later, and in the end told in its own words."""
    if not held(run).exists():
        return
    if error.retryable and run.failures + 1 < MAX_FAILURES:
        _try_later(run, error)
        return
    for item in _unfinished(run):
        if item.state in (ItemState.QUEUED, ItemState.SNAPSHOTTING):
            _fail(item, error)


def _take_bug(run: Run) -> None:
    """Tried again a few times; then the items end, and the run with them."""
    if not held(run).exists():
        return
    run.mine().update(failures=F("failures") + 1)
    if run.failures + 1 >= MAX_FAILURES:
        told = f"An unexpected error stopped this run. Tell your provider the reference {run.pk}."
        items = RunItem.objects.filter(run=run)
        items.filter(state=ItemState.QUEUED).update(state=ItemState.ERRORED, message=told, finished_at=timezone.now())
        items.filter(state=ItemState.SNAPSHOTTING).update(
            state=ItemState.REMOVING, outcome=ItemState.ERRORED, message=told
        )


def _open_items(run: Run) -> list[RunItem]:
    return list(RunItem.objects.filter(run=run).exclude(state__in=ITEM_FINAL).select_related("vm__vcenter"))


def _unfinished(run: Run) -> "list[RunItem]":
    states = (ItemState.QUEUED, ItemState.SNAPSHOTTING, ItemState.WAITING)
    items = RunItem.objects.filter(run=run, state__in=states)
    return list(items.select_related("vm__vcenter", "vm__vapp"))


def _connect_all(run: Run, items: list[RunItem], sessions: ExitStack) -> dict[VCenter, Platform] | None:
    """A session for each vCenter. One that cannot be had fails its items, after some tries; None: try later."""
    platforms: dict[VCenter, Platform] = {}
    for vcenter in {item.vm.vcenter for item in items}:
        try:
            platforms[vcenter] = sessions.enter_context(connect(vcenter))
        except HotfirstError as error:
            if error.retryable and run.failures + 1 < MAX_FAILURES:
                _try_later(run, error)
                return None
            for item in items:
                if item.vm.vcenter == vcenter and held(run).exists():
                    _fail(item, error)
    return platforms


def _try_later(run: Run, error: HotfirstError) -> None:
    later = timezone.now() + timedelta(seconds=RETRY_S)
    run.mine().update(failures=F("failures") + 1, message=str(error), error_code=error.code)
    publish(run.pk, {"message": str(error)})
    Run.objects.filter(pk=run.pk, attempt=run.attempt).update(lease_until=later, lease_owner="")


def _snapshot_batch(run: Run, queued: list[RunItem], platforms: dict[VCenter, Platform], beat: Heartbeat) -> bool:
    """False if nothing could be snapshotted, and nothing has changed."""
    for item in queued:
        if item.state == ItemState.SNAPSHOTTING:
            try:
                _clear_abandoned(item, platforms[item.vm.vcenter])
            except HotfirstError as error:
                _fail(item, error)
    queued = _skip_untouchable(queued)
    for vcenter, platform in platforms.items():
        _measure(platform, vcenter, [item for item in queued if item.vm.vcenter == vcenter])
    set_priorities(run.policy, queued)
    foretell(run)
    batch = _choose(run, queued, list(platforms))
    beat.check()
    if not batch:
        return any(item.state != ItemState.QUEUED for item in queued)
    beat.expect_silence(SNAPSHOTS_S)
    _snapshot(run, platforms, batch)
    beat.check()
    if run.policy == Policy.LEAST_DISTURBANCE:
        for vcenter, platform in platforms.items():
            expect_changes(platform, [item for item in batch if item.vm.vcenter == vcenter])
        set_priorities(run.policy, [item for item in _unfinished(run) if item.state == ItemState.WAITING])
    return True


def _measure(platform: Platform, vcenter: VCenter, items: list[RunItem]) -> None:
    """Loads that are a minute old will do for the next batch. Where a VM is now decides which caps it falls under."""
    for item in items:
        item.host, item.datastore = item.vm.host, item.vm.datastore
    RunItem.objects.bulk_update(items, ["host", "datastore"])
    fresh = timezone.now() - LOAD_FRESH
    measure_items(platform, [item for item in items if item.load_at is None or item.load_at < fresh])
    measure_datastores(vcenter, platform)


def _skip_untouchable(items: list[RunItem]) -> list[RunItem]:
    """A VM that is being overwritten has no state worth an archive; one that changed hands is not this tenant's."""
    recovering = set(in_place_now().values_list("archive__vm", flat=True))
    for item in items:
        if item.vm.tenant_id != item.tenant_id:
            told = f"{item.vm_name} no longer belongs to this tenant."
            item.transition(ItemState.SKIPPED, message=told, finished_at=timezone.now())
        elif item.vm_id in recovering:
            told = f"{item.vm_name} is being recovered in place; the next run backs it up."
            item.transition(ItemState.SKIPPED, message=told, finished_at=timezone.now())
    return [item for item in items if item.state == ItemState.QUEUED]


def _clear_abandoned(item: RunItem, platform: Platform) -> None:
    """A coordinator died between the journal and the snapshot. Whatever it left goes; the next has a new name."""
    platform.remove_snapshot(item.snapshot_name, item.vm.ref)
    SnapshotRecord.objects.filter(name=item.snapshot_name).update(removed_at=timezone.now())
    item.transition(ItemState.QUEUED)


def _choose(run: Run, queued: list[RunItem], vcenters: list[VCenter]) -> list[RunItem]:
    """The next batch, journalled: from now on its snapshots count against the caps. One coordinator at a time."""
    with exclusive("batch"):
        by_id = {str(item.pk): item for item in queued}
        slow = {str(item.pk): is_slow(item) for item in queued}
        quick = [queued_of(item) for id_, item in by_id.items() if not slow[id_]]
        batch = next_batch(quick, limits_of(run), situation_of(run, _open_items(run), vcenters, timezone.now()))
        _tell_why_left(run, batch.left | {id_: reason for id_, reason in slow.items() if reason})
        for id_, reason in batch.refused.items():
            by_id[id_].transition(ItemState.SKIPPED, message=reason, finished_at=timezone.now())
        number = (RunItem.objects.filter(run=run).aggregate(last=Max("batch"))["last"] or 0) + 1
        taken = [by_id[id_] for id_ in batch.taken]
        return [item for item in taken if _journal(item, number, alone=item.alone or str(item.pk) in batch.alone)]


def _tell_why_left(run: Run, left: dict[str, str]) -> None:
    for reason in set(left.values()):
        ids = [id_ for id_, told in left.items() if told == reason]
        RunItem.objects.filter(run=run, pk__in=ids, state=ItemState.QUEUED).update(reason=reason[:255])


def _snapshot(run: Run, platforms: dict[VCenter, Platform], items: list[RunItem]) -> None:
    """All started together, on every vCenter; the database is touched by this thread only."""
    publish(run.pk, {"state": "snapshotting", "vms": len(items)})
    by_vcenter = {vcenter: [item for item in items if item.vm.vcenter == vcenter] for vcenter in platforms}
    with ThreadPoolExecutor(len(platforms)) as pool:
        list(pool.map(lambda v: track_changes(platforms[v], [item.vm.ref for item in by_vcenter[v]]), platforms))
        since = max(timezone.now(), run.common_time or timezone.now())
        asked = {v: pool.submit(_ask, run, platforms[v], by_vcenter[v]) for v in platforms}
    for item in items:
        results = asked[item.vm.vcenter].result()
        _settle(item, results.get(item.vm.ref) or NotFound(f"{item.vm_name} is no longer in vCenter."), since)
    publish(run.pk, {"state": "waiting", "vms": len(items)})


def _ask(run: Run, platform: Platform, items: list[RunItem]) -> dict[str, Snapshot | HotfirstError]:
    orders = [SnapshotOrder(vm_ref=item.vm.ref, name=item.snapshot_name) for item in items]
    try:
        return snapshot_all(platform, orders, Quiesce(run.quiesce), at=run.common_time)
    except HotfirstError as error:
        return {order.vm_ref: error for order in orders}


def _journal(item: RunItem, batch: int, *, alone: bool) -> bool:
    """Written before the snapshot is asked for, so that no kill can leave one that nobody knows of. The attempt
    rises, so that a coordinator that was overtaken settles nothing. Under the lock that a recovery starts under."""
    number = item.snapshot_attempt + 1
    name = f"hotfirst-{item.pk}-{number}"
    fields = {"attempt": item.attempt + 1, "snapshot_attempt": number, "snapshot_name": name, "batch": batch}
    vcenter = item.vm.vcenter
    with exclusive(f"recover {vcenter.pk}"):
        if not _skip_untouchable([item]):
            return False
        if not item.transition(ItemState.SNAPSHOTTING, reason="", alone=alone, **fields):
            return False
        SnapshotRecord.objects.create(name=name, vcenter=vcenter, vm_ref=item.vm.ref, item=item)
    return True


def _settle(item: RunItem, result: Snapshot | HotfirstError, since: datetime) -> None:
    if isinstance(result, Snapshot):
        taken = {"snapshot_ref": result.ref, "snapshot_at": result.taken_at, "quiesced": result.quiesced}
        item.transition(ItemState.WAITING, held_since=since, **taken)
    elif isinstance(result, PlatformUnreachable) and item.failures + 1 < MAX_FAILURES:
        # vCenter may have made it all the same: whatever there is goes first, then another is taken. A snapshot that
        # vCenter refused is not asked for again: each try stuns the guest.
        item.transition(
            ItemState.REMOVING, outcome=ItemState.QUEUED, failures=item.failures + 1, reason=str(result)[:255]
        )
    else:
        _fail(item, result)


def _fail(item: RunItem, error: HotfirstError) -> None:
    """By way of `removing` where a snapshot may exist: a call that failed may still have made one."""
    told = {"message": str(error), "error_code": error.code}
    if item.state == ItemState.SNAPSHOTTING:
        item.transition(ItemState.REMOVING, outcome=ItemState.FAILED, **told)
    else:
        item.transition(ItemState.FAILED, finished_at=timezone.now(), **told)
    publish(item.run_id, {"item": str(item.pk), "state": item.state})
