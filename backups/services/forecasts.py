"""What runs are expected to cost: before one starts, and for the plan's screen."""

from collections.abc import Iterable, Sequence
from statistics import median

from django.utils import timezone

from backups.batches import Queued
from backups.forecast import Choice, Forecast, compare, forecast
from backups.models import Plan, Run, RunItem
from backups.models.runs import ITEM_FINAL
from backups.services.datastores import places_of
from backups.services.loads import expect_durations, predict_items
from backups.services.plans import vms_of
from backups.services.runs import COPIED, item_of
from backups.services.situation import limits_of, queued_of

SNAPSHOT_S = 1.0
"""From a batch's snapshots to its first archive, where no run has measured it yet."""
RUNS_ASKED = 5


def foretell(run: Run) -> None:
    """Written once, before the first snapshot, so that the report can be held against it."""
    if run.forecast:
        return
    items = list(RunItem.objects.filter(run=run).exclude(state__in=ITEM_FINAL).select_related("vm__vcenter"))
    told = _forecast(run, items)
    run.forecast = {**told.totals(), "vms": _by_vm(told)}
    Run.objects.filter(pk=run.pk).update(forecast=run.forecast)


def forecast_plan(plan: Plan) -> Forecast:
    """Of a run that starts now, by what is known in the database. The plan's options may be unsaved."""
    run, items = _imagined(plan)
    return _forecast(run, items)


def compare_plan(plan: Plan, choices: Iterable[Choice]) -> list[Forecast]:
    """The least exposure first."""
    run, items = _imagined(plan)
    datastores, hosts = places_of({item.vm.vcenter for item in items})
    places = {"datastores": datastores, "hosts": hosts, "snapshot_s": _snapshot_s(run)}
    return compare(_queued(items), limits_of(run), choices, **places)


def _imagined(plan: Plan) -> tuple[Run, list[RunItem]]:
    """A run that is never saved."""
    run = Run(tenant=plan.tenant, plan=plan, **{name: getattr(plan, name) for name in COPIED})
    items = [item_of(run, vm) for vm in vms_of(plan)]
    if items:
        now = timezone.now()
        expect_durations(run, items, now)
        predict_items(run, items, {}, now)
    return run, items


def _forecast(run: Run, items: Sequence[RunItem]) -> Forecast:
    datastores, hosts = places_of({item.vm.vcenter for item in items})
    places = {"datastores": datastores, "hosts": hosts}
    return forecast(_queued(items), limits_of(run), run.readers, snapshot_s=_snapshot_s(run), **places)


def _queued(items: Sequence[RunItem]) -> list[Queued]:
    return [queued_of(item) for item in items]


def _snapshot_s(run: Run) -> float:
    """From a batch's snapshots to its first archive, as the plan's last runs had it."""
    last = Run.objects.filter(plan=run.plan).exclude(report={}).order_by("-created_at")[:RUNS_ASKED]
    measured = [past.report["start_s"] for past in last if "start_s" in past.report]
    return median(measured) if measured else SNAPSHOT_S


def _by_vm(told: Forecast) -> dict[str, dict[str, float]]:
    return {
        course.id: {"hold_s": round(course.hold_s, 1), "growth_kb": round(course.growth_kb, 1)}
        for course in told.courses
    }
