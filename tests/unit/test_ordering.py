from backups.ordering import Candidate, exposure_kb, in_order


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


def test_the_order_goes_by_the_metric_that_was_chosen_and_growth_by_what_is_written() -> None:
    reads = Candidate(id="reads", name="reads", load_kbps=1, load=900, expected_s=1)
    writes = Candidate(id="writes", name="writes", load_kbps=50, load=60, expected_s=1)
    assert [c.name for c in in_order("highest_load", [writes, reads])] == ["reads", "writes"]
    assert [c.name for c in in_order("least_disturbance", [writes, reads])] == ["reads", "writes"]
    assert exposure_kb([reads, writes], readers=1) == 1 * 1 + 50 * 2
