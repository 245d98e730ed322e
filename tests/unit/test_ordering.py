from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from backups.ordering import Candidate, exposure_bound_kb, exposure_kb, in_order

candidates = st.lists(
    st.builds(
        Candidate,
        id=st.uuids().map(str),
        name=st.text(max_size=5),
        load_kbps=st.floats(0, 1e5),
        expected_s=st.floats(0.1, 1e4),
    ),
    max_size=6,
)


def candidate(name: str, load_kbps: float, expected_s: float = 1) -> Candidate:
    return Candidate(id=name, name=name, load_kbps=load_kbps, expected_s=expected_s)


def test_the_busiest_vm_comes_first() -> None:
    fleet = [candidate("idle", 1), candidate("database", 900), candidate("web", 40)]
    assert [c.name for c in in_order("highest_load", fleet)] == ["database", "web", "idle"]


def test_equal_loads_go_by_name_so_that_the_order_is_always_the_same() -> None:
    fleet = [candidate("b", 5), candidate("a", 5)]
    assert [c.name for c in in_order("highest_load", fleet)] == ["a", "b"]


def test_least_disturbance_prefers_a_short_archive_to_a_slightly_busier_long_one() -> None:
    fleet = [candidate("big", 10, expected_s=100), candidate("small", 9, expected_s=1)]
    assert [c.name for c in in_order("least_disturbance", fleet)] == ["small", "big"]


def test_by_name_ignores_load() -> None:
    fleet = [candidate("c", 900), candidate("a", 1), candidate("b", 50)]
    assert [c.name for c in in_order("name", fleet)] == ["a", "b", "c"]


def test_exposure_counts_the_time_until_each_archive_is_complete() -> None:
    fleet = [candidate("first", 10, expected_s=2), candidate("second", 1, expected_s=3)]
    assert exposure_kb(fleet, readers=1) == 10 * 2 + 1 * 5
    assert exposure_kb(fleet, readers=2) == 10 * 2 + 1 * 3


@given(candidates)
def test_least_disturbance_is_the_best_order_there_is_for_one_reader(fleet: list[Candidate]) -> None:
    best = min(exposure_kb(order, 1) for order in permutations(fleet))
    assert exposure_kb(in_order("least_disturbance", fleet), 1) <= best * (1 + 1e-9)


@given(candidates, st.integers(1, 4))
def test_no_order_beats_the_bound(fleet: list[Candidate], readers: int) -> None:
    best = min(exposure_kb(order, readers) for order in permutations(fleet))
    assert exposure_bound_kb(fleet, readers) <= best * (1 + 1e-9) + 1e-9
