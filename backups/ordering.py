"""The order of archiving, and what it costs.

The method of taking all snapshots first and archiving by falling I/O load is described in US 9,471,441.
Exposure is Σ load × hold, in KB of snapshot growth: what the order is there to keep small.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A VM that waits: what it writes in KB/s, so fast its snapshot grows; the seconds its archive is expected to
    take; and the load that the order goes by, in whatever metric was chosen (None: what it writes)."""

    id: str
    name: str
    load_kbps: float
    expected_s: float = 1.0
    load: float | None = None

    @property
    def ordering_load(self) -> float:
        return self.load_kbps if self.load is None else self.load


@dataclass(frozen=True)
class Priority:
    """The waiting VM of the highest `value` is archived next."""

    value: float
    reason: str


def highest_load(candidates: Sequence[Candidate]) -> dict[str, Priority]:
    return {c.id: Priority(c.ordering_load, f"load {c.ordering_load:.1f}") for c in candidates}


def least_disturbance(candidates: Sequence[Candidate]) -> dict[str, Priority]:
    """Smith's rule (1956): the largest load ÷ duration first has the least Σ load × completion for one reader."""
    return {
        c.id: Priority(
            c.ordering_load / max(c.expected_s, 0.001),
            f"load {c.ordering_load:.1f} for an archive of about {c.expected_s:.0f} s",
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


C = TypeVar("C", bound=Candidate)


def in_order(policy: str, candidates: Sequence[C]) -> list[C]:
    priorities = POLICIES[policy](candidates)
    return sorted(candidates, key=lambda c: (-priorities[c.id].value, c.name, c.id))


def completions(order: Sequence[Candidate], free_at: Sequence[float]) -> list[float]:
    """When each of `order` is done, in seconds from now, if each reader takes the next once it is free; `free_at` has
    a time for each reader."""
    readers = list(free_at)
    heapq.heapify(readers)
    done: list[float] = []
    for candidate in order:
        done.append(heapq.heappop(readers) + candidate.expected_s)
        heapq.heappush(readers, done[-1])
    return done


def exposure_kb(order: Sequence[Candidate], readers: int, start_s: float = 0.0) -> float:
    """Snapshot growth if all snapshots are taken at once and, from `start_s` on, each free reader takes the next of
    `order`."""
    held_s = completions(order, [start_s] * readers)
    return sum(candidate.load_kbps * seconds for candidate, seconds in zip(order, held_s, strict=True))


def exposure_bound_kb(candidates: Sequence[Candidate], readers: int) -> float:
    """No order can do better: Eastman, Even and Isaacs (1964). Exact for one reader."""
    alone = exposure_kb(in_order("least_disturbance", candidates), 1)
    own = sum(c.load_kbps * c.expected_s for c in candidates)
    return alone / readers + own * (readers - 1) / (2 * readers)
