"""Which VMs are snapshotted together next, and why the others are left for later."""

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

from backups.ordering import POLICIES, Candidate, completions

LEAST_GROWTH_KB = 1000.0
"""What grows by less needs no room of its own: it goes even where the reserve is used up."""
Place = tuple[str, str]
"""The kind, datastore or host, and the name."""


@dataclass(frozen=True, kw_only=True)
class Queued(Candidate):
    """A VM that has no snapshot yet. `vapp` "" is a VM outside any vApp. `alone`: its hold went beyond the budget
    once, so it gets a batch of its own, after all others."""

    vapp: str = ""
    host: str = ""
    datastore: str = ""
    alone: bool = False
    raised: int = 0
    """By hand: the highest before all others, whatever the policy."""


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
    """Datastores with open snapshots, of whatever run: their room comes back."""
    open_hosts: Collection[str] = ()

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
    """The ids taken that cannot keep the hold budget, or could not: they are to finish all the same."""


def next_batch(queued: Sequence[Queued], limits: Limits, situation: Situation | None = None) -> Batch:
    """The VMs of the highest priority first, whole vApps together: a batch may exceed `batch_size` rather than split a
    vApp. Caps, the hold budget and the room on datastores only ever make it smaller. A vApp larger than a cap is taken
    by an idle run, first of its batch, if no snapshot is open on that place at all."""
    situation = situation or Situation()
    return Queue(queued, limits, situation).take(situation, explain=True)


@dataclass(frozen=True, eq=False)
class _Group:
    """VMs that are taken together. `growth_kb`: by datastore, if nothing else were archived."""

    vms: list[Queued]
    rank: int
    longest_s: float
    growth_kb: dict[str, float]
    places: Counter[Place]

    @cached_property
    def growing_on(self) -> set[str]:
        return {name for name, kb in self.growth_kb.items() if kb >= LEAST_GROWTH_KB}


class Queue:
    """VMs without a snapshot, put in order once for many batches. The limited places and the number of readers are
    those of the situation that it is made with."""

    def __init__(self, queued: Sequence[Queued], limits: Limits, situation: Situation) -> None:
        self.rank = {q.id: rank for rank, q in enumerate(_archiving_order([*queued, *situation.waiting], limits))}
        self.left = {q.id: q for q in queued}
        self._limits, self._skipped = limits, dict[str, str]()
        self._in_time, self._hopeless, self._alone = (_Line(situation) for _ in range(3))
        for group in self._groups(len(situation.free_at)):
            hopeless = 0 < limits.hold_budget_s < group.longest_s
            if hopeless and limits.skip_over_budget:
                _tell([group], self._skipped, f"Skipped: {_too_long(limits)}.")
            else:
                (self._alone if group.vms[0].alone else self._hopeless if hopeless else self._in_time).add(group)

    def _groups(self, readers: int) -> Iterator[_Group]:
        """vApps whole, VMs outside one singly; by the rank of their first."""
        groups: dict[str, list[Queued]] = {}
        for q in sorted(self.left.values(), key=lambda q: self.rank[q.id]):
            together = self._limits.vapps_whole and q.vapp and not q.alone
            groups.setdefault(f"vapp {q.vapp}" if together else f"vm {q.id}", []).append(q)
        for vms in groups.values():
            yield _group(vms, self.rank[vms[0].id], readers)

    def take(self, situation: Situation, *, explain: bool = False) -> Batch:
        """The next batch, which leaves the queue. Without `explain` it looks at little more than it takes, and tells of
        none that is left."""
        refused, reasons = self._skipped, dict[str, str]()
        self._skipped = {}
        choice = _Choice(self._limits, situation, self.rank, refused, reasons)
        line, taken = self._in_time, choice.batch(self._in_time, explain=explain)
        if not taken and situation.idle and (self._hopeless or not self._in_time):
            line = self._hopeless or self._alone
            again = _Choice(self._limits, situation, self.rank, refused, reasons)
            taken = list(islice(again.fitting(line, explain=explain), 1))
        line.remove(taken)
        ids = [q.id for q in _flat(taken)]
        for id_ in (*ids, *refused):
            del self.left[id_]
        left = self._why_left(reasons) if explain else {}
        return Batch(ids, left, refused, frozenset() if line is self._in_time else frozenset(ids))

    def _why_left(self, reasons: dict[str, str]) -> dict[str, str]:
        told: dict[str, str] = {}
        _tell(self._in_time.groups(), told, f"Left for a later batch: {self._limits.batch_size} at a time.")
        _tell(self._hopeless.groups(), told, f"Left to the end: {_too_long(self._limits)}.")
        _tell(self._alone.groups(), told, "It is tried again alone, once the others are done.")
        return told | reasons


