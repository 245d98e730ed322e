"""Alice draws up plans; Charlie only reads them."""

import re
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone

from backups.models import Archive, Plan, Run, Tenant, VApp
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
        ({"frequency": "hourly", "every_hours": 2, "from_hour": 8, "to_hour": 18, "hour_days": list("12345")},
         "0 8-18/2 * * 1-5"),
        ({"frequency": "monthly", "month_day": 31}, "0 22 31 * *"),
        ({"frequency": "monthly", "month_on": "last"}, "0 22 L * *"),
        ({"frequency": "monthly", "month_on": "1", "month_weekday": "1"}, "0 22 * * 1#1"),
        ({"frequency": "monthly", "month_on": "L", "month_weekday": "5"}, "0 22 * * L5"),
        ({"frequency": "expert", "cron": "*/5  1 * * *"}, "*/5 1 * * *"),
    ],
)  # fmt: skip
def test_the_controls_compose_the_schedule(at_acme: Browser, controls: dict[str, Any], cron: str) -> None:
    at_acme.posts("plans/new/", **filled_in(**controls))
    assert Plan.objects.get().cron == cron


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"frequency": "weekly"}, "Choose at least one day."),
        ({"frequency": "expert", "cron": "soon"}, "write five cron fields"),
        ({"name": ""}, "This field is required."),
        ({"blackout-0-days": ["0"], "blackout-0-start": "08:00"}, "Choose the days, a start and an end"),
        ({"blackout-0-days": list("0123456"), "blackout-0-start": "00:00", "blackout-0-end": "00:00"}, "whole week"),
        ({"keep_weekly": -1}, "greater than or equal to 0"),
        ({"hold": 200, "hold_unit": "3600"}, "Longest hold"),
        ({"readers": 0}, "greater than or equal to 1"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_lost(at_acme: Browser, mistake: dict[str, Any], told: str) -> None:
    page = at_acme.reads_after("plans/new/", **filled_in(keep_count=123, **mistake))
    assert told in page
    assert 'value="123"' in page
    assert not Plan.objects.exists()


def test_a_plan_every_third_week_begins_this_week_unless_told(at_acme: Browser) -> None:
    at_acme.posts("plans/new/", **filled_in(frequency="weekly", weekdays=["5"], every_weeks=3))
    plan = Plan.objects.get()
    assert (plan.every_weeks, plan.first_week) == (3, timezone.now().astimezone(ZoneInfo("Europe/Berlin")).date())
    assert 'value="3"' in at_acme.sees(f"plans/{plan.pk}/")


def test_blackouts_are_rows_of_days_and_times(at_acme: Browser) -> None:
    rows = {"blackout-0-days": ["0", "4"], "blackout-0-start": "08:00", "blackout-0-end": "18:00"}
    rows |= {"blackout-1-start": "", "blackout-1-end": ""}
    at_acme.posts("plans/new/", **filled_in(**rows))
    plan = Plan.objects.get()
    assert plan.blackouts == [{"days": [0, 4], "start": "08:00", "end": "18:00"}]
    page = at_acme.sees(f"plans/{plan.pk}/")
    assert 'value="18:00"' in page
    assert 'name="blackout-2-start"' in page


def test_a_blackout_that_is_emptied_is_gone(at_acme: Browser, ours: World) -> None:
    plan = Plan.objects.get()
    Plan.objects.update(blackouts=[{"days": [0], "start": "08:00", "end": "18:00"}])
    at_acme.posts(f"plans/{plan.pk}/", **filled_in(version=plan.version))
    plan.refresh_from_db()
    assert plan.blackouts == []


def test_how_it_runs_is_saved_with_the_hold_in_its_unit(at_acme: Browser) -> None:
    how = {"metric": "iops", "vapps_whole": "on", "hold": 3, "hold_unit": "3600", "over_budget": "skip"}
    at_acme.posts("plans/new/", **filled_in(**how))
    plan = Plan.objects.get()
    assert (plan.metric, plan.vapps_whole, plan.hold_budget_s, plan.over_budget) == ("iops", True, 10800, "skip")
    page = at_acme.sees(f"plans/{plan.pk}/")
    assert re.search(r'<input[^>]*name="hold"[^>]*value="3"', page) or re.search(r'value="3"[^>]*name="hold"', page)
    assert '<option value="3600" selected>' in page


def test_what_most_people_never_change_is_folded_away(at_acme: Browser, ours: World) -> None:
    page = at_acme.sees("plans/new/")
    assert page.count('<details class="more') == 3
    assert not re.search(r"<details[^>]* open", page)
    Plan.objects.update(keep_weekly=4, readers=8, blackouts=[{"days": [0], "start": "08:00", "end": "18:00"}])
    assert len(re.findall(r"<details[^>]* open", at_acme.sees(f"plans/{ours.ids['plan_id']}/"))) == 3


def test_what_will_be_kept_is_told_by_rule(at_acme: Browser) -> None:
    rules = {"keep_count": 3, "keep_days": 0, "keep_weekly": 4, "keep_monthly": 6, "gfs_weekday": 6}
    page = at_acme.sees("plans/kept/", frequency="daily", at="22:00", time_zone="Europe/Berlin", **rules)
    assert "after 365 starts" in page
    assert re.search(r'Newest <span class="quiet">3<', page)
    assert re.search(r'Weekly <span class="quiet">[45]<', page)
    assert re.search(r'Monthly <span class="quiet">[67]<', page)
    assert "Yearly" not in page
    assert "Complete the schedule" in at_acme.sees("plans/kept/", frequency="weekly", at="22:00", time_zone="UTC")
    by_hand = at_acme.sees("plans/kept/", frequency="hand", time_zone="UTC", keep_count=1, keep_days=0)
    assert "every “Back up now”" in by_hand


def test_stricter_rules_say_first_what_they_delete(at_acme: Browser, ours: World) -> None:
    old = Archive.objects.get()
    Archive.objects.create(**fields_of(old), backup_time=old.backup_time - timedelta(days=40))
    asked = {"plan": ours.ids["plan_id"], "frequency": "hand", "time_zone": "UTC", "keep_days": 0}
    assert "the next run deletes <strong>1</strong>" in at_acme.sees("plans/kept/", keep_count=1, **asked)
    assert "deletes" not in at_acme.sees("plans/kept/", keep_count=2, **asked)
    assert Archive.objects.exclude(state="deleted").count() == 2


def fields_of(archive: Archive) -> dict[str, Any]:
    named = ("tenant", "repository", "vm", "vm_name", "full", "bytes_total", "bytes_read", "bytes_new", "bytes_stored")
    return {name: getattr(archive, name) for name in named}


def test_nothing_is_foretold_of_another_tenants_plan(at_acme: Browser, theirs: World) -> None:
    assert at_acme.client.get(f"{at_acme.base}plans/kept/", {"plan": theirs.ids["plan_id"]}).status_code == 404


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


@pytest.mark.parametrize(
    "cron",
    [
        "", "5 * * * *", "0 22 * * *", "30 6 * * 1,5", "0 22 31 * *", "*/5 1 * 2 *", "0 8-18/2 * * 1-5", "0 */3 * * *",
        "15 22-4 * * 6,0", "0 22 L * *", "0 22 * * 1#1", "0 22 * * L5", "0 22 * * 1#5", "0 22 1 * 1", "0 1-9/5 * * *",
    ],
)  # fmt: skip
def test_controls_and_schedule_say_the_same(cron: str) -> None:
    controls = {"weekdays": [], **decompose(cron)}
    assert compose(controls.pop("frequency"), **controls) == cron


def test_a_schedule_is_told_in_words() -> None:
    assert in_words("30 6 * * 1,5") == "Mon, Fri at 06:30"
    assert in_words("") == "By hand only"
    assert in_words("0 8-18/2 * * 1-5") == "Every 2 hours at :00, 08–18 h, Mon–Fri"
    assert in_words("0 22 * * 1#1") == "Monthly on the first Mon at 22:00"
    assert in_words("0 22 L * *") == "Monthly on the last day at 22:00"
    assert in_words("0 22 * * 5", every_weeks=2) == "Fri at 22:00, every 2 weeks"
    assert in_words("5,35 6 * * *") == "5,35 6 * * *"
