"""What a plan's next run is expected to cost as the plan is, or with options that are only tried; and what else there
is to choose from."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

from backups.forecast import Forecast
from backups.models import Plan
from backups.ordering import POLICIES
from backups.services.forecasts import compare_plan
from backups.services.plans import vms_of

WORTH_TELLING = 0.97
"""What is less than three percent better is not told as better: forecasts are not so exact."""

LARGE = 2000
"""With more VMs each thing there is to choose from takes seconds to foretell: only the orders are compared."""


@dataclass(frozen=True)
class Foretold:
    """`others` the least exposure first; the plan's own options are among them."""

    own: Forecast
    others: list[Forecast]

    @property
    def vms(self) -> int:
        return len(self.own.courses) + len(self.own.left_out)

    @property
    def better(self) -> Forecast | None:
        """With as many readers and no fewer VMs: what takes the least, if that is worth the change."""
        equal = [f for f in self.others if f.readers == self.own.readers and _no_worse(f, self.own)]
        least = min(equal, key=lambda f: f.exposure_kb, default=self.own)
        return least if least.exposure_kb < WORTH_TELLING * self.own.exposure_kb else None

    def is_own(self, other: Forecast) -> bool:
        return _options(other) == _options(self.own)


def tried(plan: Plan, options: Mapping[str, Any]) -> Plan:
    """The plan with these options, unsaved."""
    other = copy(plan)
    for name, value in options.items():
        setattr(other, name, value)
    return other


def foretell(plan: Plan) -> Foretold:
    """Every order with a few batch sizes, and the plan's own order with fewer and more readers."""
    vms = vms_of(plan).count()
    own = (plan.policy, plan.batch_size, plan.readers)
    choices = {own, *((policy, size, plan.readers) for policy in POLICIES for size in _batch_sizes(plan, vms))}
    if vms <= LARGE:
        choices |= {(plan.policy, plan.batch_size, readers) for readers in _readers(plan, vms)}
    found = compare_plan(plan, sorted(choices))
    return Foretold(next(f for f in found if _options(f) == own), found if vms else [])


def _batch_sizes(plan: Plan, vms: int) -> list[int]:
    """All together; the plan's own; and as few as keep every reader busy, or in large plans a twentieth."""
    sizes = [0, plan.batch_size, max(2 * plan.readers, vms // 20) if vms <= LARGE else 0]
    return sorted({size for size in sizes if size < vms or size == plan.batch_size})


def _readers(plan: Plan, vms: int) -> list[int]:
    return [count for count in (max(plan.readers // 2, 1), plan.readers * 2) if count != plan.readers and count <= vms]


def _options(told: Forecast) -> tuple[str, int, int]:
    return told.policy, told.batch_size, told.readers


def _no_worse(other: Forecast, own: Forecast) -> bool:
    return len(other.left_out) <= len(own.left_out) and sum(other.short_kb.values()) <= sum(own.short_kb.values())
