from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise, takewhile
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
from croniter import croniter
from hypothesis import assume, given
from hypothesis import strategies as st

from backups.errors import InvalidRequest
from backups.schedule import Blackout, Schedule, check_schedule, due, latest_start, next_starts, read_blackouts, starts

BERLIN = "Europe/Berlin"
EVERY_DAY = frozenset(range(7))
ALL_BUT_MONDAY_NOON = (
    Blackout(EVERY_DAY - {0}, time(0), time(0)),
    Blackout(frozenset({0}), time(0), time(12)),
    Blackout(frozenset({0}), time(12, 1), time(0)),
)
OFFICE_HOURS = Blackout(frozenset(range(5)), time(8), time(18))
ZONES = sorted(available_timezones() - {"localtime"})
CRONS = (
    "0 22 * * *", "30 2 * * *", "0,15,40 0-4 * * *", "*/20 * * * *", "45 23 * * *", "0 8-18/2 * * 1-5", "30 6 * * 1,5",
    "0 2 31 * *", "15 2 L * *", "0 22 * * 1#1", "0 1 * * L5", "0 22-4/2 * * 6,0",
)  # fmt: skip

zones = st.sampled_from(ZONES)
crons = st.sampled_from(CRONS)
moments = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
times = st.times().map(lambda at: at.replace(second=0, microsecond=0))
windows = st.builds(Blackout, st.frozensets(st.integers(0, 6), min_size=1, max_size=5), times, times)
schedules = st.builds(
    Schedule, cron=crons, time_zone=zones, blackouts=st.lists(windows, max_size=2).map(tuple), every_weeks=st.just(1)
)


@lru_cache
def changes_of_the_clock(zone: str) -> list[datetime]:
    """The days on which the clock of the zone is changed, of two years; any day where it never is."""
    days = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(730)]
    offsets = [day.astimezone(ZoneInfo(zone)).utcoffset() for day in days]
    return [day for day, (before, after) in zip(days, pairwise(offsets), strict=False) if before != after] or days[:1]


near_a_change = st.tuples(zones, st.randoms(use_true_random=False), st.integers(-36, 36)).map(
    lambda drawn: (drawn[0], drawn[1].choice(changes_of_the_clock(drawn[0])) + timedelta(hours=drawn[2]))
)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


def daily(cron: str = "0 22 * * *", **options: object) -> Schedule:
    return Schedule(**{"cron": cron, "time_zone": BERLIN, **options})  # type: ignore[arg-type]


def in_berlin(starts: list[datetime]) -> list[str]:
    return [f"{start.astimezone(ZoneInfo(BERLIN)):%a %d %H:%M}" for start in starts]


def test_a_daily_start_follows_the_local_clock_through_the_seasons() -> None:
    assert next_starts(daily(), utc(2026, 7, 1), 1) == [utc(2026, 7, 1, 20)]
    assert next_starts(daily(), utc(2026, 12, 1), 1) == [utc(2026, 12, 1, 21)]


def test_the_hour_that_autumn_repeats_fires_once() -> None:
    starts = next_starts(daily("30 2 * * *"), utc(2026, 10, 24, 12), 2)
    assert starts == [utc(2026, 10, 25, 0, 30), utc(2026, 10, 26, 1, 30)]


def test_a_start_in_the_hour_that_spring_skips_comes_an_hour_later() -> None:
    assert next_starts(daily("30 2 * * *"), utc(2026, 3, 28, 12), 1) == [utc(2026, 3, 29, 1, 30)]


def test_a_plan_changed_just_after_the_skipped_hour_still_starts_that_night() -> None:
    assert next_starts(daily("30 2 * * *"), utc(2026, 3, 29, 1, 10), 1) == [utc(2026, 3, 29, 1, 30)]


def test_hourly_within_a_window_on_chosen_days() -> None:
    starts = next_starts(daily("0 8-18/2 * * 1-5"), utc(2026, 5, 15, 11), 5)
    assert in_berlin(starts) == ["Fri 15 14:00", "Fri 15 16:00", "Fri 15 18:00", "Mon 18 08:00", "Mon 18 10:00"]


def test_monthly_on_the_last_day_and_on_the_first_monday() -> None:
    assert in_berlin(next_starts(daily("0 22 L * *"), utc(2026, 1, 1), 2)) == ["Sat 31 22:00", "Sat 28 22:00"]
    assert in_berlin(next_starts(daily("0 22 * * 1#1"), utc(2026, 1, 1), 2)) == ["Mon 05 22:00", "Mon 02 22:00"]


def test_every_third_week_counts_from_the_first() -> None:
    plan = daily("0 22 * * 1,5", every_weeks=3, first_week=date(2026, 1, 7))
    starts = next_starts(plan, utc(2025, 11, 1), 4)
    assert in_berlin(starts) == ["Mon 05 22:00", "Fri 09 22:00", "Mon 26 22:00", "Fri 30 22:00"]


