"""What a run cost its VMs, and what other orders would have cost with the durations that were measured."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean
from typing import Any

from backups.ordering import POLICIES, Candidate, exposure_bound_kb, exposure_kb, in_order


@dataclass(frozen=True, kw_only=True)
class Done:
    """A VM whose snapshot was taken, archived and removed. `snapshot_at` is by vCenter's clock, all else by ours.
    `earlier_hold_s`: how long it kept snapshots that were
    given back before, by a pause or for going beyond the hold budget."""

    id: str
    name: str
    load_kbps: float
    snapshot_at: datetime
    held_since: datetime
    archiving_at: datetime
    removed_at: datetime
    earlier_hold_s: float = 0.0
    load: float | None = None

    @property
    def hold_s(self) -> float:
        return (self.removed_at - self.held_since).total_seconds() + self.earlier_hold_s

    @property
    def candidate(self) -> Candidate:
        duration_s = (self.removed_at - self.archiving_at).total_seconds()
        return Candidate(id=self.id, name=self.name, load_kbps=self.load_kbps, expected_s=duration_s, load=self.load)


RANDOM_ORDERS = 20


def report(done: Sequence[Done], readers: int, in_vain_kb: float = 0.0) -> dict[str, Any]:
    """JSON: exposures in KB, times in seconds. `exposure_kb` is what happened, `in_vain_kb` included: the growth of
    snapshots that no archive came of; `orders` what each order would
    have cost with the same durations, if all snapshots had been taken at once, the first archive had begun as late
    as it did, and readers had never idled since; `random` is the mean of many; `bound_kb` what no order can do better
    than; `start_s` the time from the first snapshot to the first archive."""
    if not done:
        return {}
    candidates = [d.candidate for d in done]
    taken = [d.snapshot_at for d in done]
    begun = min(d.held_since for d in done)
    start_s = max((min(d.archiving_at for d in done) - begun).total_seconds(), 0.0)
    orders = {policy: exposure_kb(in_order(policy, candidates), readers, start_s) for policy in POLICIES}
    start_kb = start_s * sum(d.load_kbps for d in done)
    return {
        "exposure_kb": sum(d.load_kbps * d.hold_s for d in done) + in_vain_kb,
        "in_vain_kb": in_vain_kb,
        "bound_kb": start_kb + exposure_bound_kb(candidates, readers),
        "orders": orders | {"random": _random_kb(candidates, readers, start_s)},
        "start_s": start_s,
        "skew_s": (max(taken) - min(taken)).total_seconds(),
        "longest_hold_s": max(d.hold_s for d in done),
        "window_s": (max(d.removed_at for d in done) - begun).total_seconds(),
    }


def _random_kb(candidates: Sequence[Candidate], readers: int, start_s: float) -> float:
    """Seeded: a report that is made again says the same."""
    chance = random.Random(len(candidates))  # noqa: S311
    return fmean(
        exposure_kb(chance.sample(candidates, len(candidates)), readers, start_s) for _ in range(RANDOM_ORDERS)
    )
