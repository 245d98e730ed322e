"""Which VMs are snapshotted together next, and why the others are left for later."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from backups.ordering import POLICIES, Candidate, completions


@dataclass(frozen=True, kw_only=True)
class Queued(Candidate):
    """A VM that has no snapshot yet. `vapp` "" is a VM outside any vApp. `alone`: its hold went beyond the budget
    once, so it gets a batch of its own, after all others."""

    vapp: str = ""
    host: str = ""
    datastore: str = ""
    alone: bool = False
    raised: int = 0
    """Raised by hand: the highest goes before every priority."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the plan asks for. `batch_size` 0: all together; `hold_budget_s` 0: no limit."""

    policy: str = "highest_load"
    batch_size: int = 0
    vapps_whole: bool = True
    hold_budget_s: float = 0
    skip_over_budget: bool = False
    """Whether a VM that cannot keep the budget even alone is left out, or taken alone all the same."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """How things stand. A datastore or host that is not in a mapping does not limit."""

    free_at: Sequence[float] = (0.0,)
    """Seconds until each of the run's readers is free."""
    waiting: Sequence[Queued] = ()
    """The run's VMs that have their snapshots already."""
    snapshots_left_on_datastore: Mapping[str, int] = field(default_factory=dict)
    """How many more snapshots may be open at the same time."""
    snapshots_left_on_host: Mapping[str, int] = field(default_factory=dict)
    room_kb: Mapping[str, float] = field(default_factory=dict)
    """By how much snapshots on a datastore may grow from now on, all together."""
    open_on: Collection[str] = ()
    open_hosts: Collection[str] = ()
    """Hosts with open snapshots, of whatever run."""
    """Datastores with open snapshots, of whatever run: their room comes back."""

    @property
    def idle(self) -> bool:
        return not self.waiting and not any(self.free_at)


@dataclass(frozen=True)
class Batch:
    taken: list[str]
    left: dict[str, str]
    """The ids left for later, each with its reason."""
    refused: dict[str, str]
    """The ids that no later batch can take either, each with its reason."""
    alone: frozenset[str] = frozenset()
    """The ids taken though they cannot keep the hold budget: they are let finish."""


Group = list[Queued]
WORTH_TELLING_KB = 1024.0
"""A snapshot that is not expected to grow by more needs no room: an idle VM is backed up on a full datastore, too."""


def next_batch(queued: Sequence[Queued], limits: Limits, situation: Situation | None = None) -> Batch:
    """The VMs of the highest priority first, whole vApps together: a batch may exceed `batch_size` rather than split a
    vApp. Caps, the hold budget and the room on datastores only ever make it smaller."""
    situation = situation or Situation()
    reasons: dict[str, str] = {}
    refused: dict[str, str] = {}
    groups = _in_order([q for q in queued if not q.alone], limits)
    if not situation.idle:
        reasons |= {q.id: "It is tried again alone, once the others are done." for q in queued if q.alone}
    elif not groups:
        groups = [[q] for group in _in_order(queued, limits) for q in group][:1]
    groups = _within_size(_within_caps(groups, situation, reasons), limits, reasons)
    if situation.room_kb:
        groups = _within_room(groups, limits, situation, reasons, refused)
    if limits.hold_budget_s:
        groups = _within_budget(groups, limits, situation, reasons, refused)
    taken = [q.id for q in _flat(groups)]
    rest = {q.id for q in queued} - set(taken) - set(refused)
    left = {id_: reasons.get(id_, "It is tried again alone.") for id_ in rest}
    return Batch(taken, left, refused, _taken_alone(groups, limits, situation))


def _taken_alone(groups: list[Group], limits: Limits, situation: Situation) -> frozenset[str]:
    if not limits.hold_budget_s:
        return frozenset()
    idle = Situation(free_at=[0.0] * len(situation.free_at))
    late = [group for group in groups if max(_holds_s([group], limits, idle).values()) > limits.hold_budget_s]
    return frozenset(q.id for group in late for q in group) | {q.id for q in _flat(groups) if q.alone}


def _in_order(queued: Sequence[Queued], limits: Limits) -> list[Group]:
    """vApps whole, VMs outside one singly; the group with the VM of the highest priority first."""
    groups: dict[str, Group] = {}
    for q in queued:
        groups.setdefault(q.vapp if limits.vapps_whole and q.vapp else f"vm {q.id}", []).append(q)
    priorities = POLICIES[limits.policy](queued)
    return sorted(
        groups.values(), key=lambda group: max((q.raised, priorities[q.id].value) for q in group), reverse=True
    )


def _within_size(groups: list[Group], limits: Limits, reasons: dict[str, str]) -> list[Group]:
    if limits.batch_size == 0:
        return groups
    size = 0
    for number, group in enumerate(groups):
        if number and size + len(group) > limits.batch_size:
            _tell(groups[number:], reasons, f"Left for a later batch: {limits.batch_size} at a time.")
            return groups[:number]
        size += len(group)
    return groups


def _within_caps(groups: list[Group], situation: Situation, reasons: dict[str, str]) -> list[Group]:
    """A group that a cap holds back does not hold back those on other datastores and hosts. A vApp larger than the
    cap is taken where no other snapshot of ours is open, and takes no company."""
    datastores = _Cap("datastore", lambda q: q.datastore, situation.snapshots_left_on_datastore, situation.open_on)
    hosts = _Cap("host", lambda q: q.host, situation.snapshots_left_on_host, situation.open_hosts)
    kept: list[Group] = []
    for group in groups:
        full = datastores.full_for(group) or hosts.full_for(group)
        if full and (len(group) == 1 or datastores.used_by(group) or hosts.used_by(group)):
            _tell([group], reasons, f"Left for later: the {full} holds as many open snapshots as it may.")
            continue
        kept.append(group)
        datastores.take(group)
        hosts.take(group)
    return kept