def test_what_falls_into_a_blackout_comes_once_at_its_end() -> None:
    plan = daily("0 7-20/3 * * *", blackouts=(OFFICE_HOURS,))
    assert in_berlin(next_starts(plan, utc(2026, 5, 15, 0), 3)) == ["Fri 15 07:00", "Fri 15 18:00", "Fri 15 19:00"]


def test_a_blackout_over_midnight_belongs_to_the_day_it_begins() -> None:
    plan = daily("0 1 * * *", blackouts=(Blackout(frozenset({4}), time(22), time(6)),))
    assert in_berlin(next_starts(plan, utc(2026, 5, 15, 12), 2)) == ["Sat 16 06:00", "Sun 17 01:00"]


def test_blackouts_that_touch_are_one() -> None:
    weekend = (Blackout(frozenset({5, 6}), time(0), time(0)),)
    starts = next_starts(daily("0 12 * * *", blackouts=weekend), utc(2026, 5, 15, 12), 2)
    assert in_berlin(starts) == ["Mon 18 00:00", "Mon 18 12:00"]


def test_the_next_start_lies_strictly_after_the_moment_asked_for() -> None:
    assert next_starts(Schedule(cron="0 * * * *"), utc(2026, 1, 1, 5), 1) == [utc(2026, 1, 1, 6)]


def test_a_plan_without_a_schedule_never_starts_by_itself() -> None:
    assert next_starts(Schedule(), utc(2026, 1, 1), 3) == []


def test_of_many_missed_starts_only_the_newest_is_caught_up() -> None:
    hourly = Schedule(cron="0 * * * *")
    assert latest_start(hourly, utc(2026, 1, 1, 5), utc(2026, 1, 3, 7, 30)) == utc(2026, 1, 3, 7)
    assert due(hourly, utc(2026, 1, 1, 5), utc(2026, 1, 3, 7, 30)) == (utc(2026, 1, 3, 7), utc(2026, 1, 3, 8))


def test_a_plan_of_every_minute_that_slept_for_years_is_caught_up_at_once() -> None:
    assert latest_start(Schedule(cron="* * * * *"), utc(2016, 1, 1), utc(2026, 1, 1)) == utc(2026, 1, 1)


def test_a_missed_start_is_not_caught_up_within_a_blackout_but_at_its_end() -> None:
    plan = daily("0 7 * * *", blackouts=(OFFICE_HOURS,))
    assert due(plan, utc(2026, 5, 15, 5), utc(2026, 5, 15, 10)) == (None, utc(2026, 5, 15, 16))
    assert due(plan, utc(2026, 5, 15, 16), utc(2026, 5, 15, 16)) == (utc(2026, 5, 15, 16), utc(2026, 5, 16, 5))


def test_of_every_minute_within_a_blackout_none_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but one minute of the week: to walk through a year of it would take longer than a request may."""
    looked_at: list[Any] = []
    named: Any = croniter.get_next

    def get_next(*options: Any) -> Any:
        looked_at.append(named(*options))
        return looked_at[-1]

    monkeypatch.setattr(croniter, "get_next", get_next)
    plan = daily("* * * * *", blackouts=ALL_BUT_MONDAY_NOON)
    starts = next_starts(plan, utc(2026, 5, 15, 12), 52)
    assert in_berlin(starts[:2]) == ["Mon 18 12:00", "Mon 25 12:00"]
    assert due(plan, utc(2025, 5, 15), utc(2026, 5, 18, 10)) == (utc(2026, 5, 18, 10), utc(2026, 5, 25, 10))
    assert len(looked_at) < 4 * 52


@given(schedules, moments)
def test_to_jump_over_a_blackout_leaves_no_start_out(schedule: Schedule, after: datetime) -> None:
    """Held against a walk through all that cron names."""
    schedule = replace(schedule, cron="15 */2 * * *")
    assume(next_starts(schedule, after, 1))
    until = after + timedelta(days=2)
    named = takewhile(lambda at: at < until, starts(replace(schedule, blackouts=()), after - timedelta(days=6)))
    came = {first_free(schedule, at) for at in named}
    jumped = takewhile(lambda at: at < until, starts(schedule, after))
    assert list(jumped) == sorted(at for at in came if after < at < until)


@given(schedules, moments)
def test_starts_rise_and_none_lies_in_a_blackout(schedule: Schedule, after: datetime) -> None:
    starts = next_starts(schedule, after, 12)
    assert starts == sorted(set(starts))
    assert all(start > after for start in starts)
    assert not any(forbidden(schedule, start) for start in starts)


@given(schedules, moments, st.none() | near_a_change)
def test_asking_again_from_any_start_goes_on_as_before(
    schedule: Schedule, after: datetime, change: tuple[str, datetime] | None
) -> None:
    """The tick asks anew after each start; what it is told must be the row that the plan's page showed."""
    if change:
        schedule, after = replace(schedule, time_zone=change[0]), change[1]
    starts = next_starts(schedule, after, 8)
    for before, following in pairwise(starts):
        assert next_starts(schedule, before, 1) == [following]
        between = before + (following - before) / 2
        assert next_starts(schedule, between, 1) == [following]


