from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from backups.ordering import POLICIES, Candidate, exposure_bound_kb, exposure_kb, in_order

durations = st.floats(0.1, 1e4)
loads = st.floats(0, 1e5)


def fleets(max_size: int, load: st.SearchStrategy[float | None] | None = None) -> st.SearchStrategy[list[Candidate]]:
    made = st.builds(
        Candidate,
        id=st.uuids().map(str),
        name=st.text(max_size=5),
        load_kbps=loads,
        expected_s=durations,
        load=st.none() if load is None else load,
    )
    return st.lists(made, max_size=max_size, unique_by=lambda c: c.id)


def least_of_all_orders_kb(fleet: list[Candidate], readers: int) -> float:
    return min(exposure_kb(order, readers) for order in permutations(fleet))


@given(fleets(6))
def test_least_disturbance_is_the_best_order_there_is_for_one_reader(fleet: list[Candidate]) -> None:
    assert exposure_kb(in_order("least_disturbance", fleet), 1) <= least_of_all_orders_kb(fleet, 1) * (1 + 1e-9)


@given(fleets(6, load=loads), st.integers(1, 5))
def test_no_order_beats_the_bound(fleet: list[Candidate], readers: int) -> None:
    assert exposure_bound_kb(fleet, readers) <= least_of_all_orders_kb(fleet, readers) * (1 + 1e-9) + 1e-9


@given(fleets(30), st.sampled_from(sorted(POLICIES)), st.integers(1, 40))
def test_no_policy_beats_the_bound(fleet: list[Candidate], policy: str, readers: int) -> None:
    assert exposure_bound_kb(fleet, readers) <= exposure_kb(in_order(policy, fleet), readers) * (1 + 1e-9) + 1e-9


@given(fleets(30))
def test_the_bound_is_reached_by_one_reader(fleet: list[Candidate]) -> None:
    least_kb = exposure_kb(in_order("least_disturbance", fleet), 1)
    assert abs(exposure_bound_kb(fleet, 1) - least_kb) <= least_kb * 1e-9 + 1e-300


@given(fleets(30), st.integers(1, 40))
def test_the_bound_is_reached_where_every_vm_has_a_reader_of_its_own(fleet: list[Candidate], more: int) -> None:
    readers = len(fleet) + more
    alone_kb = sum(c.load_kbps * c.expected_s for c in fleet)
    assert abs(exposure_bound_kb(fleet, readers) - alone_kb) <= alone_kb * 1e-9 + 1e-300


@given(fleets(30), st.integers(2, 8))
def test_the_bound_is_at_least_that_of_eastman_even_and_isaacs(fleet: list[Candidate], readers: int) -> None:
    own_kb = sum(c.load_kbps * c.expected_s for c in fleet)
    published_kb = exposure_bound_kb(fleet, 1) / readers + own_kb * (readers - 1) / (2 * readers)
    assert exposure_bound_kb(fleet, readers) >= published_kb * (1 - 1e-9)


def test_the_bound_sees_that_one_vm_has_one_reader_at_a_time() -> None:
    """Eastman, Even and Isaacs let all readers share the long archive, and come to 98.75."""
    terms = (("busy", 10, 1), ("less busy", 5, 1), ("long", 10, 10))
    fleet = [Candidate(id=name, name=name, load_kbps=load, expected_s=seconds) for name, load, seconds in terms]
    assert least_of_all_orders_kb(fleet, 2) == 120
    assert exposure_bound_kb(fleet, 2) > 117


@given(fleets(20), st.randoms(), st.sampled_from(sorted(POLICIES)))
def test_an_order_does_not_depend_on_the_one_it_was_given(fleet: list[Candidate], chance, policy: str) -> None:
    shuffled = list(fleet)
    chance.shuffle(shuffled)
    assert in_order(policy, shuffled) == in_order(policy, fleet)
