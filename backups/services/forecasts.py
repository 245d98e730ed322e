"""What runs are expected to cost: before one starts, and for the plan's screen."""

from backups.forecast import Forecast, forecast
from backups.models import Run, RunItem
from backups.models.runs import ITEM_FINAL
from backups.services.datastores import places_of
from backups.services.situation import limits_of, queued_of

SNAPSHOT_S = 1.0
"""Until all snapshots of a batch are there, where no run has measured it yet."""


def foretell(run: Run) -> None:
    """Written once, before the first snapshot, so that the report can be held against it."""
    if run.forecast:
        return
    items = list(RunItem.objects.filter(run=run).exclude(state__in=ITEM_FINAL).select_related("vm__vcenter"))
    datastores, hosts = places_of({item.vm.vcenter for item in items})
    told = forecast(
        [queued_of(item) for item in items],
        limits_of(run),
        run.readers,
        datastores=datastores,
        hosts=hosts,
        snapshot_s=SNAPSHOT_S,
    )
    run.forecast = {**told.totals(), "vms": _by_vm(told)}
    Run.objects.filter(pk=run.pk).update(forecast=run.forecast)


def _by_vm(told: Forecast) -> dict[str, dict[str, float]]:
    return {
        course.id: {"hold_s": round(course.hold_s, 1), "growth_kb": round(course.growth_kb, 1)}
        for course in told.courses
    }
