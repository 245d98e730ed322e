"""A VM's load over the time that its snapshot will be held, from what it does now and from what it did before.

What is measured now says most of the next minutes, and less of each hour that follows: its weight halves hourly. The
rest is the VM's own mean at the same hours of earlier days.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

from backups.platform import Load

RECENT = timedelta(hours=2)
RECENT_HALF_LIFE_S = 15 * 60
"""Of a sample's weight among the recent ones."""
NOW_HALF_LIFE_S = 60 * 60
"""Of the weight of what is recent, over the hold."""
HISTORY = timedelta(days=30)
HOUR = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Means about `at`, or of the hour that begins then."""

    at: datetime
    write_kbps: float
    read_kbps: float
    write_iops: float
    read_iops: float


class Metric(StrEnum):
    """What of a load an order goes by. Snapshots grow by what is written, whatever this is."""

    WRITE_KBPS = "write_kbps"
    TOTAL_KBPS = "total_kbps"
    IOPS = "iops"

    def of(self, load: Sample | Load) -> float:
        if self is Metric.IOPS:
            return load.write_iops + load.read_iops
        return load.write_kbps + (load.read_kbps if self is Metric.TOTAL_KBPS else 0.0)

    def told(self, value: float) -> str:
        units = {Metric.WRITE_KBPS: "KB/s written", Metric.TOTAL_KBPS: "KB/s read and written"}
        return f"{value:,.1f} {units.get(self, 'operations/s')}"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    value: float
    reason: str


def predict(
    history: Sequence[Sample],
    measured: Load | None,
    *,
    metric: Metric,
    now: datetime,
    hold_s: float,
    powered_on: bool = True,
) -> Prediction:
    """Over the `hold_s` seconds from `now`. `measured` without samples counts as none; samples of the future, and those
    of more than 30 days ago, are left out."""
    if not powered_on:
        return Prediction(value=0.0, reason="powered off: it writes nothing")
    recent = _recent(history, measured, metric, now)
    usual = _usual(history, metric, now, hold_s)
    if recent is None and usual is None:
        return Prediction(value=0.0, reason="no load was ever measured at this time of day")
    if usual is None:
        assert recent is not None  # noqa: S101
        return Prediction(value=recent, reason=f"{metric.told(recent)} now; earlier days tell nothing of these hours")
    value, days = usual
    told = f"{metric.told(value)} at these hours of {_days(days)}"
    if recent is None:
        return Prediction(value=value, reason=f"{told}; nothing could be measured now")
    share = share_of_now(hold_s)
    mixed = share * recent + (1 - share) * value
    weights = f"{share:.0%} now, {1 - share:.0%} then, for a hold of about {hold_s / 60:.0f} min"
    return Prediction(value=mixed, reason=f"{metric.told(recent)} now, {told}: {weights}")


def share_of_now(hold_s: float) -> float:
    """The mean over the hold of a weight that begins at 1 and halves hourly."""
    decay = hold_s / NOW_HALF_LIFE_S * math.log(2)
    return -math.expm1(-decay) / decay if decay > 1e-9 else 1.0


@lru_cache(maxsize=64)
def covered_hours(now: datetime, hold_s: float) -> Mapping[int, float]:
    """The UTC hours of the day that the hold covers, at most a day of it, and the seconds of each."""
    seconds: dict[int, float] = defaultdict(float)
    at, end = now, now + timedelta(seconds=min(max(hold_s, 1.0), 86_400))
    while at < end:
        until = min(hour_of(at) + HOUR, end)
        seconds[hour_of(at).hour] += (until - at).total_seconds()
        at = until
    return dict(seconds)


def hour_of(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _recent(history: Sequence[Sample], measured: Load | None, metric: Metric, now: datetime) -> float | None:
    weighted = [
        (metric.of(sample), 0.5 ** ((now - sample.at).total_seconds() / RECENT_HALF_LIFE_S))
        for sample in history
        if now - RECENT <= sample.at <= now
    ]
    if measured and measured.samples:
        weighted.append((metric.of(measured), 1.0))
    return _mean(weighted) if weighted else None


def _usual(history: Sequence[Sample], metric: Metric, now: datetime, hold_s: float) -> tuple[float, int] | None:
    """The mean at the hours covered, and of how many days. Each day counts alike, however many samples it has."""
    covered = covered_hours(now, hold_s)
    samples: dict[datetime, list[float]] = defaultdict(list)
    for sample in history:
        hour = hour_of(sample.at)
        if hour.hour in covered and hour_of(now - HISTORY) <= hour < hour_of(now):
            samples[hour].append(metric.of(sample))
    if not samples:
        return None
    by_hour: dict[int, list[float]] = defaultdict(list)
    for at, values in samples.items():
        by_hour[at.hour].append(math.fsum(values) / len(values))
    means = ((math.fsum(values) / len(values), covered[hour]) for hour, values in by_hour.items())
    return _mean(means), len({at.date() for at in samples})


def _mean(weighted: Iterable[tuple[float, float]]) -> float:
    """Exactly rounded sums: the order of the samples changes nothing."""
    pairs = list(weighted)
    return math.fsum(value * weight for value, weight in pairs) / math.fsum(weight for _, weight in pairs)


def _days(count: int) -> str:
    return "1 earlier day" if count == 1 else f"{count} earlier days"
