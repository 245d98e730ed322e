"""What the forecast of a plan says, on its page and to programs."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from backups.models import Datastore, Plan, Run, Vm
from portal.models import ApiToken
from tests.portal.conftest import Browser
from tests.portal.worlds import World, shared

pytestmark = [pytest.mark.database, pytest.mark.django_db]
GB = 2**30


def add_vms(ours: World, *kbps: float, gigabytes: int = 10) -> None:
    vcenter, _ = shared()
    first = Vm.objects.count()
    for number, write_kbps in enumerate(kbps, start=first):
        Vm.objects.create(
            vcenter=vcenter, tenant=ours.tenant, plan_id=ours.ids["plan_id"], instance_uuid=f"f{number}",
            ref=f"f{number}", name=f"f{number:04}", write_kbps=write_kbps, powered_on=True, datastore="ds1",
            host="esx1", capacity_bytes=gigabytes * GB,
        )  # fmt: skip


@pytest.fixture
def here(ours: World) -> str:
    Vm.objects.update(powered_on=False)
    Plan.objects.update(policy="name", readers=1)
    return f"plans/{ours.ids['plan_id']}/forecast/"


def test_it_says_what_the_plan_costs_and_what_would_be_better(at_acme: Browser, ours: World, here: str) -> None:
    add_vms(ours, 10, 200, 3000)
    page = at_acme.sees(here)
    assert "above the least possible" in page
    assert "would let them grow by" in page
    assert page.count("this plan") == 1
    assert page.index("Least disturbance</a>") < page.index("By name</a>"), "the least growth comes first"
    assert "f0003" in page


def test_a_plan_that_orders_well_is_told_so(at_acme: Browser, ours: World, here: str) -> None:
    add_vms(ours, 10, 200, 3000)
    Plan.objects.update(policy="least_disturbance")
    assert "No other order or batch size does noticeably better with 1 reader." in at_acme.sees(here)


def test_options_are_tried_and_nothing_is_saved(at_acme: Browser, ours: World, here: str) -> None:
    add_vms(ours, *[100 * number for number in range(1, 12)])
    page = at_acme.sees(here, policy="highest_load", readers=4, batch_size=3, hold_minutes=90)
    assert "The plan as it is saved:" in page
    assert " % less." in page
    assert "your try" in page
    assert "3 at a time" in page
    plan = Plan.objects.get()
    assert (plan.policy, plan.readers, plan.batch_size, plan.hold_budget_s) == ("name", 1, 0, 0)


@pytest.mark.parametrize("wrong", [{"readers": "many"}, {"policy": "luck"}, {"batch_size": -1}, {"readers": 0}])
def test_a_mistake_is_told_and_the_plan_foreseen_as_it_is(
    at_acme: Browser, ours: World, here: str, wrong: dict[str, Any]
) -> None:
    add_vms(ours, 10, 20)
    page = at_acme.sees(here, **wrong)
    assert "field-error" in page
    assert "this plan" in page


def test_a_change_in_the_form_fetches_only_what_is_told(at_acme: Browser, ours: World, here: str) -> None:
    add_vms(ours, 10)
    part = at_acme.client.get(at_acme.base + here, {"readers": 2}, headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in part
    assert "What there is to choose from" in part


def test_a_datastore_without_room_is_told_with_its_reason(at_acme: Browser, ours: World, here: str) -> None:
    add_vms(ours, 3000, 2000)
    vcenter, _ = shared()
    Datastore.objects.create(
        vcenter=vcenter, name="ds1", capacity_bytes=100 * GB, free_bytes=10 * GB, measured_at=timezone.now()
    )
    page = at_acme.sees(here)
    assert "2 left out" in page
    assert "Free some space." in page


def test_free_room_is_told_beside_the_peak(at_acme: Browser, ours: World, here: str) -> None:
    add_vms(ours, 10)
    vcenter, _ = shared()
    Datastore.objects.create(
        vcenter=vcenter, name="ds1", capacity_bytes=100 * GB, free_bytes=60 * GB, measured_at=timezone.now()
    )
    page = at_acme.sees(here)
    assert "of 50.0 GB" in page, "the reserve is left alone"


def test_a_plan_of_nothing_says_what_to_do(at_acme: Browser, ours: World) -> None:
    plan = Plan.objects.create(tenant=ours.tenant, name="Empty", repository=shared()[1])
    page = at_acme.sees(f"plans/{plan.pk}/forecast/")
    assert "protects no VMs" in page


def test_the_plans_list_leads_to_it(as_charlie: Browser, ours: World, here: str) -> None:
    assert f"/{here}" in as_charlie.sees("plans/")
    assert "Change plan" not in as_charlie.sees(here)


def test_it_asks_the_database_no_more_for_more_vms(at_acme: Browser, ours: World, here: str) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert at_acme.sees(here, policy="highest_load")
        return len(queries)

    add_vms(ours, 10, 20, 30, 40)
    before = count()
    add_vms(ours, *range(50))
    assert count() <= before <= 40


def test_programs_read_the_same(client: Client, ours: World, alice: User, here: str) -> None:
    add_vms(ours, 10, 200, 3000)
    _, token = ApiToken.objects.create(user=alice, tenant=ours.tenant, role="viewer", name="t", expiry=timedelta(1))
    headers = {"Authorization": f"Bearer {token}"}
    path = f"/api/v1/tenants/{ours.tenant.pk}/{here}"
    told = client.get(path, {"readers": 2}, headers=headers).json()
    assert told["own"]["readers"] == 2
    assert {vm["name"] for vm in told["vms"]} >= {"f0001", "f0002", "f0003"}
    assert told["own"]["bound_kb"] <= told["own"]["exposure_kb"]
    costs = [other["exposure_kb"] for other in told["others"]]
    assert costs == sorted(costs)
    assert len(costs) <= 12
    assert client.get(path, {"readers": 0}, headers=headers).status_code == 400
    assert not Run.objects.exclude(pk=ours.ids["run_id"]).exists()