def _archiving_order(vms: Sequence[Queued], limits: Limits) -> list[Queued]:
    priorities = POLICIES[limits.policy](vms)
    return sorted(vms, key=lambda q: (-q.raised, -priorities[q.id].value, q.name, q.id))


def _group(vms: list[Queued], rank: int, readers: int) -> _Group:
    holds_s = completions(vms, [0.0] * readers)
    growth_kb: defaultdict[str, float] = defaultdict(float)
    for q, hold_s in zip(vms, holds_s, strict=True):
        growth_kb[q.datastore] += q.load_kbps * hold_s
    places = Counter([*(("datastore", q.datastore) for q in vms), *(("host", q.host) for q in vms)])
    return _Group(vms, rank, max(holds_s), growth_kb, places)


class _Line:
    """Groups by rank, those that the same limits hold back in one bucket: where its first has no place, none has."""

    def __init__(self, situation: Situation) -> None:
        self._capped, self._roomy = set(_snapshots_left(situation)), set(situation.room_kb)
        self._buckets: defaultdict[Hashable, list[_Group]] = defaultdict(list)

    def _bucket_of(self, group: _Group) -> list[_Group]:
        capped = frozenset((place, count) for place, count in group.places.items() if place in self._capped)
        return self._buckets[capped, frozenset(self._roomy & group.growing_on), len(group.vms) > 1]

    def add(self, group: _Group) -> None:
        self._bucket_of(group).append(group)

    def remove(self, groups: Iterable[_Group]) -> None:
        for group in groups:
            self._bucket_of(group).remove(group)

    def buckets(self) -> list[list[_Group]]:
        return [bucket for bucket in self._buckets.values() if bucket]

    def groups(self) -> list[_Group]:
        return [group for bucket in self._buckets.values() for group in bucket]

    def __bool__(self) -> bool:
        return any(self._buckets.values())


