from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backups.retention import Candidate, Rules, judge, preview

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)  # a Tuesday
GFS = Rules(daily=7, weekly=4, monthly=12, yearly=2, time_zone="Europe/Berlin")
BOUNDS = ("count", "days", "daily", "weekly", "monthly", "yearly")


def aged(*days: float) -> list[Candidate]:
    return [Candidate(id=str(d), backup_time=NOW - timedelta(days=d)) for d in days]


def kept(rules: Rules, archives: list[Candidate], now: datetime = NOW) -> dict[str, str]:
    return {key: str(verdict) for key, verdict in judge(rules, archives, now).items() if verdict.stays}


def nightly(days: int, until: datetime = NOW) -> list[datetime]:
    return [until.replace(hour=2) - timedelta(days=day) for day in reversed(range(days))]


def days_of(rule: str, rules: Rules, starts: list[datetime], now: datetime = NOW) -> list[str]:
    found = preview(rules, starts, now)
    return [f"{at:%a %Y-%m-%d}" for at, verdict in found if any(reason.rule == rule for reason in verdict.reasons)]


lots = st.integers(0, 6)
rule_sets = st.builds(
    Rules, count=st.integers(1, 6), days=st.integers(0, 40), daily=lots, weekly=lots, monthly=lots, yearly=lots,
    weekday=st.integers(0, 6), time_zone=st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Apia", "America/St_Johns"]),
)  # fmt: skip
fleets = st.lists(
    st.builds(
        Candidate,
        id=st.uuids().map(str),
        backup_time=st.integers(0, 900 * 24).map(lambda hours: NOW - timedelta(hours=hours)),
        good=st.booleans(),
        in_use=st.booleans(),
        locked_until=st.none() | st.integers(-9, 9).map(lambda days: NOW + timedelta(days=days)),
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda archive: archive.id,
)


def test_the_newest_are_kept_by_count() -> None:
    assert kept(Rules(count=2), aged(1, 2, 3, 4)) == {"1": "the newest", "2": "among the newest 2"}


def test_the_young_are_kept_by_age_beyond_the_count() -> None:
    found = kept(Rules(count=1, days=30), aged(1, 2, 40))
    assert found == {"1": "the newest; younger than 30 days", "2": "younger than 30 days"}


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (Rules(count=1), "not the newest"),
        (Rules(count=7, days=30), "older than 30 days and not among the newest 7"),
        (
            Rules(count=7, days=30, weekly=4, yearly=1),
            "older than 30 days, not among the newest 7 and not a weekly or yearly archive that is kept",
        ),
    ],
)
def test_what_goes_is_told_why(rules: Rules, told: str) -> None:
    archives = aged(*range(12), 366, 367)
    assert judge(rules, archives, NOW)["367"].dropped == told


def test_a_daily_archive_is_the_last_of_its_day() -> None:
    found = kept(Rules(daily=2), aged(0.1, 0.2, 1.1, 1.2, 2.1))
    assert found == {"0.1": "the newest; daily 1 of 2", "1.1": "daily 2 of 2"}


def test_the_chosen_weekday_stands_for_its_week() -> None:
    assert days_of("weekly", Rules(weekly=3, weekday=4), nightly(60)) == [
        "Tue 2026-11-24", "Fri 2026-11-20", "Fri 2026-11-13", "Fri 2026-11-06",
    ]  # fmt: skip


def test_a_week_without_the_chosen_weekday_keeps_its_last_archive() -> None:
    starts = [start for start in nightly(30) if start.day != 20]
    assert days_of("weekly", Rules(weekly=2, weekday=4), starts)[1:] == ["Thu 2026-11-19", "Fri 2026-11-13"]


def test_the_months_and_the_years_last_such_day_stand_for_them() -> None:
    rules = Rules(monthly=2, yearly=2, weekday=6)
    assert days_of("monthly", rules, nightly(1000)) == ["Sun 2026-11-22", "Sun 2026-10-25", "Sun 2026-09-27"]
    assert days_of("yearly", rules, nightly(1000)) == ["Sun 2026-11-22", "Sun 2025-12-28", "Sun 2024-12-29"]


