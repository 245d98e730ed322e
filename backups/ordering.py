"""The order of archiving, and what it costs.

The method of taking all snapshots first and archiving by falling I/O load is described in US 9,471,441.
Exposure is Σ load × hold, in KB of snapshot growth: what the order is there to keep small.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A VM that waits: its load in KB/s, and the seconds its archive is expected to take."""

    id: str
    name: str
    load_kbps: float
    expected_s: float = 1.0


@dataclass(frozen=True)
class Priority:
    """The waiting VM of the highest `value` is archived next."""

    value: float
    reason: str


def highest_load(candidates: Sequence[Candidate]) -> dict[str, Priority]:
    return {c.id: Priority(c.load_kbps, f"writes {c.load_kbps:.1f} KB/s") for c in candidates}


def least_disturbance(candidates: Sequence[Candidate]) -> dict[str, Priority]:
    """Smith's rule (1956): the largest load ÷ duration first has the least Σ load × completion for one reader."""
    return {
        c.id: Priority(
            c.load_kbps / max(c.expected_s, 0.001),
            f"writes {c.load_kbps:.1f} KB/s for an archive of about {c.expected_s:.0f} s",
        )
        for c in candidates
    }


def by_name(candidates: Sequence[Candidate]) -> dict[str, Priority]:
    ranked = sorted(candidates, key=lambda c: (c.name, c.id))
    return {c.id: Priority(float(-rank), "by name") for rank, c in enumerate(ranked)}


POLICIES: dict[str, Callable[[Sequence[Candidate]], dict[str, Priority]]] = {
    "highest_load": highest_load,
    "least_disturbance": least_disturbance,
    "name": by_name,
}


def in_order(policy: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    priorities = POLICIES[policy](candidates)
    return sorted(candidates, key=lambda c: (-priorities[c.id].value, c.name, c.id))


def exposure_kb(order: Sequence[Candidate], readers: int, start_s: float = 0.0) -> float:
    """Snapshot growth if all snapshots are taken at once and, from `start_s` on, each free reader takes the next of
    `order`."""
    free_at = [start_s] * readers
    total = 0.0
    for candidate in order:
        done = heapq.heappop(free_at) + candidate.expected_s
        heapq.heappush(free_at, done)
        total += candidate.load_kbps * done
    return total


def exposure_bound_kb(candidates: Sequence[Candidate], readers: int) -> float:
    """No order can do better: Eastman, Even and Isaacs (1964). Exact for one reader."""
    alone = exposure_kb(in_order("least_disturbance", candidates), 1)
    own = sum(c.load_kbps * c.expected_s for c in candidates)
    return alone / readers + own * (readers - 1) / (2 * readers)
