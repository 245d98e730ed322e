"""What a run will cost, before it runs: its course is played through with expected loads and durations, by the same
decider that takes the batches later."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backups.batches import Limits, Queued, Situation, next_batch
from backups.ordering import POLICIES, exposure_bound_kb

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
class _Clock:
    """A run being played through."""

    limits: Limits
    free_at: list[float]
    datastores: Mapping[str, Place]
    hosts: Mapping[str, Place]
    snapshot_s: float
    queued: list[Queued]
    values: dict[str, float]
    waiting: list[Queued] = field(default_factory=list)
    snapshot_at: dict[str, float] = field(default_factory=dict)
    batch_of: dict[str, int] = field(default_factory=dict)
    courses: dict[str, Course] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    places: dict[str, Queued] = field(default_factory=dict)
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
        limits=limits,
        free_at=[0.0] * readers,
        datastores=datastores or {},
        hosts=hosts or {},
        snapshot_s=snapshot_s,
        queued=list(vms),
        values={id_: priority.value for id_, priority in POLICIES[limits.policy](vms).items()},
        places={vm.id: vm for vm in vms},
    )
    _play(clock)
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


def _play(clock: _Clock) -> None:
    while clock.queued or clock.waiting:
        now = clock.free_at[0]
        may_take = clock.queued and len(clock.waiting) < len(clock.free_at)
        changed = may_take and _take_batch(clock, now)
        if clock.waiting:
            _archive_next(clock)
        elif not changed and not _wait_for_a_reader(clock, now):
            clock.left_out |= {vm.id: clock.left_out.get(vm.id, NEVER) for vm in clock.queued}
            return


def _take_batch(clock: _Clock, now: float) -> bool:
    """Whether any were taken or refused."""
    batch = next_batch(clock.queued, clock.limits, _situation(clock, now))
    clock.left_out |= batch.refused
    taken = set(batch.taken)
    clock.batches += bool(taken)
    for vm in clock.queued:
        if vm.id in taken:
            clock.snapshot_at[vm.id], clock.batch_of[vm.id] = now, clock.batches
            clock.waiting.append(vm)
    clock.waiting.sort(key=lambda vm: (-vm.raised, -clock.values[vm.id], vm.name, vm.id))
    clock.queued = [vm for vm in clock.queued if vm.id not in taken and vm.id not in batch.refused]
    return bool(taken or batch.refused)


def _archive_next(clock: _Clock) -> None:
    vm = clock.waiting.pop(0)
    taken_at = clock.snapshot_at[vm.id]
    start = max(heapq.heappop(clock.free_at), taken_at + clock.snapshot_s)
    removed = start + vm.expected_s
    heapq.heappush(clock.free_at, removed)
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
    open_vms = [clock.places[id_] for id_ in _open_at(clock, now)]
    grown = _grown_kb(clock, open_vms, now)
    return Situation(
        free_at=[max(at - now, 0.0) for at in clock.free_at],
        waiting=clock.waiting,
        snapshots_left_on_datastore=_left(clock.datastores, open_vms, lambda vm: vm.datastore),
        snapshots_left_on_host=_left(clock.hosts, open_vms, lambda vm: vm.host),
        room_kb={
            name: place.room_kb - grown.get(name, 0.0)
            for name, place in clock.datastores.items()
            if place.room_kb is not None
        },
        open_on={vm.datastore for vm in open_vms},
        open_hosts={vm.host for vm in open_vms},
    )


def _open_at(clock: _Clock, now: float) -> list[str]:
    if not (clock.datastores or clock.hosts):
        return []
    return [id_ for id_ in clock.snapshot_at if id_ not in clock.courses or clock.courses[id_].removed_s > now]


def _grown_kb(clock: _Clock, open_vms: Sequence[Queued], now: float) -> dict[str, float]:
    grown: defaultdict[str, float] = defaultdict(float)
    for vm in open_vms:
        grown[vm.datastore] += vm.load_kbps * (now - clock.snapshot_at[vm.id])
    return grown


def _left(places: Mapping[str, Place], open_vms: Sequence[Queued], place_of: Callable[[Queued], str]) -> dict[str, int]:
    taken = Counter(place_of(vm) for vm in open_vms)
    return {name: place.snapshots - taken[name] for name, place in places.items() if place.snapshots is not None}


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
