from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from backups.batches import Batch, Limits, Queued, Situation, next_batch
from backups.ordering import POLICIES, completions


def queued(id_: str, load_kbps: float, vapp: str = "", expected_s: float = 1.0, **options: Any) -> Queued:
    return Queued(id=id_, name=id_, vapp=vapp, load_kbps=load_kbps, expected_s=expected_s, **options)


fleets = st.lists(
    st.builds(
        Queued,
        id=st.uuids().map(str),
        name=st.text(max_size=3),
        load_kbps=st.floats(0, 1e5),
        expected_s=st.floats(0.1, 1e4),
        vapp=st.sampled_from(["", "a", "b"]),
        host=st.sampled_from(["h1", "h2"]),
        datastore=st.sampled_from(["d1", "d2"]),
        alone=st.booleans(),
        raised=st.integers(0, 2),
    ),
    max_size=12,
    unique_by=lambda q: q.id,
)
limits = st.builds(
    Limits,
    policy=st.sampled_from(["highest_load", "least_disturbance", "name"]),
    batch_size=st.integers(0, 5),
    vapps_whole=st.booleans(),
    hold_budget_s=st.sampled_from([0.0, 10.0, 5000.0]),
    skip_over_budget=st.booleans(),
)
situations = st.builds(
    Situation,
    free_at=st.lists(st.floats(0, 100), min_size=1, max_size=3),
    snapshots_left_on_datastore=st.dictionaries(st.sampled_from(["d1", "d2"]), st.integers(0, 3)),
    snapshots_left_on_host=st.dictionaries(st.sampled_from(["h1", "h2"]), st.integers(0, 3)),
    room_kb=st.dictionaries(st.sampled_from(["d1", "d2"]), st.floats(-1e5, 1e7)),
    open_on=st.frozensets(st.sampled_from(["d1", "d2"])),
    open_hosts=st.frozensets(st.sampled_from(["h1", "h2"])),
)


def test_batch_size_zero_snapshots_everything_together() -> None:
    batch = next_batch([queued("a", 1), queued("b", 2)], Limits())
    assert sorted(batch.taken) == ["a", "b"]
    assert batch.left == {}


def test_the_busiest_are_taken_first_and_the_rest_is_told_why_it_waits() -> None:
    batch = next_batch([queued("idle", 1), queued("busy", 9), queued("mid", 5)], Limits(batch_size=2))
    assert batch.taken == ["busy", "mid"]
    assert "2 at a time" in batch.left["idle"]


def test_batches_follow_the_plans_order() -> None:
    fleet = [queued("a", 1), queued("b", 9), queued("c", 5)]
    assert next_batch(fleet, Limits(policy="name", batch_size=1)).taken == ["a"]


def test_a_vapp_is_never_split_over_two_batches() -> None:
    fleet = [queued("web", 9, "shop"), queued("db", 1, "shop"), queued("other", 5)]
    batch = next_batch(fleet, Limits(batch_size=1))
    assert sorted(batch.taken) == ["db", "web"]
    assert list(batch.left) == ["other"]


def test_a_vapp_is_split_where_the_plan_does_not_mind() -> None:
    fleet = [queued("web", 9, "shop"), queued("db", 1, "shop")]
    assert next_batch(fleet, Limits(batch_size=1, vapps_whole=False)).taken == ["web"]


def test_a_full_datastore_holds_back_its_own_vms_only() -> None:
    fleet = [queued("a", 9, datastore="full"), queued("b", 5, datastore="other")]
    batch = next_batch(fleet, Limits(), Situation(snapshots_left_on_datastore={"full": 0, "other": 1}))
    assert batch.taken == ["b"]
    assert "datastore full" in batch.left["a"]


def test_a_host_takes_no_more_snapshots_than_its_cap() -> None:
    fleet = [queued(name, load, host="h1") for name, load in (("a", 3), ("b", 2), ("c", 1))]
    batch = next_batch(fleet, Limits(), Situation(snapshots_left_on_host={"h1": 2}))
    assert batch.taken == ["a", "b"]
    assert "host h1" in batch.left["c"]


def test_a_batch_is_no_larger_than_what_is_done_within_the_hold_budget() -> None:
    fleet = [queued(str(n), 10 - n, expected_s=10) for n in range(6)]
    batch = next_batch(fleet, Limits(hold_budget_s=30), Situation(free_at=[0.0]))
    assert batch.taken == ["0", "1", "2"]
    assert "longer than 30 s" in batch.left["3"]


def test_busy_readers_count_against_the_budget() -> None:
    fleet = [queued("next", 1, expected_s=10)]
    assert next_batch(fleet, Limits(hold_budget_s=30), Situation(free_at=[25.0])).taken == []


