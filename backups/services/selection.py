"""Which waiting VM a free reader takes: in SQL, over all runs of all tenants."""

from datetime import datetime
from typing import Any

from django.db.models import Count, Exists, F, IntegerField, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone

from backups.models import Datastore, Run, RunItem
from backups.models.runs import CancelMode, ItemState, RunState
from backups.services.datastores import BELIEVED_FOR, is_slow


def free(now: datetime) -> Q:
    return Q(lease_until=None) | Q(lease_until__lt=now)


def next_waiting(now: datetime) -> RunItem | None:
    """The tenant with the fewest busy readers first, so that none starves while no reader idles; of its runs, whose
    priorities cannot be compared, the one with the fewest; then what was raised by hand; then by priority."""
    return _allowed(now).order_by("busy_in_tenant", "busy_in_run", "-raised", "-priority", "vm_name").first()


def could_be_read(run: Run) -> int:
    """How many of its VMs wait for nothing but a reader."""
    now = timezone.now()
    return int(_counted(now).filter(_under_caps(), slow=False, run=run).count())


def _allowed(now: datetime) -> QuerySet[Any]:
    """Under the caps on readers of its run, datastore and host, and where the datastore is not too slow."""
    return _counted(now).filter(_under_caps(), busy_in_run__lt=F("run__readers"), slow=False)


def _under_caps() -> Q:
    caps = Q(vm__vcenter__readers_per_datastore=0) | Q(busy_on_datastore__lt=F("vm__vcenter__readers_per_datastore"))
    caps &= Q(vm__vcenter__readers_per_host=0) | Q(busy_on_host__lt=F("vm__vcenter__readers_per_host"))
    return caps


def _counted(now: datetime) -> QuerySet[Any]:
    here = {"vm__vcenter": OuterRef("vm__vcenter")}
    return RunItem.objects.filter(
        free(now),
        state=ItemState.WAITING,
        run__state=RunState.RUNNING,
        run__cancel=CancelMode.NONE,
        run__paused_at=None,
    ).annotate(
        busy_in_run=_busy(now, "run", run=OuterRef("run")),
        busy_in_tenant=_busy(now, "tenant", tenant=OuterRef("tenant")),
        busy_on_datastore=_busy(now, "datastore", datastore=OuterRef("datastore"), **here),
        busy_on_host=_busy(now, "host", host=OuterRef("host"), **here),
        slow=Exists(_slow(now)),
    )


def _busy(now: datetime, by: str, **where: OuterRef) -> Coalesce:
    removing = Q(state=ItemState.REMOVING, lease_until__gt=now) & ~Q(lease_owner="")
    busy = RunItem.objects.filter(Q(state=ItemState.ARCHIVING) | removing, **where).order_by()
    return Coalesce(Subquery(busy.values(by).annotate(n=Count("pk")).values("n"), output_field=IntegerField()), 0)


def _slow(now: datetime) -> QuerySet[Datastore]:
    return Datastore.objects.filter(
        vcenter=OuterRef("vm__vcenter"),
        name=OuterRef("datastore"),
        measured_at__gt=now - BELIEVED_FOR,
        vcenter__latency_stop_ms__gt=0,
        latency_ms__gt=F("vcenter__latency_stop_ms"),
    )


def explain_waiting(run: Run) -> None:
    """Writes down what holds an item back besides its turn; for those who watch."""
    for item in _counted(timezone.now()).filter(run=run).select_related("vm__vcenter"):
        held_back = _why_held_back(item)
        if held_back != item.held_back:
            RunItem.objects.filter(pk=item.pk, state=ItemState.WAITING).update(held_back=held_back)


def _why_held_back(item: RunItem) -> str:
    vcenter = item.vm.vcenter
    on_datastore, on_host = item.busy_on_datastore, item.busy_on_host  # type: ignore[attr-defined]
    if item.slow:  # type: ignore[attr-defined]
        return is_slow(item)
    if vcenter.readers_per_datastore and on_datastore >= vcenter.readers_per_datastore:
        return f"{item.datastore} is read by as many readers as it may: {vcenter.readers_per_datastore}."
    if vcenter.readers_per_host and on_host >= vcenter.readers_per_host:
        return f"{item.host} serves as many readers as it may: {vcenter.readers_per_host}."
    return ""
