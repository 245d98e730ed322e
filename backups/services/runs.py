import logging
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from backups.errors import Conflict, HotfirstError, InvalidRequest, NotFound
from backups.events import publish
from backups.leases import NO_LEASE
from backups.locks import exclusive
from backups.models import Plan, Run, RunItem, Vm
from backups.models.runs import ITEM_FINAL, RUN_FINAL, ItemState, RunState
from backups.queues import READERS, hint, undelivered
from backups.report import Done, report
from backups.services import audit
from backups.services.archives import apply_retention
from backups.services.audit import Actor
from backups.services.plans import gone_from, vms_of

log = logging.getLogger(__name__)
COPIED = (
    "repository",
    "policy",
    "metric",
    "batch_size",
    "vapps_whole",
    "hold_budget_s",
    "over_budget",
    "readers",
    "quiesce",
)
LATEST_COMMON_TIME = timedelta(days=7)


def start_run(
    actor: Actor,
    plan: Plan,
    vms: "list[Vm] | None" = None,
    *,
    scheduled_for: datetime | None = None,
    common_time: datetime | None = None,
    retry_of: Run | None = None,
) -> Run:
    """A run of the whole plan, or of some of its VMs, whose snapshots are taken at `common_time` (None: now). The work
    itself is the workers'."""
    protected = {vm.pk: vm for vm in vms_of(plan)}
    chosen = list(protected.values()) if vms is None else [protected[vm.pk] for vm in vms if vm.pk in protected]
    if not chosen:
        raise InvalidRequest(_why_nothing(plan))
    _check_common_time(common_time)
    with exclusive(f"plan {plan.pk}"):
        if plan.runs.exclude(state__in=RUN_FINAL).exists():
            raise Conflict(f"A run of {plan.name} is going on; wait until it ends, or cancel it.")
        if scheduled_for and plan.runs.filter(scheduled_for=scheduled_for).exists():
            raise Conflict(f"This start of {plan.name} has been made already.")
        gone = _gone_since_last_run(plan) if vms is None else []
        run = _create(actor, plan, chosen, scheduled_for=scheduled_for, common_time=common_time, retry_of=retry_of)
        _add_gone(run, gone)
        return run


def _check_common_time(common_time: datetime | None) -> None:
    now = timezone.now()
    if common_time and not now < common_time <= now + LATEST_COMMON_TIME:
        raise InvalidRequest("The common snapshot time lies in the future, and at most seven days from now.")


def _gone_since_last_run(plan: Plan) -> list[Vm]:
    """Told once, in the first run without them: a VM that was deleted on purpose is not a failure for ever."""
    last = plan.runs.first()
    return list(gone_from(plan).filter(vanished_at__gt=last.created_at)) if last else []


def _add_gone(run: Run, gone: list[Vm]) -> None:
    told = "This VM is no longer in vCenter. Its archives stay; recover it from them if it is missed."
    ended = {"state": ItemState.FAILED, "error_code": NotFound.code, "finished_at": timezone.now()}
    RunItem.objects.bulk_create(item_of(run, vm, message=told, **ended) for vm in gone)


def item_of(run: Run, vm: Vm, **fields: Any) -> RunItem:
    """Unsaved. Names and places are copied: they say how it was at the time."""
    return RunItem(
        run=run,
        tenant=run.tenant,
        vm=vm,
        vm_name=vm.name,
        vapp_name=vm.vapp.name if vm.vapp else "",
        host=vm.host,
        datastore=vm.datastore,
        bytes_total=vm.capacity_bytes,
        **fields,
    )


def _why_nothing(plan: Plan) -> str:
    gone = gone_from(plan)
    if gone:
        names = ", ".join(vm.name for vm in gone[:5])
        return f"{names} of the plan {plan.name} are no longer in vCenter; recover them, or apply the plan to others."
    return f"The plan {plan.name} has no VMs to back up; apply it to a vApp or a VM first."