def test_a_vm_that_cannot_keep_the_budget_even_alone_is_skipped_if_the_plan_says_so() -> None:
    batch = next_batch([queued("huge", 1, expected_s=90)], Limits(hold_budget_s=30, skip_over_budget=True))
    assert batch.taken == []
    assert "longer than 30 s" in batch.refused["huge"]


def test_a_vm_that_cannot_keep_the_budget_is_taken_alone_once_the_others_are_done() -> None:
    huge, small = queued("huge", 9, expected_s=90), queued("small", 1, expected_s=5)
    first = next_batch([huge, small], Limits(hold_budget_s=30))
    assert first.taken == ["small"]
    assert "Left to the end" in first.left["huge"]
    assert next_batch([huge], Limits(hold_budget_s=30), Situation(free_at=[3.0])).taken == []
    assert next_batch([huge], Limits(hold_budget_s=30)).taken == ["huge"]


def test_snapshots_never_take_more_room_than_the_datastore_has() -> None:
    fleet = [queued("a", 100, expected_s=10, datastore="d"), queued("b", 100, expected_s=10, datastore="d")]
    situation = Situation(room_kb={"d": 1500})
    batch = next_batch(fleet, Limits(), situation)
    assert batch.taken == ["a"]
    assert "have room for" in batch.left["b"]


def test_a_vm_that_would_fill_the_datastore_by_itself_is_refused_with_what_to_do() -> None:
    fleet = [queued("a", 100, expected_s=100, datastore="d"), queued("b", 1, expected_s=1, datastore="other")]
    batch = next_batch(fleet, Limits(), Situation(room_kb={"d": 1500}))
    assert batch.taken == ["b"]
    assert "Free some space" in batch.refused["a"]


def test_a_vm_waits_while_other_snapshots_take_the_room_that_will_come_back() -> None:
    fleet = [queued("a", 100, expected_s=100, datastore="d")]
    batch = next_batch(fleet, Limits(), Situation(room_kb={"d": 1500}, open_on={"d"}))
    assert batch.refused == {}
    assert list(batch.left) == ["a"]


def test_a_vapp_larger_than_the_cap_is_taken_where_no_snapshot_is_open() -> None:
    vapp = [queued(name, 1, "shop", datastore="d") for name in "abc"]
    assert len(next_batch(vapp, Limits(), Situation(snapshots_left_on_datastore={"d": 2})).taken) == 3


def test_a_vapp_waits_for_a_place_that_other_runs_have_filled() -> None:
    vapp = [queued(name, 1, "shop", datastore="d", host="h") for name in "ab"]
    filled = Situation(snapshots_left_on_datastore={"d": 1}, open_on={"d"})
    assert next_batch(vapp, Limits(), filled).taken == []
    assert "datastore d" in next_batch(vapp, Limits(), filled).left["a"]
    filled = Situation(snapshots_left_on_host={"h": 0}, open_hosts={"h"})
    assert next_batch(vapp, Limits(), filled).taken == []


def test_a_vm_that_grows_by_nothing_needs_no_room() -> None:
    fleet = [queued("still", 0, datastore="d"), queued("tiny", 1, expected_s=10, datastore="d")]
    batch = next_batch([*fleet, queued("busy", 1e4, datastore="d")], Limits(), Situation(room_kb={"d": -5e6}))
    assert sorted(batch.taken) == ["still", "tiny"]
    assert "expected to grow by 10 MB" in batch.refused["busy"]


def test_what_is_taken_though_it_cannot_keep_the_budget_is_marked_so_that_it_is_let_finish() -> None:
    small, huge = queued("small", 1, expected_s=5), [queued(name, 9, "shop", expected_s=90) for name in ("db", "web")]
    budget = Limits(hold_budget_s=30)
    assert next_batch([small, *huge], budget).alone == frozenset()
    assert next_batch(huge, budget).alone == {"db", "web"}
    assert next_batch([queued("again", 1, alone=True)], budget).alone == {"again"}


def test_a_vm_that_cannot_keep_the_budget_does_not_hold_up_small_batches() -> None:
    huge, small = queued("huge", 9, expected_s=90), queued("small", 1, expected_s=5)
    assert next_batch([huge, small], Limits(hold_budget_s=30, batch_size=1)).taken == ["small"]


def test_what_was_raised_by_hand_comes_first_with_its_vapp() -> None:
    fleet = [
        queued("busy", 9),
        queued("once", 1, raised=1),
        queued("twice", 1, "shop", raised=2),
        queued("db", 0, "shop"),
    ]
    assert next_batch(fleet, Limits(batch_size=2)).taken == ["twice", "db"]
    assert next_batch(fleet, Limits(batch_size=3)).taken == ["twice", "db", "once"]


