"""What the neighbour puts into forms: under his own tenant, where he may do everything, with ids of ours."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from backups.models import Plan, Recovery, Run, RunItem, VApp, Vm
from tests.portal.test_isolation import ours, theirs
from tests.portal.worlds import World

pytestmark = pytest.mark.django_db
__all__ = ["ours", "theirs"]


@pytest.fixture
def bobs(client: Client, bob: User) -> Client:
    client.force_login(bob)
    return client


def page(name: str, theirs: World, **ids: Any) -> str:
    return reverse(name, kwargs={"tenant_id": theirs.tenant.pk} | ids)


@pytest.mark.parametrize("thing", ["vapp", "vm"])
@pytest.mark.parametrize("name", ["vapps-apply", "vapps-revoke", "vapps-back-up", "vapps-recover"])
def test_nothing_of_ours_can_be_ticked(name: str, thing: str, bobs: Client, ours: World, theirs: World) -> None:
    Run.objects.all().update(state="succeeded")
    ticked = {"plan": theirs.ids["plan_id"], thing: [theirs.ids[f"{thing}_id"], ours.ids[f"{thing}_id"]]}
    assert bobs.post(page(name, theirs), ticked).status_code == 404
    assert VApp.objects.get(pk=ours.ids["vapp_id"]).plan_id == ours.ids["plan_id"]
    assert Vm.objects.get(pk=ours.ids["vm_id"]).plan_id is None
    assert Run.objects.count() == 2


def test_our_plan_cannot_be_applied(bobs: Client, ours: World, theirs: World) -> None:
    body = {"plan": ours.ids["plan_id"], "vapp": theirs.ids["vapp_id"]}
    assert bobs.post(page("vapps-apply", theirs), body).status_code == 404
    assert VApp.objects.get(pk=theirs.ids["vapp_id"]).plan_id == theirs.ids["plan_id"]


def test_his_plan_stays_his(bobs: Client, ours: World, theirs: World) -> None:
    plan = Plan.objects.get(pk=theirs.ids["plan_id"])
    body = {"name": "taken", "tenant": ours.tenant.pk, "repository": plan.repository_id, "version": plan.version}
    body |= {"keep_count": 7, "keep_days": 30, "policy": "name", "batch_size": 0, "readers": 2, "quiesce": "try"}
    body |= {"frequency": "daily", "at": "22:00", "time_zone": "UTC"}
    assert bobs.post(page("plan-edit", theirs, plan_id=plan.pk), body).status_code == 302
    plan.refresh_from_db()
    assert (plan.name, plan.tenant_id) == ("taken", theirs.tenant.pk)


@pytest.mark.parametrize("key", ["run_id", "archive_id"])
def test_our_backups_cannot_be_chosen_for_his_recovery(key: str, bobs: Client, ours: World, theirs: World) -> None:
    """Once by the name of our vApp, once by his own with our backup time."""
    for vapp in ("vapp-of-acme", "vapp-of-globex"):
        body = {"vapp": vapp, "mode": "as_new", "0-point": ours.ids[key], "0-new_name": "loot"}
        answer = bobs.post(page("recover-review", theirs), body)
        assert answer.status_code == 200
        assert "vm-of-acme" not in answer.content.decode()
    assert Recovery.objects.count() == 2


def test_his_own_backup_can_be_recovered(bobs: Client, theirs: World) -> None:
    """Else the test before would pass whatever the page does."""
    body = {"vapp": "vapp-of-globex", "mode": "as_new", "0-point": theirs.ids["run_id"], "0-new_name": "spare"}
    assert bobs.post(page("recover-review", theirs), body).status_code == 302
    assert Recovery.objects.filter(new_name="spare").exists()


@pytest.mark.parametrize("name", ["recover", "archives"])
def test_no_page_is_asked_for_by_our_vm(name: str, bobs: Client, ours: World, theirs: World) -> None:
    assert bobs.get(page(name, theirs), {"vm": ours.ids["vm_id"]}).status_code == 404


def test_a_search_finds_nothing_of_ours(bobs: Client, ours: World, theirs: World) -> None:
    for name in ("vapps", "archives", "recoveries"):
        told = bobs.get(page(name, theirs), {"q": "of-"}).content.decode()
        assert "of-globex" in told
        assert "of-acme" not in told


def test_an_item_of_ours_is_not_raised_under_his_run(bobs: Client, ours: World, theirs: World) -> None:
    RunItem.objects.update(state="waiting")
    ids = {"run_id": theirs.ids["run_id"], "item_id": ours.ids["item_id"]}
    assert bobs.post(page("run-item-raise", theirs, **ids)).status_code == 404
    assert bobs.post(page("run-item-raise", theirs, **ids | {"item_id": theirs.ids["item_id"]})).status_code == 302
    assert {item.raised for item in RunItem.objects.filter(tenant=ours.tenant)} == {0}