def record_missed(plan: Plan, slot: datetime, error: HotfirstError) -> None:
    """A start that could not be made is shown as a failed run, so that nobody believes he is safe."""
    copied = {name: getattr(plan, name) for name in COPIED}
    told = {"message": str(error), "error_code": error.code, "finished_at": timezone.now()}
    Run.objects.get_or_create(
        plan=plan,
        scheduled_for=slot,
        defaults={"tenant": plan.tenant, "plan_name": plan.name, "state": RunState.FAILED, **copied, **told},
    )


def _create(actor: Actor, plan: Plan, vms: list[Vm], **fields: Any) -> Run:
    copied = {name: getattr(plan, name) for name in COPIED}
    run = Run.objects.create(tenant=plan.tenant, plan=plan, plan_name=plan.name, **fields, **copied)
    RunItem.objects.bulk_create(item_of(run, vm) for vm in vms)
    audit.record(actor, plan.tenant, "run.start", plan.name, run=str(run.pk), vms=len(vms))
    hint_coordinator(run)
    return run


def hint_coordinator(run: Run) -> None:
    Run.objects.filter(pk=run.pk).update(hinted_at=timezone.now())
    hint("backups.tasks.coordinate.coordinate", str(run.pk))


def hint_readers(count: int) -> None:
    """Twice as many: a busy host fetches a few ahead, where they lie while another host may be idle. One that finds
    nothing to read costs a query; those that nobody has fetched yet will do."""
    for _ in range(2 * count - undelivered(READERS)):
        hint("backups.tasks.read.read_waiting", long=True)


def finish_if_done(run: Run) -> None:
    """Ends the run once all its items have ended. Whoever is last does it; a second call does nothing."""
    items = list(RunItem.objects.filter(run=run).select_related("vm"))
    if any(item.state not in ITEM_FINAL for item in items):
        return
    run.refresh_from_db()
    state, message = _verdict(run, items)
    ended = {"finished_at": timezone.now(), "message": message, "report": _report(run, items), **NO_LEASE}
    with transaction.atomic():
        open_run = Run.objects.filter(pk=run.pk).exclude(state__in=RUN_FINAL)
        if not open_run.update(state=state, **ended):
            return
        audit.record(None, run.tenant, "run.end", run.plan_name, run=str(run.pk), state=state, message=message)
        publish(run.pk, {"state": state, "end": True})
    if run.plan:
        _retain(run.plan, [item.vm for item in items if item.state == ItemState.SUCCEEDED])


def _retain(plan: Plan, vms: list[Vm]) -> None:
    """A repository that is away now does not undo the run; what is marked deleted goes with the next collection."""
    try:
        apply_retention(plan, vms)
    except HotfirstError as error:
        log.warning("retention of %s: %s", plan, error)


def _verdict(run: Run, items: list[RunItem]) -> tuple[str, str]:
    good = sum(item.state == ItemState.SUCCEEDED for item in items)
    told = f"{good} of {len(items)} VMs backed up."
    if good == len(items):
        return RunState.SUCCEEDED, told
    return (RunState.CANCELLED if run.cancel else RunState.FAILED), told


def _report(run: Run, items: list[RunItem]) -> dict[str, Any]:
    done = [
        Done(
            id=str(item.pk),
            name=item.vm_name,
            load_kbps=item.load_kbps,
            snapshot_at=item.snapshot_at,
            held_since=item.held_from,
            archiving_at=item.archiving_at,
            removed_at=item.removed_at,
            earlier_hold_s=item.earlier_hold_s,
            load=item.load,
        )
        for item in items
        if item.snapshot_at and item.held_from and item.archiving_at and item.removed_at
    ]
    archived = {each.id for each in done}
    in_vain_kb = sum(
        item.load_kbps * ((item.hold_s or 0.0) + item.earlier_hold_s) for item in items if str(item.pk) not in archived
    )
    return report(done, run.readers, in_vain_kb)