class _Choice:
    """Of one batch. Fills in who is refused, and why others are left."""

    def __init__(
        self,
        limits: Limits,
        situation: Situation,
        rank: Mapping[str, int],
        refused: dict[str, str],
        reasons: dict[str, str],
    ) -> None:
        self._limits, self._situation, self._rank = limits, situation, rank
        self._refused, self._reasons = refused, reasons
        self._caps, self._room = _Caps(situation), _Room(situation, rank)

    def batch(self, line: _Line, *, explain: bool) -> list[_Group]:
        fitting = self.fitting(line, explain=explain)
        sized = self._within_size(fitting)
        taken = self._room.without_last(self._within_budget(sized), self._reasons)
        if explain:
            _tell(sized, self._reasons, self._too_late())
            deque(fitting, maxlen=0)
        return taken

    def fitting(self, line: _Line, *, explain: bool) -> Iterator[_Group]:
        """The groups by rank that caps and room let in. One that is held back does not hold back those elsewhere."""
        heads = [(bucket[0].rank, 0, bucket) for bucket in line.buckets()]
        heapq.heapify(heads)
        while heads:
            _, at, bucket = heapq.heappop(heads)
            group = bucket[at]
            outgrown = self._room.outgrown_by(group)
            hindered = "" if outgrown else self._caps.full_for(group) or self._room.lacks_for(group)
            if hindered:
                _tell(bucket[at:] if explain else (), self._reasons, hindered)
                continue
            if outgrown:
                _tell([bucket.pop(at)], self._refused, outgrown)
            next_at = at + (not outgrown)
            if next_at < len(bucket):
                heapq.heappush(heads, (bucket[next_at].rank, next_at, bucket))
            if not outgrown:
                self._caps.take(group)
                yield group

    def _within_size(self, groups: Iterator[_Group]) -> Iterator[_Group]:
        size = 0
        for group in groups:
            size += len(group.vms)
            if 0 < self._limits.batch_size < size and size > len(group.vms):
                return
            yield group

    def _within_budget(self, groups: Iterator[_Group]) -> list[_Group]:
        """Just in time: only those that are expected to be done within the budget, however many of them come first. All
        that come after the last reader that is free in time are late, and not looked at."""
        if not self._limits.hold_budget_s:
            return list(groups)
        readers, in_time, seen = list(self._situation.free_at), Counter[int](), list[_Group]()
        heapq.heapify(readers)
        for q, group in self._in_archiving_order(groups, seen):
            done_s = readers[0] + q.expected_s
            if readers[0] > self._limits.hold_budget_s:
                break
            heapq.heapreplace(readers, done_s)
            if group:
                in_time[group.rank] += done_s <= self._limits.hold_budget_s
        kept = [group for group in seen if in_time[group.rank] == len(group.vms)]
        kept = kept or (seen[:1] if self._situation.idle else [])
        _tell([group for group in seen if group not in kept], self._reasons, self._too_late())
        return kept

    def _in_archiving_order(
        self, groups: Iterator[_Group], seen: list[_Group]
    ) -> Iterator[tuple[Queued, _Group | None]]:
        """With those that wait already. No more groups are taken from `groups` than it gets to."""
        ahead: list[tuple[int, Queued, _Group | None]] = [(self._rank[q.id], q, None) for q in self._situation.waiting]
        heapq.heapify(ahead)
        for group in groups:
            seen.append(group)
            while ahead and ahead[0][0] < group.rank:
                yield heapq.heappop(ahead)[1:]
            for q in group.vms:
                heapq.heappush(ahead, (self._rank[q.id], q, group))
        while ahead:
            yield heapq.heappop(ahead)[1:]

    def _too_late(self) -> str:
        return f"Left for a later batch: it would be held longer than {self._limits.hold_budget_s:.0f} s."


class _Caps:
    """How many snapshots may be open on datastores and hosts."""

    def __init__(self, situation: Situation) -> None:
        self._left = _snapshots_left(situation)
        self._open = {("datastore", name) for name in situation.open_on} | {("host", n) for n in situation.open_hosts}
        self._first = situation.idle

    def full_for(self, group: _Group) -> str:
        full = [place for place, count in group.places.items() if self._left.get(place, count) < count]
        if not full or (self._first and len(group.vms) > 1 and self._open.isdisjoint(full)):
            return ""
        return f"Left for later: the {' '.join(full[0])} holds as many open snapshots as it may."

    def take(self, group: _Group) -> None:
        self._first = False
        for place, count in group.places.items():
            if place in self._left:
                self._left[place] -= count


def _snapshots_left(situation: Situation) -> dict[Place, int]:
    datastores = {("datastore", name): left for name, left in situation.snapshots_left_on_datastore.items()}
    return datastores | {("host", name): left for name, left in situation.snapshots_left_on_host.items()}


