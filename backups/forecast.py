"""What a run will cost, before it runs: its course is played through with expected loads and durations, by the same
decider that takes the batches later."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backups.batches import Limits, Queue, Queued, Situation
from backups.ordering import exposure_bound_kb

NEVER = "No room came free for it."
Choice = tuple[str, int, int]
"""Policy, batch size, readers."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A datastore or a host: how many snapshots may be open on it (None: any number), and by how many KB they may grow
    all together (None: not known)."""

    snapshots: int | None = None
    room_kb: float | None = None


@dataclass(frozen=True, kw_only=True)
class Course:
    """What is expected of one VM, in seconds from the start of the run."""

    id: str
    name: str
    batch: int
    snapshot_s: float
    start_s: float
    removed_s: float
    growth_kb: float

    @property
    def hold_s(self) -> float:
        return self.removed_s - self.snapshot_s


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """`left_out`: the ids of the VMs that the limits allow no snapshot of, each with its reason. `names`: all VMs' by
    id. `short_kb`: the datastores whose snapshots are expected to outgrow their room, each with what lacks."""

    policy: str
    batch_size: int
    readers: int
    courses: list[Course]
    left_out: dict[str, str]
    names: dict[str, str]
    bound_kb: float
    peak_kb: dict[str, float]
    short_kb: dict[str, float]

    @property
    def exposure_kb(self) -> float:
        return sum(course.growth_kb for course in self.courses)

    @property
    def window_s(self) -> float:
        return max((course.removed_s for course in self.courses), default=0.0)

    @property
    def longest_hold_s(self) -> float:
        return max((course.hold_s for course in self.courses), default=0.0)

    def totals(self) -> dict[str, Any]:
        """JSON: exposures in KB, times in seconds."""
        names = ("policy", "batch_size", "readers", "exposure_kb", "bound_kb", "window_s", "longest_hold_s")
        batches = max((course.batch for course in self.courses), default=0)
        found = {name: getattr(self, name) for name in names}
        return found | {"batches": batches, "peak_kb": self.peak_kb, "short_kb": self.short_kb}


@dataclass
class _Open:
    """The snapshots that are open, counted and summed up by place as they come and go."""

    on_datastore: Counter[str] = field(default_factory=Counter)
    on_host: Counter[str] = field(default_factory=Counter)
    rate_kbps: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    offset_kb: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    removals: list[tuple[float, str, Queued, float]] = field(default_factory=list)

    def add(self, vm: Queued, at: float, sign: int = 1) -> None:
        self.on_datastore[vm.datastore] += sign
        self.on_host[vm.host] += sign
        self.rate_kbps[vm.datastore] += sign * vm.load_kbps
        self.offset_kb[vm.datastore] += sign * vm.load_kbps * at
        if not self.on_datastore[vm.datastore]:
            self.rate_kbps[vm.datastore] = self.offset_kb[vm.datastore] = 0.0

    def removed_until(self, now: float) -> None:
        while self.removals and self.removals[0][0] <= now:
            _, _, vm, taken_at = heapq.heappop(self.removals)
            self.add(vm, taken_at, -1)

    def grown_kb(self, datastore: str, now: float) -> float:
        return max(now * self.rate_kbps[datastore] - self.offset_kb[datastore], 0.0)


@dataclass
class _Clock:
    """A run being played through."""

    free_at: list[float]
    datastores: Mapping[str, Place]
    hosts: Mapping[str, Place]
    snapshot_s: float
    places: dict[str, Queued]
    open: _Open = field(default_factory=_Open)
    waiting: list[Queued] = field(default_factory=list)
    snapshot_at: dict[str, float] = field(default_factory=dict)
    batch_of: dict[str, int] = field(default_factory=dict)
    courses: dict[str, Course] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    batches: int = 0


def forecast(
    vms: Sequence[Queued],
    limits: Limits,
    readers: int,
    *,
    datastores: Mapping[str, Place] | None = None,
    hosts: Mapping[str, Place] | None = None,
    snapshot_s: float = 0.0,
) -> Forecast:
    """`snapshot_s`: what taking a batch's snapshots takes, during which those snapshots grow already."""
    clock = _Clock(
        free_at=[0.0] * readers,
        datastores=datastores or {},
        hosts=hosts or {},
        snapshot_s=snapshot_s,
        places={vm.id: vm for vm in vms},
    )
    _play(clock, Queue(vms, limits, _situation(clock, 0.0)))
    peaks = _peaks_kb(clock)
    room = {name: place.room_kb for name, place in clock.datastores.items() if place.room_kb is not None}
    done = [vm for vm in vms if vm.id in clock.courses]
    return Forecast(
        policy=limits.policy,
        batch_size=limits.batch_size,
        readers=readers,
        courses=[clock.courses[vm.id] for vm in done],
        left_out=clock.left_out,
        names={vm.id: vm.name for vm in vms},
        bound_kb=exposure_bound_kb(done, readers) + snapshot_s * sum(vm.load_kbps for vm in done),
        peak_kb=peaks,
        short_kb={name: kb - room[name] for name, kb in peaks.items() if name in room and kb > room[name]},
    )