def test_what_was_raised_is_expected_to_be_archived_before_those_that_wait() -> None:
    waiting = [queued("waits", 9, expected_s=20)]
    for raised, taken in ((0, []), (1, ["next"])):
        fleet = [queued("next", 1, expected_s=20, raised=raised)]
        assert next_batch(fleet, Limits(hold_budget_s=30), Situation(waiting=waiting)).taken == taken


def test_repeating_until_nothing_is_left_takes_each_vm_once() -> None:
    fleet = [queued(str(n), n % 7, vapp=str(n % 3)) for n in range(20)]
    taken: list[str] = []
    while rest := [q for q in fleet if q.id not in taken]:
        taken += next_batch(rest, Limits(batch_size=4)).taken
    assert sorted(taken) == sorted(q.id for q in fleet)


@given(fleets, limits, situations)
def test_every_vm_is_taken_or_has_its_reason(fleet: list[Queued], limits: Limits, situation: Situation) -> None:
    batch = next_batch(fleet, limits, situation)
    told = [*batch.taken, *batch.left, *batch.refused]
    assert sorted(told) == sorted(q.id for q in fleet)
    assert all([*batch.left.values(), *batch.refused.values()])


@given(fleets, limits)
def test_an_idle_run_always_goes_on(fleet: list[Queued], limits: Limits) -> None:
    rest, rounds = list(fleet), 0
    while rest:
        batch = next_batch(rest, limits)
        gone = {*batch.taken, *batch.refused}
        assert gone
        rest, rounds = [q for q in rest if q.id not in gone], rounds + 1
    assert rounds <= len(fleet)


@given(fleets, limits, situations)
def test_caps_hold_for_vms_outside_vapps(fleet: list[Queued], limits: Limits, situation: Situation) -> None:
    single = [Queued(id=q.id, name=q.name, load_kbps=q.load_kbps, datastore=q.datastore) for q in fleet]
    taken = set(next_batch(single, limits, situation).taken)
    for name, left in situation.snapshots_left_on_datastore.items():
        assert sum(q.datastore == name and q.id in taken for q in single) <= left


exact_fleets = fleets.map(
    lambda fleet: [
        replace(q, load_kbps=float(int(q.load_kbps)), expected_s=float(int(q.expected_s) + 1)) for q in fleet
    ]
)
exact_situations = situations.map(
    lambda s: replace(
        s, free_at=[float(int(at)) for at in s.free_at], room_kb={n: float(int(kb)) for n, kb in s.room_kb.items()}
    )
)


@settings(max_examples=500)
@given(exact_fleets, limits, exact_situations, exact_fleets)
def test_the_shortcuts_change_no_decision(
    fleet: list[Queued], limits: Limits, situation: Situation, waiting: list[Queued]
) -> None:
    situation = replace(situation, waiting=[replace(q, id=f"w{q.id}") for q in waiting[:3]])
    batch, slow = next_batch(fleet, limits, situation), slow_batch(fleet, limits, situation)
    assert (batch.taken, set(batch.refused), batch.alone) == (slow.taken, set(slow.refused), slow.alone)


def slow_batch(queued: Sequence[Queued], limits: Limits, situation: Situation) -> Batch:
    """The rules said plainly: each group is looked at, and all are simulated."""
    return Plainly(queued, limits, situation).batch()


