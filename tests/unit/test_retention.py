from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from backups.retention import Kept, reasons_to_keep

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def aged(*days: int) -> list[Kept]:
    return [Kept(id=str(d), backup_time=NOW - timedelta(days=d)) for d in days]


def test_the_newest_are_kept_by_count() -> None:
    kept = reasons_to_keep(aged(1, 2, 3, 4), count=2, days=0, now=NOW)
    assert kept == {"1": "the newest", "2": "among the newest 2"}


def test_the_young_are_kept_by_age_beyond_the_count() -> None:
    kept = reasons_to_keep(aged(1, 2, 3, 40), count=1, days=30, now=NOW)
    assert kept == {"1": "the newest", "2": "younger than 30 days", "3": "younger than 30 days"}


@given(st.lists(st.integers(0, 400), min_size=1), st.integers(0, 5), st.integers(0, 60))
def test_the_newest_archive_always_stays(ages: list[int], count: int, days: int) -> None:
    archives = [Kept(id=str(i), backup_time=NOW - timedelta(days=d)) for i, d in enumerate(ages)]
    newest = max(archives, key=lambda a: a.backup_time)
    kept = reasons_to_keep(archives, count=count, days=days, now=NOW)
    assert any(a.backup_time == newest.backup_time for a in archives if a.id in kept)
