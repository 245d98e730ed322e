import pytest
from hypothesis import given
from hypothesis import strategies as st

from backups.durations import ASSUMED, Last, Past, correction, expected_bytes, pace

MIB = 2**20
pasts = st.lists(st.builds(Past, bytes_read=st.integers(0, 2**40), seconds=st.floats(0.01, 1e5)), max_size=8)
seconds = st.floats(0.1, 1e5)


def took(mib: int, seconds: float) -> Past:
    return Past(bytes_read=mib * MIB, seconds=seconds)


def test_a_vm_goes_by_its_own_last_archives() -> None:
    own, others = [took(0, 3), took(1000, 103)], [took(0, 30), took(1000, 1030)]
    assert pace(own, others).seconds(500 * MIB) == pytest.approx(53)


def test_a_new_vm_goes_by_the_archives_of_its_repository() -> None:
    assert pace([], [took(0, 3), took(1000, 103)]).seconds(500 * MIB) == pytest.approx(53)


def test_a_vm_that_only_had_small_archives_takes_its_rate_from_the_repository() -> None:
    found = pace([took(1, 5)], [took(0, 1), took(1000, 101)])
    assert found.seconds(MIB) == pytest.approx(5)
    assert found.bytes_per_s == pytest.approx(10 * MIB)


def test_where_nothing_was_archived_yet_a_rate_is_assumed() -> None:
    assert pace([], []) == ASSUMED


def test_one_archive_that_stalled_says_little() -> None:
    own = [took(0, 1), took(1000, 101), took(1000, 101), took(1000, 9999)]
    assert pace(own, []).seconds(1000 * MIB) == pytest.approx(101)


def test_the_first_archive_reads_everything() -> None:
    assert expected_bytes(100 * MIB, None, write_kbps=5) == 100 * MIB


def test_an_archive_of_changes_reads_what_the_last_one_did() -> None:
    assert expected_bytes(100 * MIB, Last(bytes_read=7 * MIB, full=False, age_s=60), write_kbps=5) == 7 * MIB


def test_after_a_full_archive_the_changes_are_what_was_written_since() -> None:
    last = Last(bytes_read=90 * MIB, full=True, age_s=1000)
    assert expected_bytes(100 * MIB, last, write_kbps=10) == 5000 * 1024
    assert expected_bytes(100 * MIB, last, write_kbps=1e9) == 90 * MIB


def test_a_run_that_is_slower_than_expected_expects_more_of_the_rest() -> None:
    assert correction([(10, 20)]) == pytest.approx(40 / 30)
    assert correction([(10, 20)] * 100) == pytest.approx(2, rel=0.02)


def test_a_run_that_has_finished_nothing_corrects_nothing() -> None:
    assert correction([]) == 1


@given(st.lists(st.tuples(seconds, seconds)))
def test_a_correction_lies_between_one_and_the_ratios_that_were_measured(finished) -> None:
    ratios = [1.0, *(measured / expected for expected, measured in finished)]
    assert min(ratios) * (1 - 1e-9) <= correction(finished) <= max(ratios) * (1 + 1e-9)


@given(st.lists(st.tuples(seconds, seconds)), st.randoms())
def test_it_does_not_matter_in_which_order_archives_ended(finished, chance) -> None:
    shuffled = list(finished)
    chance.shuffle(shuffled)
    assert correction(shuffled) == correction(finished)


@given(pasts, pasts, st.integers(0, 2**40), st.integers(0, 2**40))
def test_more_bytes_never_take_less_time(own, repository, one: int, other: int) -> None:
    found = pace(own, repository)
    assert 0 <= found.seconds(min(one, other)) <= found.seconds(max(one, other))


@given(st.builds(Past, bytes_read=st.integers(0, 2**40), seconds=st.floats(0.01, 1e5)), pasts)
def test_an_archive_like_the_last_one_takes_as_long_as_it_did(last: Past, repository) -> None:
    assert pace([last], repository).seconds(last.bytes_read) == pytest.approx(last.seconds)


@given(pasts, pasts, st.randoms())
def test_the_order_of_past_archives_does_not_matter(own, repository, chance) -> None:
    shuffled = list(own)
    chance.shuffle(shuffled)
    assert pace(shuffled, repository) == pace(own, repository)