class _Cap:
    def __init__(
        self, kind: str, place_of: Callable[[Queued], str], left: Mapping[str, int], used: Collection[str]
    ) -> None:
        self._kind, self._place_of, self._left, self._used = kind, place_of, dict(left), set(used)

    def full_for(self, group: Group) -> str:
        wanted = Counter(self._place_of(q) for q in group)
        full = [place for place, count in wanted.items() if self._left.get(place, count) < count]
        return f"{self._kind} {full[0]}" if full else ""

    def used_by(self, group: Group) -> bool:
        """Whether somebody's snapshot is open, or chosen to be, where the group lies and a cap holds."""
        return any(self._place_of(q) in self._used and self._place_of(q) in self._left for q in group)

    def take(self, group: Group) -> None:
        for q in group:
            self._used.add(self._place_of(q))
            if self._place_of(q) in self._left:
                self._left[self._place_of(q)] -= 1


def _within_room(
    groups: list[Group], limits: Limits, situation: Situation, reasons: dict[str, str], refused: dict[str, str]
) -> list[Group]:
    """Drops from the end what a datastore has no room for: Σ write rate × expected hold against what is free."""
    groups = [group for group in groups if not _outgrows_alone(group, limits, situation, refused)]
    holds_s = _holds_s(groups, limits, situation)
    for datastore, room_kb in situation.room_kb.items():
        growth_kb = sum(
            q.load_kbps * holds_s[q.id] for q in (*situation.waiting, *_flat(groups)) if q.datastore == datastore
        )
        kept: list[Group] = []
        for group in reversed(groups):
            own_kb = sum(q.load_kbps * holds_s[q.id] for q in group if q.datastore == datastore)
            if growth_kb <= room_kb or own_kb < WORTH_TELLING_KB:
                kept.append(group)
                continue
            growth_kb -= own_kb
            _tell([group], reasons, f"Left for a later batch: {_room(datastore, room_kb)}, and all would take more.")
        groups = kept[::-1]
    return groups


def _outgrows_alone(group: Group, limits: Limits, situation: Situation, refused: dict[str, str]) -> bool:
    holds_s = _holds_s([group], limits, Situation(free_at=[0.0] * len(situation.free_at)))
    for datastore in {q.datastore for q in group} - set(situation.open_on):
        growth_kb = sum(q.load_kbps * holds_s[q.id] for q in group if q.datastore == datastore)
        room_kb = situation.room_kb.get(datastore, math.inf)
        if growth_kb > max(room_kb, WORTH_TELLING_KB):
            told = f"{_room(datastore, room_kb)}, and this one is expected to grow by {growth_kb / 1e6:.2f} GB"
            _tell([group], refused, f"Not snapshotted: {told}. Free some space.")
            return True
    return False


def _room(datastore: str, room_kb: float) -> str:
    return f"snapshots on {datastore} have room for {max(room_kb, 0) / 1e6:.2f} GB"


def _holds_s(groups: list[Group], limits: Limits, situation: Situation) -> dict[str, float]:
    every = [*situation.waiting, *_flat(groups)]
    priorities = POLICIES[limits.policy](every)
    order = sorted(every, key=lambda q: (-q.raised, -priorities[q.id].value, q.name, q.id))
    return dict(zip((q.id for q in order), completions(order, situation.free_at), strict=True))


def _within_budget(
    groups: list[Group], limits: Limits, situation: Situation, reasons: dict[str, str], refused: dict[str, str]
) -> list[Group]:
    """Just in time: only as many as are expected to be done within the budget. What cannot keep it even alone is
    refused, or left to the end."""
    budget_s = limits.hold_budget_s
    groups = _without_hopeless(groups, limits, situation, reasons, refused)
    while groups:
        holds_s = _holds_s(groups, limits, situation)
        late = [group for group in groups if max(holds_s[q.id] for q in group) > budget_s]
        if len(late) == len(groups) and situation.idle:
            late = late[1:]
        if not late:
            break
        _tell(late, reasons, f"Left for a later batch: it would be held longer than {budget_s:.0f} s.")
        dropped = {group[0].id for group in late}
        groups = [group for group in groups if group[0].id not in dropped]
    return groups


def _without_hopeless(
    groups: list[Group], limits: Limits, situation: Situation, reasons: dict[str, str], refused: dict[str, str]
) -> list[Group]:
    idle = Situation(free_at=[0.0] * len(situation.free_at))
    fitting: list[Group] = []
    hopeless: list[Group] = []
    for group in groups:
        longest_s = max(_holds_s([group], limits, idle).values())
        (hopeless if longest_s > limits.hold_budget_s else fitting).append(group)
    told = f"its archive alone is expected to take longer than {limits.hold_budget_s:.0f} s"
    if limits.skip_over_budget:
        _tell(hopeless, refused, f"Skipped: {told}.")
        return fitting
    if not fitting and situation.idle:
        return hopeless[:1]
    _tell(hopeless, reasons, f"Left to the end: {told}.")
    return fitting


def _flat(groups: Sequence[Group]) -> list[Queued]:
    return [q for group in groups for q in group]


def _tell(groups: Sequence[Group], reasons: dict[str, str], reason: str) -> None:
    reasons.update({q.id: reason for group in groups for q in group})