@given(crons, near_a_change)
def test_no_start_is_lost_when_the_clock_changes(cron: str, change: tuple[str, datetime]) -> None:
    """Each wall-clock time that cron names has its start: then, or as much later as the clock was put forward."""
    schedule = Schedule(cron=cron, time_zone=change[0])
    local = change[1].astimezone(ZoneInfo(change[0])).replace(tzinfo=None)
    for named in next_starts(Schedule(cron=cron), local.replace(tzinfo=UTC), 10):
        meant = named.replace(tzinfo=ZoneInfo(change[0])).astimezone(UTC)
        assert next_starts(schedule, meant - timedelta(seconds=1), 1) == [meant]


@given(schedules, moments)
def test_a_start_that_a_blackout_hinders_comes_at_the_first_free_moment(schedule: Schedule, after: datetime) -> None:
    meant = next_starts(Schedule(cron=schedule.cron, time_zone=schedule.time_zone), after, 3)
    for at in meant:
        start = next_starts(schedule, at - timedelta(seconds=1), 1)
        assert not start or start[0] == at or hindered(schedule, at, start[0])


@given(schedules, moments, st.timedeltas(timedelta(0), timedelta(days=40)))
def test_however_many_starts_were_missed_one_is_made_up_for(
    schedule: Schedule, missed: datetime, late: timedelta
) -> None:
    made, following = due(schedule, missed, missed + late)
    assert following is None or following > missed + late
    if made is None:
        assert following is not None or not schedule.cron or not next_starts(schedule, missed, 1)
    else:
        assert missed <= made <= missed + late
        assert not [start for start in next_starts(schedule, made, 1) if start <= missed + late]


def forbidden(schedule: Schedule, at: datetime) -> bool:
    """Told from the wall clock alone, minute by minute of the week."""
    local = at.astimezone(ZoneInfo(schedule.time_zone))
    return any(
        (begins == local.weekday() and blackout.start <= local.time() < (blackout.end if same_day else time.max))
        or (not same_day and (begins + 1) % 7 == local.weekday() and local.time() < blackout.end)
        for blackout in schedule.blackouts
        for same_day in [blackout.end > blackout.start]
        for begins in blackout.days
    )


def first_free(schedule: Schedule, at: datetime) -> datetime:
    """`due` says until when a start has to wait."""
    made, following = due(replace(schedule, cron="0 0 1 1 *"), at, at)
    return at if made else following or at


def hindered(schedule: Schedule, at: datetime, until: datetime) -> bool:
    """A window may be up to the change of the clock too long, so the ends are looked at an hour inside."""
    minutes = int((until - at).total_seconds() // 60)
    return all(
        any(forbidden(schedule, at + timedelta(minutes=minute + shift)) for shift in range(-65, 66, 5))
        for minute in range(0, minutes, 30)
    )


@pytest.mark.parametrize("cron", ["every day", "61 * * * *", "0 22 * *", "* * * * * *", "R * * * *", "r(0-9) 2 * * *"])
def test_a_bad_schedule_is_refused_with_an_example(cron: str) -> None:
    with pytest.raises(InvalidRequest, match="five cron fields"):
        check_schedule(Schedule(cron=cron))


@pytest.mark.parametrize("time_zone", ["Mars/Olympus", "Europe", "", "../etc/passwd"])
def test_a_bad_time_zone_is_refused_with_an_example(time_zone: str) -> None:
    with pytest.raises(InvalidRequest, match="Europe/Berlin"):
        check_schedule(Schedule(time_zone=time_zone))


def test_a_day_that_never_comes_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="never comes"):
        check_schedule(Schedule(cron="0 0 31 2 *"))


def test_weekdays_may_be_named() -> None:
    check_schedule(Schedule(cron="0 22 * * mon-fri"))


def test_blackouts_that_leave_no_time_are_refused() -> None:
    nights = Blackout(EVERY_DAY, time(18), time(8))
    check_schedule(daily(blackouts=(nights,)))
    with pytest.raises(InvalidRequest, match="whole week"):
        check_schedule(daily(blackouts=(nights, Blackout(EVERY_DAY, time(8), time(18)))))


def test_blackouts_are_read_as_they_are_written() -> None:
    told = [{"days": [0, 1, 2, 3, 4], "start": "08:00", "end": "18:00"}]
    assert read_blackouts(told) == (OFFICE_HOURS,)


@pytest.mark.parametrize(
    "told",
    [
        "at night",
        ["at night"],
        [{"days": [7], "start": "08:00", "end": "18:00"}],
        [{"days": [], "start": "08:00", "end": "18:00"}],
        [{"days": [True], "start": "08:00", "end": "18:00"}],
        [{"days": [1], "start": "8 am", "end": "18:00"}],
        [{"days": [1], "start": "08:00"}],
        [{"days": [1], "start": "08:00", "end": "18:00"}] * 51,
    ],
)
def test_a_blackout_that_is_not_understood_is_refused_with_a_sentence(told: object) -> None:
    with pytest.raises(InvalidRequest, match=r"blackout|time of day"):
        read_blackouts(told)