def compare(vms: Sequence[Queued], limits: Limits, choices: Iterable[Choice], **places: Any) -> list[Forecast]:
    """The least exposure first."""
    found = [
        forecast(vms, replace(limits, policy=policy, batch_size=size), readers, **places)
        for policy, size, readers in choices
    ]
    return sorted(found, key=lambda f: f.exposure_kb)


def _play(clock: _Clock, queue: Queue) -> None:
    while queue.left or clock.waiting:
        now = clock.free_at[0]
        may_take = queue.left and len(clock.waiting) < len(clock.free_at)
        changed = may_take and _take_batch(clock, queue, now)
        if clock.waiting:
            _archive_next(clock)
        elif not changed and not _wait_for_a_reader(clock, now):
            clock.left_out |= dict.fromkeys(queue.left, NEVER)
            return


def _take_batch(clock: _Clock, queue: Queue, now: float) -> bool:
    batch = queue.take(_situation(clock, now))
    clock.left_out |= batch.refused
    clock.batches += bool(batch.taken)
    for id_ in batch.taken:
        vm = clock.places[id_]
        clock.snapshot_at[id_], clock.batch_of[id_] = now, clock.batches
        clock.waiting.append(vm)
        clock.open.add(vm, now)
    if batch.taken:
        clock.waiting.sort(key=lambda vm: queue.rank[vm.id], reverse=True)
    return bool(batch.taken or batch.refused)


def _archive_next(clock: _Clock) -> None:
    vm = clock.waiting.pop()
    taken_at = clock.snapshot_at[vm.id]
    start = max(heapq.heappop(clock.free_at), taken_at + clock.snapshot_s)
    removed = start + vm.expected_s
    heapq.heappush(clock.free_at, removed)
    heapq.heappush(clock.open.removals, (removed, vm.id, vm, taken_at))
    clock.courses[vm.id] = Course(
        id=vm.id,
        name=vm.name,
        batch=clock.batch_of[vm.id],
        snapshot_s=taken_at,
        start_s=start,
        removed_s=removed,
        growth_kb=vm.load_kbps * (removed - taken_at),
    )


def _wait_for_a_reader(clock: _Clock, now: float) -> bool:
    """Lets time pass until the next reader is done; False if all are idle and nothing can change any more."""
    later = [at for at in clock.free_at if at > now]
    if later:
        clock.free_at = [max(at, min(later)) for at in clock.free_at]
        heapq.heapify(clock.free_at)
    return bool(later)


def _situation(clock: _Clock, now: float) -> Situation:
    clock.open.removed_until(now)
    on_datastore, on_host = clock.open.on_datastore, clock.open.on_host
    return Situation(
        free_at=[max(at - now, 0.0) for at in clock.free_at],
        waiting=clock.waiting,
        snapshots_left_on_datastore=_left(clock.datastores, on_datastore),
        snapshots_left_on_host=_left(clock.hosts, on_host),
        room_kb={
            name: place.room_kb - clock.open.grown_kb(name, now)
            for name, place in clock.datastores.items()
            if place.room_kb is not None
        },
        open_on={name for name, count in on_datastore.items() if count},
        open_hosts={name for name, count in on_host.items() if count},
    )


def _left(places: Mapping[str, Place], open_on: Mapping[str, int]) -> dict[str, int]:
    return {
        name: place.snapshots - open_on.get(name, 0) for name, place in places.items() if place.snapshots is not None
    }


def _peaks_kb(clock: _Clock) -> dict[str, float]:
    """The most that each datastore's snapshots hold at one time: just before one of them is removed."""
    events = [(c.snapshot_s, 1, c.id) for c in clock.courses.values()]
    events += [(c.removed_s, -1, c.id) for c in clock.courses.values()]
    rate: defaultdict[str, float] = defaultdict(float)
    offset: defaultdict[str, float] = defaultdict(float)
    peaks: dict[str, float] = {}
    for at, sign, id_ in sorted(events):
        vm = clock.places[id_]
        name = vm.datastore
        peaks[name] = max(peaks.get(name, 0.0), at * rate[name] - offset[name])
        rate[name] += sign * vm.load_kbps
        offset[name] += sign * vm.load_kbps * clock.snapshot_at[id_]
    return peaks
