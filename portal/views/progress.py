"""How far a run is. Counted in SQL: a run may have thousands of VMs, and its page asks again twice a second."""

from datetime import datetime
from typing import Any

from django.db.models import Case, Count, DateTimeField, F, FloatField, Func, Max, Min, Q, QuerySet, Sum, Value, When
from django.db.models.functions import Cast, Coalesce, Least, NullIf

from backups.models import RunItem
from backups.models.runs import ITEM_FINAL, ItemState

WORKED_AT = (ItemState.SNAPSHOTTING, ItemState.ARCHIVING, ItemState.REMOVING)
WAITING = (ItemState.QUEUED, ItemState.WAITING)
SHOWN: dict[str, tuple[str, Q]] = {
    "": ("All", Q()),
    "open": ("Going on", Q(state__in=WORKED_AT)),
    "waiting": ("Waiting", Q(state__in=WAITING)),
    "failed": ("Not backed up", Q(state__in=ITEM_FINAL - {ItemState.SUCCEEDED})),
    "good": ("Backed up", Q(state=ItemState.SUCCEEDED)),
}
MOST_NAMED = 6
HELD_FROM = Coalesce("held_since", "snapshot_at")


class SecondsBetween(Func):
    """The end comes first. On SQLite times are text."""

    output_field = FloatField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "((julianday(%(expressions)s)) * 86400.0)"
        return self.as_sql(compiler, connection, template=template, arg_joiner=") - julianday(", **context)

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "EXTRACT(EPOCH FROM (%(expressions)s))::double precision"
        return self.as_sql(compiler, connection, template=template, arg_joiner=" - ", **context)


def progress_of(items: QuerySet[RunItem], now: datetime) -> dict[str, Any]:
    """Of a run's items, whatever their number, in two queries."""
    held_s, count = _held_s(now), Count("pk")
    found = items.order_by().aggregate(
        vms=count,
        ended=Count("pk", filter=Q(state__in=ITEM_FINAL)),
        **{key or "all": Count("pk", filter=condition) for key, (_, condition) in SHOWN.items() if key},
        share=Sum(_share()),
        exposure_kb=Sum(F("load_kbps") * held_s),
        longest_hold_s=Max(held_s),
        begin=Min(HELD_FROM),
        top_kbps=Max("load_kbps"),
        **{name: Sum(name) for name in ("bytes_read", "bytes_new", "bytes_stored", "grown_bytes")},
    )
    archiving = items.filter(state=ItemState.ARCHIVING).order_by("position").values_list("vm_name", flat=True)
    return found | {
        "archiving": archiving[:MOST_NAMED],
        "percent": round(100 * (found["share"] or 0) / (found["vms"] or 1)),
        "exposure_kb": found["exposure_kb"] or 0,
        "longest_hold_s": found["longest_hold_s"] or 0,
    }


def _held_s(now: datetime) -> Any:
    """So far, while the snapshot is there; with what it was held before it was given back."""
    until = Case(When(state__in=ITEM_FINAL, then=F("finished_at")), default=Value(now), output_field=DateTimeField())
    return Coalesce(SecondsBetween(Coalesce("removed_at", until), HELD_FROM), 0.0) + F("earlier_hold_s")


def _share() -> Case:
    """How much of an item is done, from 0 to 1."""
    expected = Coalesce(NullIf("bytes_expected", 0), NullIf("bytes_total", 0))
    read = Least(Cast("bytes_read", FloatField()) / Cast(expected, FloatField()), Value(1.0))
    return Case(
        When(state__in=[*ITEM_FINAL, ItemState.REMOVING], then=Value(1.0)),
        When(state=ItemState.ARCHIVING, then=Coalesce(read, 0.0)),
        default=Value(0.0),
        output_field=FloatField(),
    )
