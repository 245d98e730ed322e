import pytest
from hypothesis import given
from hypothesis import strategies as st

from backups.batches import Limits, Queued
from backups.forecast import Place, compare, forecast
from backups.ordering import POLICIES, exposure_kb, in_order
from tests.unit.test_batches import fleets, limits, queued


def test_all_together_costs_what_the_order_costs() -> None:
    fleet = [queued("busy", 100, expected_s=10), queued("idle", 1, expected_s=20)]
    told = forecast(fleet, Limits(), 1)
    assert told.exposure_kb == 100 * 10 + 1 * 30
    assert (told.window_s, told.longest_hold_s) == (30, 30)


def test_one_vm_at_a_time_holds_each_for_its_own_archive_only() -> None:
    fleet = [queued("busy", 100, expected_s=10), queued("idle", 1, expected_s=20)]
    told = forecast(fleet, Limits(batch_size=1), 1)
    assert [course.hold_s for course in told.courses] == [10, 20]
    assert told.totals()["batches"] == 2
    assert told.window_s == 30


def test_taking_the_snapshots_is_part_of_the_hold() -> None:
    assert forecast([queued("a", 5, expected_s=10)], Limits(), 1, snapshot_s=3).exposure_kb == 5 * 13


def test_a_hold_budget_is_kept_by_batches_just_in_time() -> None:
    fleet = [queued(str(n), 10, expected_s=10) for n in range(9)]
    told = forecast(fleet, Limits(hold_budget_s=30), 2)
    assert len(told.courses) == 9
    assert told.longest_hold_s <= 30
    assert told.window_s == pytest.approx(50)


def test_a_datastore_that_would_run_full_is_named_with_what_lacks() -> None:
    fleet = [queued("a", 100, expected_s=10, datastore="d"), queued("b", 100, expected_s=10, datastore="d")]
    told = forecast(fleet, Limits(), 1)
    assert told.peak_kb == {"d": 2000.0}
    told = forecast(fleet, Limits(), 1, datastores={"d": Place(room_kb=1200)})
    assert told.short_kb == {}
    assert told.totals()["batches"] == 2, "the second waits for the room of the first"


def test_a_cap_on_open_snapshots_is_kept_and_everything_is_archived() -> None:
    fleet = [queued(str(n), n, expected_s=10, datastore="d") for n in range(5)]
    told = forecast(fleet, Limits(), 4, datastores={"d": Place(snapshots=2)})
    assert len(told.courses) == 5
    marks = sorted([(c.snapshot_s, 1) for c in told.courses] + [(c.removed_s, -1) for c in told.courses])
    open_now = most = 0
    for _, step in marks:
        open_now += step
        most = max(most, open_now)
    assert most == 2


def test_a_vm_that_no_room_comes_free_for_is_left_out_with_the_reason() -> None:
    fleet = [queued("huge", 1000, expected_s=100, datastore="d"), queued("small", 1, expected_s=1, datastore="d")]
    told = forecast(fleet, Limits(), 1, datastores={"d": Place(room_kb=1200)})
    assert [course.name for course in told.courses] == ["small"]
    assert "Free some space" in told.left_out["huge"]


def test_every_policy_batch_size_and_number_of_readers_is_compared_the_best_first() -> None:
    fleet = [queued(str(n), n, expected_s=n + 1) for n in range(6)]
    choices = [(policy, size, readers) for policy in POLICIES for size in (0, 2) for readers in (1, 2)]
    told = compare(fleet, Limits(), choices)
    assert [(f.policy, f.batch_size, f.readers) for f in told] != choices
    assert told[0].exposure_kb == min(f.exposure_kb for f in told)


@given(fleets, st.sampled_from(["highest_load", "least_disturbance", "name"]), st.integers(1, 4))
def test_without_limits_a_forecast_is_the_order_played_through(fleet: list[Queued], policy: str, readers: int) -> None:
    fleet = [Queued(id=q.id, name=q.name, load_kbps=q.load_kbps, expected_s=q.expected_s) for q in fleet]
    told = forecast(fleet, Limits(policy=policy), readers)
    assert told.exposure_kb == pytest.approx(exposure_kb(in_order(policy, fleet), readers))
    assert told.bound_kb <= told.exposure_kb * 1.0000001 + 1e-300


@given(fleets, limits, st.integers(1, 3), st.integers(0, 3), st.floats(0, 1e7))
def test_every_vm_has_a_course_or_a_reason(
    fleet: list[Queued], limits: Limits, readers: int, snapshots: int, room_kb: float
) -> None:
    places = {"d1": Place(snapshots=snapshots, room_kb=room_kb)}
    told = forecast(fleet, limits, readers, datastores=places)
    assert sorted([c.id for c in told.courses] + list(told.left_out)) == sorted(q.id for q in fleet)
    assert all(told.left_out.values())
    assert all(c.hold_s >= 0 for c in told.courses)


def test_what_was_raised_by_hand_is_archived_first() -> None:
    fleet = [queued("busy", 100, expected_s=10), queued("raised", 1, expected_s=20, raised=1)]
    assert {c.name: c.start_s for c in forecast(fleet, Limits(), 1).courses} == {"raised": 0, "busy": 20}


def test_one_that_is_refused_does_not_end_the_forecast() -> None:
    fleet = [queued("a", 9, expected_s=90), *(queued(name, 1, expected_s=5) for name in "bc")]
    told = forecast(fleet, Limits(batch_size=1, hold_budget_s=30, skip_over_budget=True), 1)
    assert [course.name for course in told.courses] == ["b", "c"]
    assert list(told.left_out) == ["a"]


def test_a_vapp_larger_than_a_hosts_cap_waits_until_nothing_is_open_there() -> None:
    vapp = [queued(name, 1, "shop", expected_s=5, host="h") for name in "ab"]
    told = forecast([queued("busy", 9, expected_s=10, host="h"), *vapp], Limits(), 2, hosts={"h": Place(snapshots=1)})
    assert {c.name: c.snapshot_s for c in told.courses} == {"busy": 0, "a": 10, "b": 10}
