"""Alice draws up plans; Charlie only reads them."""

import re
from typing import Any

import pytest

from backups.models import Plan, Run, Tenant, VApp
from portal.schedules import compose, decompose, in_words
from tests.portal.conftest import Browser
from tests.portal.worlds import World, shared

pytestmark = [pytest.mark.database, pytest.mark.django_db]


def filled_in(**changes: Any) -> dict[str, Any]:
    _, repository = shared()
    fields = {"name": "Nightly", "frequency": "daily", "at": "22:00", "time_zone": "Europe/Berlin", "keep_count": 7}
    fields |= {"keep_days": 30, "repository": repository.pk, "policy": "highest_load", "batch_size": 0, "readers": 2}
    return fields | {"quiesce": "try"} | changes


def test_ok_makes_the_plan_and_leads_to_the_vapps(at_acme: Browser, acme: Tenant) -> None:
    answer = at_acme.posts("plans/new/", **filled_in())
    assert answer.headers["Location"] == f"/t/{acme.pk}/vapps/"
    plan = Plan.objects.get()
    assert (plan.tenant, plan.cron, plan.time_zone) == (acme, "0 22 * * *", "Europe/Berlin")
    assert plan.next_start_at is not None


@pytest.mark.parametrize(
    ("controls", "cron"),
    [
        ({"frequency": "hand"}, ""),
        ({"frequency": "hourly", "minute": 15}, "15 * * * *"),
        ({"frequency": "weekly", "weekdays": ["1", "5"], "at": "06:30"}, "30 6 * * 1,5"),
        ({"frequency": "monthly", "month_day": 31}, "0 22 31 * *"),
        ({"frequency": "expert", "cron": "*/5  1 * * *"}, "*/5 1 * * *"),
    ],
)
def test_the_controls_compose_the_schedule(at_acme: Browser, controls: dict[str, Any], cron: str) -> None:
    at_acme.posts("plans/new/", **filled_in(**controls))
    assert Plan.objects.get().cron == cron


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"frequency": "weekly"}, "Choose at least one day."),
        ({"frequency": "expert", "cron": "soon"}, "write five cron fields"),
        ({"name": ""}, "This field is required."),
        ({"readers": 0}, "greater than or equal to 1"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_lost(at_acme: Browser, mistake: dict[str, Any], told: str) -> None:
    page = at_acme.reads_after("plans/new/", **filled_in(keep_count=123, **mistake))
    assert told in page
    assert 'value="123"' in page
    assert not Plan.objects.exists()


def test_a_second_plan_of_the_same_name_is_refused(at_acme: Browser) -> None:
    at_acme.posts("plans/new/", **filled_in())
    assert "choose another name" in at_acme.reads_after("plans/new/", **filled_in())


def test_a_plan_opens_with_its_own_schedule(at_acme: Browser, ours: World) -> None:
    Plan.objects.filter(pk=ours.ids["plan_id"]).update(cron="30 6 * * 1,5")
    page = at_acme.sees(f"plans/{ours.ids['plan_id']}/")
    weekly = next(line for line in page.splitlines() if 'value="weekly"' in line)
    assert re.search(r'value="weekly"[^>]*checked', weekly)
    assert 'value="06:30"' in page


def test_a_plan_that_somebody_else_changed_is_not_overwritten(at_acme: Browser, ours: World) -> None:
    Plan.objects.filter(pk=ours.ids["plan_id"]).update(version=5)
    page = at_acme.reads_after(f"plans/{ours.ids['plan_id']}/", **filled_in(name="Mine", version=4))
    assert "Somebody else changed this plan" in page
    assert Plan.objects.get().name != "Mine"


def test_the_next_five_starts_are_shown(at_acme: Browser) -> None:
    starts = at_acme.sees("plans/starts/", frequency="daily", at="22:00", time_zone="Europe/Berlin")
    assert starts.count("22:00") == 5
    assert "Complete the schedule" in at_acme.sees("plans/starts/", frequency="weekly", at="22:00", time_zone="UTC")
    assert "Back up now" in at_acme.sees("plans/starts/", frequency="hand", time_zone="UTC")


def test_deleting_says_what_it_does_and_keeps_archives(at_acme: Browser, ours: World) -> None:
    page = at_acme.sees(f"plans/{ours.ids['plan_id']}/delete/")
    assert "1 VM will be without this plan" in page
    assert "archives stay" in page
    assert "is deleted" in at_acme.reads_after(f"plans/{ours.ids['plan_id']}/delete/")
    assert not Plan.objects.exists()
    assert ours.tenant.archives.count() == 1


def test_back_up_now_leads_to_the_run(as_olivia: Browser, ours: World) -> None:
    Run.objects.update(state="succeeded")
    answer = as_olivia.posts(f"plans/{ours.ids['plan_id']}/run/")
    assert answer.headers["Location"] == f"/t/{ours.tenant.pk}/runs/{Run.objects.first().pk}/"  # type: ignore[union-attr]


def test_a_second_run_of_the_plan_is_refused_with_a_sentence(at_acme: Browser, ours: World) -> None:
    assert "wait until it ends" in at_acme.reads_after(f"plans/{ours.ids['plan_id']}/run/")


def test_a_plan_without_vms_says_what_to_do(at_acme: Browser, ours: World) -> None:
    VApp.objects.update(plan=None)
    Run.objects.update(state="succeeded")
    assert "apply it to a vApp" in at_acme.reads_after(f"plans/{ours.ids['plan_id']}/run/")


def test_charlie_is_offered_nothing_he_may_not_do(as_charlie: Browser, ours: World) -> None:
    page = as_charlie.sees("plans/")
    assert "plan-of-acme" in page
    assert "New plan" not in page
    assert "Back up now" not in page


def test_without_a_repository_alice_learns_who_can_help(at_acme: Browser) -> None:
    assert "Ask your provider to create a repository" in at_acme.sees("plans/new/")


@pytest.mark.parametrize("cron", ["", "5 * * * *", "0 22 * * *", "30 6 * * 1,5", "0 22 31 * *", "*/5 1 * 2 *"])
def test_controls_and_schedule_say_the_same(cron: str) -> None:
    controls = {"weekdays": [], **decompose(cron)}
    assert compose(controls.pop("frequency"), **controls) == cron


def test_a_schedule_is_told_in_words() -> None:
    assert in_words("30 6 * * 1,5") == "Mon, Fri at 06:30"
    assert in_words("") == "By hand only"
    assert in_words("0 6-18 * * *") == "0 6-18 * * *"