class Plainly:
    def __init__(self, queued: Sequence[Queued], limits: Limits, situation: Situation) -> None:
        self.limits, self.situation = limits, situation
        self.refused: dict[str, str] = {}
        every = [*queued, *situation.waiting]
        value = {id_: priority.value for id_, priority in POLICIES[limits.policy](every).items()}
        self.order = sorted(every, key=lambda q: (-q.raised, -value[q.id], q.name, q.id))
        self.groups: dict[str, list[Queued]] = {}
        for q in (q for q in self.order if q in queued):
            together = q.vapp and limits.vapps_whole and not q.alone
            self.groups.setdefault(f"vapp {q.vapp}" if together else f"vm {q.id}", []).append(q)

    def batch(self) -> Batch:
        hopeless = [group for group in self.groups.values() if self.cannot_keep_the_budget(group)]
        rest = [group for group in self.groups.values() if group not in hopeless]
        if self.limits.skip_over_budget:
            self.refuse(hopeless)
            hopeless = []
        in_time = [group for group in rest if not group[0].alone]
        taken = self.within_room(self.within_budget(self.within_size(self.let_in(in_time))))
        alone: list[Queued] = []
        if not taken and self.situation.idle:
            last = [group for group in hopeless if not group[0].alone]
            if not last and all(q.id in self.refused for group in in_time for q in group):
                last = [group for group in self.groups.values() if group[0].alone and group[0].id not in self.refused]
            alone = [q for group in self.let_in(last, 1) for q in group]
        ids = [q.id for group in taken for q in group] or [q.id for q in alone]
        return Batch(ids, {}, self.refused, frozenset(q.id for q in alone))

    def cannot_keep_the_budget(self, group: list[Queued]) -> bool:
        return 0 < self.limits.hold_budget_s < max(self.alone_s(group).values())

    def alone_s(self, group: list[Queued]) -> dict[str, float]:
        return self.holds_s(group, [0.0] * len(self.situation.free_at))

    def holds_s(self, vms: Iterable[Queued], free_at: Sequence[float]) -> dict[str, float]:
        order = [q for q in self.order if q in vms]
        return dict(zip([q.id for q in order], completions(order, free_at), strict=True))

    def let_in(self, groups: Iterable[list[Queued]], most: int = 100) -> list[list[Queued]]:
        let_in: list[list[Queued]] = []
        full: set[str] = set()
        for group in groups:
            if len(let_in) == most:
                break
            if self.outgrows_alone(group):
                self.refuse([group])
            elif self.caps_allow(let_in, group):
                full |= self.lacking(let_in, group)
                if full.isdisjoint(self.growing_on(group)):
                    let_in.append(group)
        return let_in

    def caps_allow(self, let_in: list[list[Queued]], group: list[Queued]) -> bool:
        first = self.situation.idle and not let_in and len(group) > 1
        return self.cap_allows("datastore", let_in, group, first) and self.cap_allows("host", let_in, group, first)

    def cap_allows(self, kind: str, let_in: list[list[Queued]], group: list[Queued], first: bool) -> bool:
        datastores = kind == "datastore"
        left = self.situation.snapshots_left_on_datastore if datastores else self.situation.snapshots_left_on_host
        open_on = self.situation.open_on if datastores else self.situation.open_hosts
        before = Counter(getattr(q, kind) for each in let_in for q in each)
        wanted = Counter(getattr(q, kind) for q in group)
        full = {place for place in wanted if place in left and before[place] + wanted[place] > left[place]}
        return not full or (first and full.isdisjoint(open_on))

    def growing_on(self, group: list[Queued]) -> set[str]:
        own = self.growth_kb(group, self.alone_s(group))
        return {name for name in self.situation.room_kb if own[name] >= 1000}

    def outgrows_alone(self, group: list[Queued]) -> bool:
        own = self.growth_kb(group, self.alone_s(group))
        growing_on = self.growing_on(group) - set(self.situation.open_on)
        return any(own[name] > self.situation.room_kb[name] for name in growing_on)

    def lacking(self, let_in: list[list[Queued]], group: list[Queued]) -> set[str]:
        """Archived in the order in which they are let in, with the readers for themselves."""
        vms, waiting = [q for each in [*let_in, group] for q in each], self.situation.waiting
        holds_s = dict(zip([q.id for q in vms], completions(vms, self.situation.free_at), strict=True))
        growth = self.growth_kb(vms, holds_s) + self.growth_kb(waiting, self.holds_s(waiting, self.situation.free_at))
        return {name for name in self.growing_on(group) if growth[name] > self.situation.room_kb[name]}

    def growth_kb(self, vms: Iterable[Queued], holds_s: dict[str, float]) -> Counter[str]:
        growth: Counter[str] = Counter()
        for q in vms:
            growth[q.datastore] += q.load_kbps * holds_s[q.id]  # type: ignore[assignment]
        return growth

    def within_size(self, groups: list[list[Queued]]) -> list[list[Queued]]:
        sizes = accumulate(len(group) for group in groups)
        fit = [n == 0 or not self.limits.batch_size or size <= self.limits.batch_size for n, size in enumerate(sizes)]
        return groups[: fit.index(False)] if False in fit else groups

    def within_budget(self, groups: list[list[Queued]]) -> list[list[Queued]]:
        if not self.limits.hold_budget_s:
            return groups
        every = [q for group in groups for q in group]
        holds_s = self.holds_s([*self.situation.waiting, *every], self.situation.free_at)
        kept = [group for group in groups if all(holds_s[q.id] <= self.limits.hold_budget_s for q in group)]
        return kept or (groups[:1] if self.situation.idle else [])

    def within_room(self, groups: list[list[Queued]]) -> list[list[Queued]]:
        every = [*self.situation.waiting, *(q for group in groups for q in group)]
        holds_s = self.holds_s(every, self.situation.free_at)
        for name, room_kb in self.situation.room_kb.items():
            for group in reversed(groups):
                rest = [*self.situation.waiting, *(q for each in groups for q in each)]
                if self.growth_kb(rest, holds_s)[name] > room_kb and name in self.growing_on(group):
                    groups = [each for each in groups if each is not group]
        return groups

    def refuse(self, groups: Iterable[list[Queued]]) -> None:
        self.refused |= {q.id: "refused" for group in groups for q in group}
