from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backups.report import Done, report

START = datetime(2026, 11, 24, 22, tzinfo=UTC)


def done(name: str, load_kbps: float, begins_s: float, ends_s: float) -> Done:
    return Done(
        id=name,
        name=name,
        load_kbps=load_kbps,
        snapshot_at=START,
        held_since=START,
        archiving_at=START + timedelta(seconds=begins_s),
        removed_at=START + timedelta(seconds=ends_s),
    )


def test_exposure_is_what_the_snapshots_grew_by_while_they_were_held() -> None:
    told = report([done("busy", 100, 0, 10), done("idle", 1, 10, 30)], readers=1)
    assert told["exposure_kb"] == 100 * 10 + 1 * 30
    assert told["longest_hold_s"] == 30


def test_other_orders_are_computed_with_the_durations_that_were_measured() -> None:
    told = report([done("busy", 100, 0, 10), done("idle", 1, 10, 30)], readers=1)
    assert told["orders"]["highest_load"] == pytest.approx(told["exposure_kb"])
    assert told["orders"]["name"] == pytest.approx(told["exposure_kb"])
    assert told["exposure_kb"] < told["orders"]["random"] < 1 * 20 + 100 * 30
    assert told["bound_kb"] <= told["exposure_kb"]


def test_a_late_start_is_counted_for_every_order() -> None:
    told = report([done("busy", 100, 5, 10), done("idle", 1, 10, 30)], readers=1)
    assert told["orders"]["highest_load"] == pytest.approx(told["exposure_kb"])


def test_a_run_in_which_nothing_was_archived_has_nothing_to_tell() -> None:
    assert report([], readers=2) == {}


def test_a_snapshot_that_was_given_back_counts_all_the_same() -> None:
    told = report([replace(done("busy", 100, 0, 10), earlier_hold_s=5)], readers=1)
    assert told["exposure_kb"] == 100 * 15


def test_a_snapshot_that_no_archive_came_of_counts_too() -> None:
    told = report([done("busy", 100, 0, 10)], readers=1, in_vain_kb=500)
    assert (told["exposure_kb"], told["in_vain_kb"]) == (1500, 500)


@given(
    st.lists(st.tuples(st.floats(0, 1e5), st.floats(0.1, 1e4)), min_size=1, max_size=8),
    st.integers(1, 4),
)
def test_no_order_is_cheaper_than_the_bound(vms: list[tuple[float, float]], readers: int) -> None:
    told = report([done(str(n), load, 0, seconds) for n, (load, seconds) in enumerate(vms)], readers)
    assert min(told["orders"].values()) >= told["bound_kb"] * 0.999999
    assert told == report([done(str(n), load, 0, seconds) for n, (load, seconds) in enumerate(vms)], readers)
