"""What programs see of runs, and how they steer them."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from backups.models import Run, RunItem, Vm
from portal.models import ApiToken
from tests.portal.worlds import World, shared

pytestmark = [pytest.mark.database, pytest.mark.django_db]


@pytest.fixture
def api(client: Client, ours: World, alice: User) -> Any:
    """Calls as Alice's token: api("post", "runs/", {...}, Idempotency_Key=...)."""
    _, token = ApiToken.objects.create(user=alice, tenant=ours.tenant, role="admin", name="t", expiry=timedelta(days=1))

    def call(method: str, path: str, body: Any = None, **extra: str) -> Any:
        headers = {"Authorization": f"Bearer {token}"} | {name.replace("_", "-"): text for name, text in extra.items()}
        path = f"/api/v1/tenants/{ours.tenant.pk}/{path}"
        return getattr(client, method)(path, body, content_type="application/json", headers=headers)

    return call


@pytest.fixture
def here(ours: World) -> str:
    return f"runs/{ours.ids['run_id']}/"


def add_item(ours: World, name: str, **fields: Any) -> RunItem:
    vcenter, _ = shared()
    vm = Vm.objects.create(vcenter=vcenter, tenant=ours.tenant, instance_uuid=name, ref=name, name=name)
    made: RunItem = Run.objects.get().items.create(
        tenant=ours.tenant, vm=vm, vm_name=name, **{"state": "waiting"} | fields
    )
    return made


def test_a_run_is_paused_and_resumed(api: Any, here: str) -> None:
    paused, repeat = (api("post", f"{here}pause/", Idempotency_Key="p") for _ in range(2))
    assert (paused.status_code, paused.json()["paused_at"] is None) == (202, False)
    assert paused.headers["Location"].endswith(here)
    assert (repeat.status_code, repeat.json()) == (202, paused.json())
    assert api("post", f"{here}pause/").status_code == 409
    resumed = api("post", f"{here}resume/")
    assert (resumed.status_code, resumed.json()["paused_at"]) == (202, None)


def test_a_retry_is_a_run_of_its_own_and_starts_once(api: Any, here: str, ours: World) -> None:
    assert api("post", f"{here}retry/").status_code == 409
    RunItem.objects.update(state="failed", finished_at=timezone.now())
    Run.objects.update(state="failed")
    first, repeat = (api("post", f"{here}retry/", Idempotency_Key="k") for _ in range(2))
    assert first.status_code == repeat.status_code == 202
    assert first.headers["Location"] == repeat.headers["Location"]
    again = Run.objects.exclude(pk=ours.ids["run_id"]).get()
    assert str(again.pk) in first.headers["Location"]
    assert first.json()["retry_of"] == str(ours.ids["run_id"])


def test_a_vm_is_raised(api: Any, here: str, ours: World) -> None:
    item = add_item(ours, "web")
    answer = api("post", f"{here}items/{item.pk}/raise/")
    assert (answer.status_code, answer.json()["raised"]) == (202, 1)
    assert api("post", f"{here}items/{ours.ids['item_id']}/raise/").status_code == 409


def test_a_run_starts_at_a_common_time(api: Any, ours: World) -> None:
    Run.objects.update(state="succeeded")
    path = f"plans/{ours.ids['plan_id']}/runs/"
    at = timezone.now() + timedelta(hours=2)
    answer = api("post", path, {"common_time": at.isoformat()})
    assert answer.status_code == 202
    assert Run.objects.get(pk=answer.json()["id"]).common_time == at
    Run.objects.update(state="succeeded")
    late = api("post", path, {"common_time": (at + timedelta(days=9)).isoformat()})
    assert late.status_code == 422
    assert "seven days" in late.json()["detail"]


def test_a_run_tells_its_report_and_its_forecast_without_every_vm(api: Any, here: str, ours: World) -> None:
    totals = {"exposure_kb": 20.0, "bound_kb": 10.0, "window_s": 9.0, "longest_hold_s": 7.0, "batches": 1}
    vms = {str(ours.ids["item_id"]): {"hold_s": 61.5, "growth_kb": 3072.0}}
    Run.objects.update(forecast={**totals, "vms": vms}, report={"exposure_kb": 12})
    told = api("get", here).json()
    assert (told["forecast"], told["report"]) == (totals, {"exposure_kb": 12})
    assert "forecast" not in api("get", "runs/").json()["results"][0]
    (item,) = api("get", f"{here}items/").json()["results"]
    assert (item["forecast_hold_s"], item["forecast_growth_kb"]) == (61.5, 3072.0)


def test_an_item_tells_its_skew_against_its_batch(api: Any, here: str, ours: World) -> None:
    now = timezone.now()
    for number, (batch, late_ms) in enumerate(((1, 0), (1, 120), (2, 90_000), (2, 90_040))):
        add_item(ours, f"b{number}", batch=batch, snapshot_at=now + timedelta(milliseconds=late_ms))
    found = {item["vm_name"]: item["skew_ms"] for item in api("get", f"{here}items/?state=waiting").json()["results"]}
    assert found == {"b0": 0, "b1": 120, "b2": 0, "b3": 40}


def test_items_take_as_many_queries_however_many_they_are(api: Any, here: str, ours: World) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert api("get", f"{here}items/").status_code == 200
        return len(queries)

    api("get", f"{here}items/")
    before = count()
    for number in range(4):
        add_item(ours, f"web {number}", archive_id=ours.ids["archive_id"])
    assert count() == before
