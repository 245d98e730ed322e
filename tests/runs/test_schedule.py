"""The tick starts plans that are due."""

from datetime import timedelta

import pytest
from django.utils import timezone

from backups.models import Plan, Run
from backups.services.plans import change_plan, create_plan
from backups.tasks.tick import tick

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
