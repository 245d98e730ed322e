from datetime import UTC, datetime

import pytest

from backups.errors import InvalidRequest
from backups.schedule import check_schedule, latest_start, next_starts

BERLIN = "Europe/Berlin"


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


def test_a_daily_start_follows_the_local_clock_through_the_seasons() -> None:
    assert next_starts("0 22 * * *", BERLIN, utc(2026, 7, 1), 1) == [utc(2026, 7, 1, 20)]
    assert next_starts("0 22 * * *", BERLIN, utc(2026, 12, 1), 1) == [utc(2026, 12, 1, 21)]


def test_the_hour_that_autumn_repeats_fires_once() -> None:
    starts = next_starts("30 2 * * *", BERLIN, utc(2026, 10, 24, 12), 2)
    assert starts == [utc(2026, 10, 25, 0, 30), utc(2026, 10, 26, 1, 30)]


def test_a_start_in_the_hour_that_spring_skips_comes_an_hour_later() -> None:
    assert next_starts("30 2 * * *", BERLIN, utc(2026, 3, 28, 12), 1) == [utc(2026, 3, 29, 1, 30)]


def test_starts_never_repeat_and_always_rise() -> None:
    starts = next_starts("*/20 * * * *", BERLIN, utc(2026, 10, 24, 23), 20)
    assert starts == sorted(set(starts))


def test_the_next_start_lies_strictly_after_the_moment_asked_for() -> None:
    assert next_starts("0 * * * *", "UTC", utc(2026, 1, 1, 5), 1) == [utc(2026, 1, 1, 6)]


def test_a_plan_without_a_schedule_never_starts_by_itself() -> None:
    assert next_starts("", "UTC", utc(2026, 1, 1), 3) == []


def test_of_many_missed_starts_only_the_newest_is_caught_up() -> None:
    assert latest_start("0 * * * *", "UTC", utc(2026, 1, 1, 5), utc(2026, 1, 3, 7, 30)) == utc(2026, 1, 3, 7)


@pytest.mark.parametrize("cron", ["every day", "61 * * * *", "0 22 * *", "* * * * * *"])
def test_a_bad_schedule_is_refused_with_an_example(cron: str) -> None:
    with pytest.raises(InvalidRequest, match="five cron fields"):
        check_schedule(cron, "UTC")


@pytest.mark.parametrize("time_zone", ["Mars/Olympus", "Europe", "", "../etc/passwd"])
def test_a_bad_time_zone_is_refused_with_an_example(time_zone: str) -> None:
    with pytest.raises(InvalidRequest, match="Europe/Berlin"):
        check_schedule("", time_zone)


def test_a_day_that_never_comes_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="never comes"):
        check_schedule("0 0 31 2 *", "UTC")
