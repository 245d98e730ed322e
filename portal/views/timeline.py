"""A run drawn to time: for each VM the spans from its snapshot to its removal, in percent of the width."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from backups.models import Run, RunItem
from backups.models.runs import ITEM_FINAL, RUN_FINAL, ItemState

SHORTEST_S = 10.0
HEADROOM = 1.04
MOST_TICKS = 6
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
SHORT: dict[str, str] = {ItemState.SNAPSHOTTING: "Snapshot", ItemState.REMOVING: "Removing"}
NARROWEST = 0.35
"""A span that took no time is still seen."""


@dataclass(frozen=True)
class Span:
    kind: str
    left: float
    width: float
    seconds: float


@dataclass(frozen=True)
class Tick:
    left: float
    label: str


@dataclass(frozen=True)
class Lane:
    item: RunItem
    spans: list[Span]
    snapshot_left: float | None
    load_percent: float
    hold_s: float | None
    exposure_kb: float | None
    done_percent: int | None
    forecast: dict[str, float]
    """`hold_s` and `growth_kb`, where the run was foretold."""

    @property
    def word(self) -> str:
        """The state, short enough to stand beside the drawing."""
        return SHORT.get(self.item.state, self.item.get_state_display())

    @property
    def waits(self) -> bool:
        return self.item.state in (ItemState.QUEUED, ItemState.WAITING)

    @property
    def told(self) -> str:
        """The drawing in words."""
        parts = [f"{span.kind} {span.seconds:.0f} s" for span in self.spans]
        return f"{self.item.vm_name}: {', '.join(parts) or self.item.get_state_display().lower()}"


@dataclass(frozen=True)
class Timeline:
    start: datetime
    lanes: list[Lane]
    ticks: list[Tick]
    now_left: float | None


def draw(run: Run, items: Sequence[RunItem], begin: datetime | None, top_kbps: float, now: datetime) -> Timeline:
    """`items` are those on this page; the run's first snapshot and highest load set the scales."""
    start = begin or run.started_at or run.created_at
    foretold = run.forecast.get("vms", {})
    going_on = run.state not in RUN_FINAL
    end = now if going_on else run.finished_at or now
    width_s = max((end - start).total_seconds(), SHORTEST_S) * (HEADROOM if going_on else 1.0)
    scale = 100 / width_s
    return Timeline(
        start=start,
        lanes=[_lane(item, start, scale, now, top_kbps or 1, foretold.get(str(item.pk), {})) for item in items],
        ticks=_ticks(width_s, scale),
        now_left=(now - start).total_seconds() * scale if going_on else None,
    )


def _lane(
    item: RunItem, start: datetime, scale: float, now: datetime, top_kbps: float, foretold: dict[str, float]
) -> Lane:
    hold_s = held_s(item, now)
    return Lane(
        item=item,
        spans=[_span(kind, a, b, start, scale) for kind, a, b in _phases(item, now)],
        snapshot_left=(item.held_from - start).total_seconds() * scale if item.held_from else None,
        load_percent=max(100 * item.load_kbps / top_kbps, 1.5) if item.load_kbps else 0,
        hold_s=hold_s,
        exposure_kb=None if hold_s is None else hold_s * item.load_kbps,
        done_percent=_done_percent(item),
        forecast=foretold,
    )


def held_s(item: RunItem, now: datetime) -> float | None:
    """So far, while the snapshot is there; with what it was held before it was given back."""
    end = item.removed_at or (item.finished_at if item.state in ITEM_FINAL else now)
    if not item.held_from or not end:
        return item.earlier_hold_s or None
    return max((end - item.held_from).total_seconds(), 0.0) + item.earlier_hold_s


def _phases(item: RunItem, now: datetime) -> list[tuple[str, datetime, datetime]]:
    end = item.removed_at or (item.finished_at if item.state in ITEM_FINAL else None) or now
    read = item.archived_at or item.removing_at
    marks = [("waiting", item.held_from), ("archiving", item.archiving_at), ("removing", read)]
    begun = [(kind, at) for kind, at in marks if at]
    if not item.held_from:
        return []
    ends = [at for _, at in begun[1:]] + [end]
    return [(kind, at, max(until, at)) for (kind, at), until in zip(begun, ends, strict=True)]


def _span(kind: str, begin: datetime, end: datetime, start: datetime, scale: float) -> Span:
    seconds = (end - begin).total_seconds()
    left = max((begin - start).total_seconds() * scale, 0.0)
    return Span(kind, left, max(seconds * scale, NARROWEST), seconds)


def _done_percent(item: RunItem) -> int | None:
    expected = item.bytes_expected or item.bytes_total
    if item.state != ItemState.ARCHIVING or not expected:
        return None
    return min(100 * item.bytes_read // expected, 99)


def _ticks(width_s: float, scale: float) -> list[Tick]:
    step = next((s for s in STEPS_S if width_s / s <= MOST_TICKS), STEPS_S[-1])
    return [Tick(second * scale, _label(second)) for second in range(0, int(width_s) + 1, step)]


def _label(second: int) -> str:
    if second < 60:
        return f"{second} s"
    return str(timedelta(seconds=second)).removeprefix("0:") if second % 60 else f"{second // 60} min"
