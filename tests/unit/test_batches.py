from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from backups.batches import Limits, Queued, Situation, next_batch


def queued(id_: str, load_kbps: float, vapp: str = "", expected_s: float = 1.0, **more: Any) -> Queued:
    return Queued(id=id_, name=id_, vapp=vapp, load_kbps=load_kbps, expected_s=expected_s, **more)


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
    room_kb=st.dictionaries(st.sampled_from(["d1", "d2"]), st.floats(0, 1e7)),
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
    last = next_batch([huge], Limits(hold_budget_s=30))
    assert (last.taken, last.alone) == (["huge"], {"huge"}), "it is let finish"


def test_snapshots_never_take_more_room_than_the_datastore_has() -> None:
    fleet = [queued("a", 1000, expected_s=10, datastore="d"), queued("b", 500, expected_s=10, datastore="d")]
    situation = Situation(room_kb={"d": 15000})
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


def test_an_idle_vm_is_backed_up_on_a_datastore_without_any_room() -> None:
    fleet = [queued("idle", 0, datastore="d"), queued("busy", 5000, datastore="d")]
    batch = next_batch(fleet, Limits(), Situation(room_kb={"d": -1e6}))
    assert batch.taken == ["idle"]
    assert list(batch.refused) == ["busy"]


def test_a_vapp_larger_than_the_cap_is_taken_where_no_snapshot_is_open_and_nowhere_else() -> None:
    vapp = [queued("web", 9, "shop", datastore="d"), queued("db", 1, "shop", datastore="d")]
    small = Situation(snapshots_left_on_datastore={"d": 1})
    assert sorted(next_batch(vapp, Limits(), small).taken) == ["db", "web"]
    filled = Situation(snapshots_left_on_datastore={"d": 0}, open_on={"d"})
    assert next_batch(vapp, Limits(), filled).taken == []


def test_a_vm_raised_by_hand_is_in_the_next_batch() -> None:
    fleet = [queued("busy", 9), queued("idle", 1, raised=1)]
    assert next_batch(fleet, Limits(batch_size=1)).taken == ["idle"]


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
