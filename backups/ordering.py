"""The order of archiving, and what it costs.

The method of taking all snapshots first and archiving by falling I/O load is described in US 9,471,441.
Exposure is Σ load × hold, in KB of snapshot growth: what the order is there to keep small.
"""

import heapq
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

SHORTEST_S = 0.001
"""So that an archive of no length divides nothing by zero."""
BISECTIONS = 16


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

    @property
    def density(self) -> float:
        """KB/s written, by each second of archiving."""
        return self.load_kbps / max(self.expected_s, SHORTEST_S)


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
            c.ordering_load / max(c.expected_s, SHORTEST_S),
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
    """No order can do better, whatever it orders by. Exact for one reader (Smith); for several the best of three:
    that of Eastman, Even and Isaacs (1964), all VMs archived at once, and prices for the readers' time."""
    order = sorted(candidates, key=lambda c: c.density, reverse=True)
    alone = exposure_kb(order, 1)
    if readers == 1:
        return alone
    own = sum(c.load_kbps * c.expected_s for c in candidates)
    shared = alone / readers + own * (readers - 1) / (2 * readers)
    return max(own, shared, _priced_bound_kb(order, readers))


def _priced_bound_kb(order: Sequence[Candidate], readers: int) -> float:
    """The Lagrangian bound of the problem in which an archive may be interrupted, but has one reader at a time. Each
    VM pays `price(t)` for a reader's second at t and chooses its own best time; what all readers could earn is
    taken off. Any prices give a bound; these come from the schedule of Smith's rule, and are exact for one reader."""
    prices = _Prices(order, readers)
    paid = sum(prices.least_cost_kb(c, start_s) for c, start_s in zip(order, prices.starts, strict=True))
    return paid - readers * prices.earned_from(0.0)


class _Prices:
    """The price falls to 0 when the first reader is done for good, at each time by the density of the VM that was
    started last: convex, since densities fall too."""

    def __init__(self, order: Sequence[Candidate], readers: int) -> None:
        free_at = [0.0] * readers
        self.starts = [heapq.heapreplace(free_at, free_at[0] + c.expected_s) for c in order]
        self._times = [*self.starts, free_at[0]]
        self._slopes = [c.density for c in order]
        self._prices, self._earned = [0.0], [0.0]
        for at in reversed(range(len(order))):
            length = self._times[at + 1] - self._times[at]
            self._earned.append(self._earned[-1] + length * (self._prices[-1] + self._slopes[at] * length / 2))
            self._prices.append(self._prices[-1] + self._slopes[at] * length)
        self._prices.reverse()
        self._earned.reverse()

    def price(self, time_s: float) -> float:
        return self._at(time_s)[0]

    def earned_from(self, time_s: float) -> float:
        """By one reader that is paid from `time_s` on."""
        return self._at(time_s)[1]

    def _at(self, time_s: float) -> tuple[float, float]:
        at = bisect_right(self._times, time_s)
        if at == len(self._times):
            return 0.0, 0.0
        left = self._times[at] - time_s
        slope, price = self._slopes[at - 1], self._prices[at]
        return price + slope * left, self._earned[at] + left * (price + slope * left / 2)

    def least_cost_kb(self, vm: Candidate, start_s: float) -> float:
        """Exposure and price at the best time to begin. Before `start_s` the price falls more steeply than the VM's
        exposure grows, after it less: so the best time is at most one archive earlier. The cost is convex there; the
        tangent on the last, tiny interval is below it."""
        earliest, latest = max(0.0, start_s - vm.expected_s), start_s
        for _ in range(BISECTIONS):
            middle = (earliest + latest) / 2
            if self._growth(vm, middle) < 0:
                earliest = middle
            else:
                latest = middle
        own = vm.density * vm.expected_s * (earliest + vm.expected_s / 2) + vm.load_kbps * vm.expected_s / 2
        paid = self.earned_from(earliest) - self.earned_from(earliest + vm.expected_s)
        return own + paid + min(0.0, self._growth(vm, earliest)) * (latest - earliest)

    def _growth(self, vm: Candidate, start_s: float) -> float:
        """Of the cost, by a second of beginning later."""
        return vm.density * vm.expected_s + self.price(start_s + vm.expected_s) - self.price(start_s)
