"""What a run cost its VMs, and what other orders would have cost with the durations that were measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backups.ordering import POLICIES, Candidate, exposure_bound_kb, exposure_kb, in_order


@dataclass(frozen=True, kw_only=True)
class Done:
    """A VM whose snapshot was taken, archived and removed."""

    id: str
    name: str
    load_kbps: float
    snapshot_at: datetime
    archiving_at: datetime
    removed_at: datetime

    @property
    def hold_s(self) -> float:
        return (self.removed_at - self.snapshot_at).total_seconds()

    @property
    def candidate(self) -> Candidate:
        duration_s = (self.removed_at - self.archiving_at).total_seconds()
        return Candidate(id=self.id, name=self.name, load_kbps=self.load_kbps, expected_s=duration_s)


def report(done: Sequence[Done], readers: int) -> dict[str, Any]:
    """JSON: exposures in KB, times in seconds. `exposure_kb` is what happened; `orders` what each order would
    have cost with the same durations, if all snapshots had been taken at once, the first archive had begun as late
    as it did, and readers had never idled since; `reverse` is the idlest first."""
    if not done:
        return {}
    candidates = [d.candidate for d in done]
    taken = [d.snapshot_at for d in done]
    start_s = (min(d.archiving_at for d in done) - min(taken)).total_seconds()
    ordered = {policy: in_order(policy, candidates) for policy in POLICIES}
    ordered["reverse"] = ordered["highest_load"][::-1]
    start_kb = start_s * sum(d.load_kbps for d in done)
    return {
        "exposure_kb": sum(d.load_kbps * d.hold_s for d in done),
        "bound_kb": start_kb + exposure_bound_kb(candidates, readers),
        "orders": {name: exposure_kb(order, readers, start_s) for name, order in ordered.items()},
        "skew_s": (max(taken) - min(taken)).total_seconds(),
        "longest_hold_s": max(d.hold_s for d in done),
    }
