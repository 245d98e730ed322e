"""A run while it goes on: cancelled, paused, resumed, a VM moved to the front; and the hold budget kept."""

from datetime import timedelta

from django.db import transaction
from django.db.models import Max, QuerySet
from django.utils import timezone

from backups.errors import Conflict, InvalidRequest
from backups.events import publish
from backups.models import Run, RunItem
from backups.models.plans import OverBudget
from backups.models.runs import ITEM_FINAL, RUN_FINAL, CancelMode, ItemState
from backups.services import audit
from backups.services.audit import Actor
from backups.services.plans import vms_of
from backups.services.runs import hint_coordinator, hint_readers, start_run

ENDED = "This run has ended already."


def cancel_run(actor: Actor, run: Run, mode: str) -> None:
    """`now` stops archives in the middle, `after_current` lets those finish; snapshots are removed either way."""
    if mode not in (CancelMode.NOW, CancelMode.AFTER_CURRENT):
        raise InvalidRequest("Cancel either now, or after the current archives.")
    with transaction.atomic():
        _change(run, cancel=mode)
        cancel_open_items(run)
        audit.record(actor, run.tenant, "run.cancel", run.plan_name, run=str(run.pk), mode=mode)
        publish(run.pk, {"cancel": mode})
        _wake(run)


def pause_run(actor: Actor, run: Run) -> None:
    """Archives that are being written go on to their end. VMs that wait give their snapshots back, since nobody knows
    for how long those would grow; they are snapshotted anew when the run is resumed."""
    with transaction.atomic():
        if Run.objects.filter(pk=run.pk).exclude(paused_at=None).exists():
            raise Conflict("This run is paused already.")
        _change(run, paused_at=timezone.now())
        give_back_for_pause(run)
        audit.record(actor, run.tenant, "run.pause", run.plan_name, run=str(run.pk))
        publish(run.pk, {"paused": True})
        _wake(run)


def resume_run(actor: Actor, run: Run) -> None:
    with transaction.atomic():
        if Run.objects.filter(pk=run.pk, paused_at=None).exists():
            raise Conflict("This run is not paused.")
        _change(run, paused_at=None)
        audit.record(actor, run.tenant, "run.resume", run.plan_name, run=str(run.pk))
        publish(run.pk, {"paused": False})
        _wake(run)


def raise_item(actor: Actor, item: RunItem) -> None:
    """The next of its run to be archived, whatever the order says."""
    with transaction.atomic():
        highest = RunItem.objects.filter(run=item.run_id).aggregate(highest=Max("raised"))["highest"] or 0
        waits = RunItem.objects.filter(pk=item.pk, state__in=(ItemState.QUEUED, ItemState.WAITING))
        if not waits.update(raised=highest + 1):
            raise Conflict(f"{item.vm_name} does not wait any more.")
        audit.record(actor, item.tenant, "run.raise", item.vm_name, run=str(item.run_id))
        publish(item.run_id, {"item": str(item.pk), "raised": True})


def retry_run(actor: Actor, run: Run) -> Run:
    """A new run of the VMs that this one did not back up."""
    if run.state not in RUN_FINAL:
        raise Conflict("This run is still going on; retry what failed once it has ended.")
    if run.plan is None:
        raise InvalidRequest("The plan of this run has been deleted; apply another plan to these VMs.")
    failed = [item.vm for item in run.items.filter(state__in=ITEM_FINAL - {ItemState.SUCCEEDED}).select_related("vm")]
    if not failed:
        raise InvalidRequest("Every VM of this run was backed up; there is nothing to retry.")
    if not vms_of(run.plan).filter(pk__in=[vm.pk for vm in failed]).exists():
        names = ", ".join(vm.name for vm in failed[:5])
        raise InvalidRequest(f"{names} are no longer in the plan {run.plan.name}; run the plan that protects them now.")
    return start_run(actor, run.plan, failed, retry_of=run)


def _change(run: Run, **fields: object) -> None:
    if not Run.objects.filter(pk=run.pk).exclude(state__in=RUN_FINAL).update(**fields):
        raise Conflict(ENDED)


def _wake(run: Run) -> None:
    hint_coordinator(run)
    hint_readers(run.readers)


def cancel_open_items(run: Run) -> None:
    """What nobody works at: without a snapshot it ends at once, with one it goes by way of `removing`."""
    items = RunItem.objects.filter(run=run)
    ended = {"message": "The run was cancelled.", "finished_at": timezone.now()}
    items.filter(state=ItemState.QUEUED).update(state=ItemState.CANCELLED, **ended)
    items.filter(state=ItemState.WAITING).update(
        state=ItemState.REMOVING, outcome=ItemState.CANCELLED, message=ended["message"]
    )


def give_back_for_pause(run: Run) -> None:
    told = "Paused: its snapshot is given back, and a new one is taken when the run goes on."
    _give_back(RunItem.objects.filter(run=run), outcome=ItemState.QUEUED, reason=told)


def give_up_abandoned(run: Run, outcome: ItemState) -> None:
    """Called by the run's only coordinator: VMs that a dead one was just snapshotting. Whatever there is goes."""
    RunItem.objects.filter(run=run, state=ItemState.SNAPSHOTTING).update(state=ItemState.REMOVING, outcome=outcome)


def keep_budget(run: Run) -> None:
    """A VM that waits longer than the plan lets it gives its snapshot back: to be skipped, or retried alone."""
    if not run.hold_budget_s:
        return
    since = timezone.now() - timedelta(seconds=run.hold_budget_s)
    late = RunItem.objects.filter(run=run, held_since__lt=since, alone=False)
    if _give_back(late, **beyond_budget(run)):
        hint_readers(1)


def beyond_budget(run: Run) -> dict[str, object]:
    """What becomes of an item whose hold went beyond the budget."""
    told = f"Its snapshot was held for {run.hold_budget_s} s, the longest that the plan allows,"
    if run.over_budget == OverBudget.SKIP:
        return {"outcome": ItemState.SKIPPED, "message": f"{told} before its archive was complete."}
    return {"outcome": ItemState.QUEUED, "alone": True, "reason": f"{told} so it is tried again alone."}


def _give_back(items: "QuerySet[RunItem]", **fields: object) -> int:
    return items.filter(state=ItemState.WAITING).update(state=ItemState.REMOVING, **fields)
