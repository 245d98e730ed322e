"""The tick starts plans that are due."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone

from backups.models import Plan, Run
from backups.schedule import next_starts
from backups.services.plans import change_plan, create_plan, schedule_of
from backups.tasks.tick import start_due_plans, tick

pytestmark = pytest.mark.django_db(transaction=True)


def make_due(plan: Plan, ago: timedelta = timedelta(minutes=1)) -> None:
    change_plan(None, plan, cron="*/5 * * * *")
    Plan.objects.filter(pk=plan.pk).update(next_start_at=timezone.now() - ago)


def test_a_due_plan_starts(plan: Plan) -> None:
    make_due(plan)
    tick()
    assert Run.objects.get(plan=plan).scheduled_for is not None


def test_two_ticks_at_once_start_it_once(plan: Plan) -> None:
    make_due(plan)
    tick()
    tick()
    assert Run.objects.filter(plan=plan).count() == 1


def test_however_many_starts_were_missed_one_is_caught_up(plan: Plan) -> None:
    make_due(plan, ago=timedelta(days=3))
    tick()
    plan.refresh_from_db()
    assert Run.objects.filter(plan=plan).count() == 1
    assert plan.next_start_at > timezone.now()


def test_a_start_while_the_run_before_goes_on_is_left_out(plan: Plan) -> None:
    make_due(plan)
    tick()
    Plan.objects.filter(pk=plan.pk).update(next_start_at=timezone.now() - timedelta(seconds=1))
    tick()
    assert Run.objects.filter(plan=plan).count() == 1


def test_a_due_plan_without_vms_harms_no_other(acme, plan: Plan) -> None:
    empty = create_plan(None, acme, name="Empty", repository=plan.repository)
    make_due(empty)
    make_due(plan)
    tick()
    assert Run.objects.get(plan=plan).state == "queued"


def test_a_due_plan_whose_vms_have_gone_is_shown_as_a_failed_run(plan: Plan) -> None:
    plan.tenant.vms.update(vanished_at=timezone.now())
    make_due(plan)
    tick()
    run = Run.objects.get(plan=plan)
    assert run.state == "failed"
    assert "no longer in vCenter" in run.message


def test_a_plan_that_runs_by_hand_never_starts_by_itself(plan: Plan) -> None:
    tick()
    assert not Run.objects.exists()


OFFICE_HOURS = [{"days": [0, 1, 2, 3, 4], "start": "08:00", "end": "18:00"}]


def live(plan: Plan, begin: datetime, days: int, **options: Any) -> list[str]:
    """The runs that ticks make over these days, each of which ends at once; told in the plan's zone."""
    change_plan(None, plan, time_zone="Europe/Berlin", **options)
    coming = next_starts(schedule_of(plan), begin, 1)
    Plan.objects.filter(pk=plan.pk).update(next_start_at=coming[0] if coming else None)
    while (due := Plan.objects.get(pk=plan.pk).next_start_at) and due < begin + timedelta(days=days):
        start_due_plans(due)
        Run.objects.filter(plan=plan).update(state="succeeded")
    starts = Run.objects.filter(plan=plan).order_by("scheduled_for").values_list("scheduled_for", flat=True)
    return [f"{start.astimezone(ZoneInfo('Europe/Berlin')):%a %d %H:%M}" for start in starts if start]


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


def test_an_hourly_plan_runs_within_its_window_on_its_days(plan: Plan) -> None:
    runs = live(plan, utc(2026, 5, 15, 12), 3, cron="0 9-15/3 * * 1-5")
    assert runs == ["Fri 15 15:00", "Mon 18 09:00", "Mon 18 12:00"]


def test_a_nightly_plan_runs_once_on_the_night_whose_hour_comes_twice(plan: Plan) -> None:
    assert live(plan, utc(2026, 10, 24, 12), 2, cron="30 2 * * *") == ["Sun 25 02:30", "Mon 26 02:30"]


def test_a_nightly_plan_runs_later_on_the_night_that_skips_its_hour(plan: Plan) -> None:
    assert live(plan, utc(2026, 3, 28, 12), 2, cron="30 2 * * *") == ["Sun 29 03:30", "Mon 30 02:30"]


def test_a_plan_of_every_second_week_rests_in_between(plan: Plan) -> None:
    options = {"every_weeks": 2, "first_week": date(2026, 5, 20)}
    assert live(plan, utc(2026, 5, 1), 45, cron="0 22 * * 5", **options) == ["Fri 22 22:00", "Fri 05 22:00"]


def test_a_monthly_plan_runs_on_the_last_day(plan: Plan) -> None:
    assert live(plan, utc(2026, 1, 15), 60, cron="0 22 L * *") == ["Sat 31 22:00", "Sat 28 22:00"]


def test_a_monthly_plan_runs_on_the_first_monday(plan: Plan) -> None:
    assert live(plan, utc(2026, 1, 1), 45, cron="0 22 * * 1#1") == ["Mon 05 22:00", "Mon 02 22:00"]


def test_starts_within_a_blackout_make_one_run_at_its_end(plan: Plan) -> None:
    runs = live(plan, utc(2026, 5, 15, 4), 1, cron="0 7-20/3 * * *", blackouts=OFFICE_HOURS)
    assert runs == ["Fri 15 07:00", "Fri 15 18:00", "Fri 15 19:00"]


def test_a_start_missed_before_a_blackout_is_made_up_for_after_it(plan: Plan) -> None:
    change_plan(None, plan, cron="0 7 * * *", blackouts=OFFICE_HOURS)
    Plan.objects.filter(pk=plan.pk).update(next_start_at=utc(2026, 5, 15, 7))
    start_due_plans(utc(2026, 5, 15, 10))
    assert not Run.objects.exists()
    assert Plan.objects.get(pk=plan.pk).next_start_at == utc(2026, 5, 15, 18)
    start_due_plans(utc(2026, 5, 15, 18, 1))
    assert Run.objects.get(plan=plan).scheduled_for == utc(2026, 5, 15, 18)
    assert Plan.objects.get(pk=plan.pk).next_start_at == utc(2026, 5, 16, 7)