def test_days_are_those_of_the_plans_time_zone() -> None:
    late = [datetime(2026, 11, 21, 23, tzinfo=UTC), datetime(2026, 11, 22, 22, tzinfo=UTC)]
    berlin = judge(Rules(daily=5, time_zone="Europe/Berlin"), [*map(at, late)], NOW)
    assert [verdict.stays for verdict in berlin.values()] == [True, False]
    assert all(verdict.stays for verdict in judge(Rules(daily=5), [*map(at, late)], NOW).values())


def at(time: datetime) -> Candidate:
    return Candidate(id=time.isoformat(), backup_time=time)


def test_a_lock_keeps_until_its_time_and_says_so() -> None:
    locked = replace(aged(300)[0], locked_until=NOW + timedelta(days=30))
    assert kept(Rules(), [*aged(1), locked])["300"] == "locked until 2026-12-24"
    assert "300" not in kept(Rules(), [*aged(1), locked], NOW + timedelta(days=31))


def test_what_is_being_recovered_stays_for_as_long() -> None:
    used = replace(aged(300)[0], in_use=True)
    assert kept(Rules(), [*aged(1), used])["300"] == "being recovered"


def test_a_damaged_archive_takes_no_good_ones_place() -> None:
    broken = replace(aged(1)[0], good=False)
    assert set(kept(Rules(count=2), [broken, *aged(2, 3, 4)])) == {"1", "2", "3"}
    old_and_broken = replace(aged(9)[0], good=False)
    assert "9" not in kept(Rules(count=2, yearly=5), [*aged(2, 3, 4), old_and_broken])


def test_a_year_of_nights_leaves_what_a_grandfather_scheme_promises() -> None:
    found = preview(GFS, nightly(365), NOW)
    assert len(days_of("daily", GFS, nightly(365))) == 7
    assert len(days_of("weekly", GFS, nightly(365))) == 4 + 1
    assert len(days_of("monthly", GFS, nightly(365))) == 12 + 1
    assert len(found) < 7 + 5 + 13
    assert found[0][0] == nightly(1)[0]


@given(rule_sets, fleets)
def test_the_newest_good_archive_always_stays(rules: Rules, archives: list[Candidate]) -> None:
    good = [archive.backup_time for archive in archives if archive.good]
    staying = kept(rules, archives)
    assert not good or max(good) in {archive.backup_time for archive in archives if archive.id in staying}


@given(rule_sets, fleets)
def test_what_is_locked_or_in_use_always_stays(rules: Rules, archives: list[Candidate]) -> None:
    held = {a.id for a in archives if a.in_use or (a.locked_until and a.locked_until > NOW)}
    assert held <= set(kept(rules, archives))


@given(rule_sets, fleets, st.sampled_from(BOUNDS), st.integers(1, 9))
def test_a_more_generous_rule_keeps_no_less(rules: Rules, archives: list[Candidate], bound: str, more: int) -> None:
    generous = replace(rules, **{bound: getattr(rules, bound) + more})
    assert set(kept(rules, archives)) <= set(kept(generous, archives))


@given(rule_sets, fleets, st.randoms(use_true_random=False))
def test_the_order_in_which_archives_are_told_changes_nothing(rules: Rules, archives: list[Candidate], chance) -> None:  # type: ignore[no-untyped-def]
    mixed = list(archives)
    chance.shuffle(mixed)
    assert judge(rules, mixed, NOW) == judge(rules, archives, NOW)


@given(rule_sets, fleets)
def test_every_archive_has_reasons_to_stay_or_one_to_go(rules: Rules, archives: list[Candidate]) -> None:
    verdicts = judge(rules, archives, NOW)
    assert set(verdicts) == {archive.id for archive in archives}
    assert all(bool(verdict.reasons) != bool(verdict.dropped) for verdict in verdicts.values())


@given(rule_sets, st.lists(st.integers(1, 60), min_size=1, max_size=60))
def test_going_after_each_run_leaves_what_the_preview_promised(rules: Rules, gaps_h: list[int]) -> None:
    """Nothing goes early that a rule would have kept in the end."""
    starts = [NOW + timedelta(hours=sum(gaps_h[: place + 1])) for place in range(len(gaps_h))]
    there: list[Candidate] = []
    for start in starts:
        there.append(at(start))
        verdicts = judge(rules, there, start)
        there = [archive for archive in there if verdicts[archive.id].stays]
    assert {archive.backup_time for archive in there} == {time for time, _ in preview(rules, starts, starts[-1])}