class _Room:
    """Σ write rate × expected hold on each datastore against what is free. Where one that grows finds no room all after
    it wait too, so that small ones never overtake a large one for ever."""

    def __init__(self, situation: Situation, rank: Mapping[str, int]) -> None:
        self._situation, self._rank = situation, rank
        self._free_kb = dict(situation.room_kb)
        self._readers = list(situation.free_at)
        heapq.heapify(self._readers)
        self._full: set[str] = set()
        waiting_s = self._holds_s([])
        for q in situation.waiting:
            self._use({q.datastore: q.load_kbps * waiting_s[q.id]})

    def outgrown_by(self, group: _Group) -> str:
        """Why no later batch has room for it either, if so. Room that open snapshots take comes back."""
        for datastore in group.growing_on:
            kb, room_kb = group.growth_kb[datastore], self._situation.room_kb.get(datastore)
            if room_kb is not None and kb > room_kb and datastore not in self._situation.open_on:
                told = f"{_room(datastore, room_kb)}, and this one is expected to grow by {_size(kb)}"
                return f"Not snapshotted: {told}. Free some space."
        return ""

    def lacks_for(self, group: _Group) -> str:
        """Why there is too little room for it, or "": then it has taken its room."""
        if not self._free_kb:
            return ""
        readers, growth_kb = self._readers.copy(), defaultdict[str, float](float)
        for q in group.vms:
            hold_s = readers[0] + q.expected_s
            heapq.heapreplace(readers, hold_s)
            growth_kb[q.datastore] += q.load_kbps * hold_s
        for datastore in group.growing_on & self._free_kb.keys():
            if datastore in self._full or growth_kb[datastore] > self._free_kb[datastore]:
                self._full.add(datastore)
                return self._lack(datastore)
        self._readers = readers
        self._use(growth_kb)
        return ""

    def _use(self, growth_kb: Mapping[str, float]) -> None:
        for datastore in growth_kb.keys() & self._free_kb.keys():
            self._free_kb[datastore] -= growth_kb[datastore]

    def without_last(self, groups: list[_Group], reasons: dict[str, str]) -> list[_Group]:
        """Those that wait, and vApps of both high and low priority, are archived in between: where that takes more than
        `lacks_for` foresaw, the last give way."""
        holds_s = self._holds_s(groups) if self._free_kb else {}
        for datastore, room_kb in self._situation.room_kb.items():
            growth_kb = self._growth_kb([*self._situation.waiting, *_flat(groups)], datastore, holds_s)
            kept: list[_Group] = []
            for group in reversed(groups):
                if growth_kb <= room_kb or datastore not in group.growing_on:
                    kept.append(group)
                    continue
                growth_kb -= self._growth_kb(group.vms, datastore, holds_s)
                _tell([group], reasons, self._lack(datastore))
            groups = kept[::-1]
        return groups

    def _holds_s(self, groups: Sequence[_Group]) -> dict[str, float]:
        order = sorted([*self._situation.waiting, *_flat(groups)], key=lambda q: self._rank[q.id])
        return dict(zip((q.id for q in order), completions(order, self._situation.free_at), strict=True))

    @staticmethod
    def _growth_kb(vms: Iterable[Queued], datastore: str, holds_s: Mapping[str, float]) -> float:
        return sum(q.load_kbps * holds_s[q.id] for q in vms if q.datastore == datastore)

    def _lack(self, datastore: str) -> str:
        room = _room(datastore, self._situation.room_kb[datastore])
        return f"Left for a later batch: {room}, and all would take more."


def _room(datastore: str, room_kb: float) -> str:
    return f"snapshots on {datastore} have room for {_size(max(room_kb, 0))}"


def _size(kb: float) -> str:
    return f"{kb / 1e6:.2f} GB" if kb >= 1e6 or not kb else f"{kb / 1e3:.0f} MB"


def _too_long(limits: Limits) -> str:
    return f"its archive alone is expected to take longer than {limits.hold_budget_s:.0f} s"


def _flat(groups: Iterable[_Group]) -> list[Queued]:
    return [q for group in groups for q in group.vms]


def _tell(groups: Iterable[_Group], reasons: dict[str, str], reason: str) -> None:
    reasons.update({q.id: reason for group in groups for q in group.vms})
