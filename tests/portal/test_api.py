"""Programs do what people do, over the same services. Alice's token administers Acme, Olivia's operates it."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client

from backups.models import Plan, Recovery, Repository, Role, Run, Tenant, VApp, VCenter, Vm
from backups.services.plans import apply_plan
from portal.models import ApiToken

pytestmark = pytest.mark.django_db


def bearer(user: User, tenant: Tenant | None, role: str = Role.ADMIN) -> dict[str, str]:
    _, token = ApiToken.objects.create(user=user, tenant=tenant, role=role, name="test", expiry=timedelta(days=1))
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def repository(db: None) -> Repository:
    return Repository.objects.create(name="Folder", path="/srv/backups")


@pytest.fixture
def shop(acme: Tenant) -> VApp:
    vcenter = VCenter.objects.create(name="vc", host="vc", username="u", sealed_password=b"", certificate_pem="-")
    shop = VApp.objects.create(vcenter=vcenter, tenant=acme, ref="vapp-1", name="shop")
    Vm.objects.create(vcenter=vcenter, tenant=acme, vapp=shop, instance_uuid="1", ref="vm-1", name="shop-db")
    return shop


@pytest.fixture
def api(client: Client, acme: Tenant, alice: User) -> Any:
    """Calls as Alice's token: api("post", "plans/", {...}, If_Match=...)."""
    headers = bearer(alice, acme)

    def call(method: str, path: str, body: Any = None, **extra: str) -> Any:
        more = {name.replace("_", "-"): value for name, value in extra.items()}
        return getattr(client, method)(
            f"/api/v1/tenants/{acme.pk}/{path}", body, content_type="application/json", headers=headers | more
        )

    return call


@pytest.fixture
def plan(api: Any, repository: Repository) -> Plan:
    made = api("post", "plans/", {"name": "Nightly", "cron": "0 22 * * *", "repository": str(repository.pk)})
    assert made.status_code == 201, made.json()
    return Plan.objects.get(pk=made.json()["id"])


def test_a_plan_is_made_and_found_at_its_location(api: Any, plan: Plan, client: Client) -> None:
    listed = api("get", "plans/").json()["results"]
    assert [row["name"] for row in listed] == ["Nightly"]
    assert api("get", f"plans/{plan.pk}/").json()["next_start_at"] is not None


def test_a_bad_schedule_is_a_problem_with_a_sentence(api: Any, repository: Repository) -> None:
    answer = api("post", "plans/", {"name": "X", "cron": "soon", "repository": str(repository.pk)})
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "invalid_request"
    assert "five cron fields" in answer.json()["detail"]


def test_a_body_that_is_no_plan_says_which_field(api: Any) -> None:
    answer = api("post", "plans/", {"name": "X"})
    assert answer.status_code == 400
    assert "repository" in answer.json()["by_field"]


@pytest.mark.parametrize(
    "path", ["plans/?name=%00", "recovery-points/?vapp_name=%00", "runs/?state=gone", "vms/?vapp=1"]
)
def test_a_bad_filter_is_told(api: Any, path: str) -> None:
    assert api("get", path).status_code == 400


def test_a_change_without_if_match_is_refused(api: Any, plan: Plan) -> None:
    assert api("patch", f"plans/{plan.pk}/", {"readers": 4}).status_code == 428


def test_a_stale_change_is_refused_and_overwrites_nothing(api: Any, plan: Plan) -> None:
    etag = api("get", f"plans/{plan.pk}/").headers["ETag"]
    assert api("patch", f"plans/{plan.pk}/", {"readers": 4}, If_Match=etag).status_code == 200
    assert api("patch", f"plans/{plan.pk}/", {"readers": 8}, If_Match=etag).status_code == 412
    plan.refresh_from_db()
    assert plan.readers == 4


def test_an_unchanged_plan_is_not_sent_again(api: Any, plan: Plan) -> None:
    etag = api("get", f"plans/{plan.pk}/").headers["ETag"]
    assert api("get", f"plans/{plan.pk}/", If_None_Match=etag).status_code == 304


def test_apply_then_back_up_now_gives_a_run_to_follow(api: Any, plan: Plan, shop: VApp, client: Client) -> None:
    assert api("post", f"plans/{plan.pk}/apply/", {"vapps": [str(shop.pk)]}).status_code == 204
    started = api("post", f"plans/{plan.pk}/runs/", {})
    assert started.status_code == 202
    run_path = started.headers["Location"].rpartition("/runs/")[2]
    assert api("get", f"runs/{run_path}").json()["state"] == "queued"
    items = api("get", f"runs/{run_path}items/").json()["results"]
    assert [item["vm_name"] for item in items] == ["shop-db"]


def test_a_plan_without_vms_cannot_run_and_says_why(api: Any, plan: Plan) -> None:
    answer = api("post", f"plans/{plan.pk}/runs/", {})
    assert answer.status_code == 422
    assert "apply it to a vApp" in answer.json()["detail"]


def test_a_repeated_start_with_one_key_starts_one_run(api: Any, plan: Plan, shop: VApp) -> None:
    apply_plan(None, plan, vapps=[shop])
    first = api("post", f"plans/{plan.pk}/runs/", {}, Idempotency_Key="k1")
    again = api("post", f"plans/{plan.pk}/runs/", {}, Idempotency_Key="k1")
    assert again.status_code == 202
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert Run.objects.count() == 1


def test_a_key_used_for_another_request_is_refused(api: Any, plan: Plan, shop: VApp) -> None:
    apply_plan(None, plan, vapps=[shop])
    api("post", f"plans/{plan.pk}/runs/", {}, Idempotency_Key="k1")
    other = api("post", f"plans/{plan.pk}/runs/", {"vms": []}, Idempotency_Key="k1")
    assert other.status_code == 409


def test_a_failed_start_keeps_no_key(api: Any, plan: Plan, shop: VApp) -> None:
    assert api("post", f"plans/{plan.pk}/runs/", {}, Idempotency_Key="k1").status_code == 422
    apply_plan(None, plan, vapps=[shop])
    assert api("post", f"plans/{plan.pk}/runs/", {}, Idempotency_Key="k1").status_code == 202


def test_a_run_is_cancelled(api: Any, plan: Plan, shop: VApp) -> None:
    apply_plan(None, plan, vapps=[shop])
    run = api("post", f"plans/{plan.pk}/runs/", {}).json()["id"]
    assert api("post", f"runs/{run}/cancel/", {"mode": "now"}).json()["cancel"] == "now"


def test_nobody_is_told_to_sign_in(client: Client, acme: Tenant) -> None:
    answer = client.get(f"/api/v1/tenants/{acme.pk}/plans/")
    assert answer.status_code == 401
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_session_works_and_needs_the_csrf_token_to_write(acme: Tenant, alice: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    path = f"/api/v1/tenants/{acme.pk}/plans/"
    assert client.get(path).status_code == 200
    refused = client.post(path, {}, content_type="application/json")
    assert (refused.status_code, "CSRF" in refused.json()["detail"]) == (403, True)


def test_an_expired_token_opens_nothing(client: Client, acme: Tenant, alice: User) -> None:
    _, token = ApiToken.objects.create(user=alice, tenant=acme, role="admin", expiry=timedelta(seconds=-1), name="old")
    answer = client.get(f"/api/v1/tenants/{acme.pk}/plans/", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401


def test_a_token_never_allows_more_than_its_role(client: Client, acme: Tenant, alice: User, plan: Plan) -> None:
    headers = bearer(alice, acme, Role.VIEWER)
    path = f"/api/v1/tenants/{acme.pk}/plans/{plan.pk}/"
    assert client.get(path, headers=headers).status_code == 200
    assert client.delete(path, headers=headers).status_code == 403


def test_a_token_never_allows_more_than_its_user(client: Client, acme: Tenant, charlie: User, plan: Plan) -> None:
    headers = bearer(charlie, acme, Role.ADMIN)
    assert client.delete(f"/api/v1/tenants/{acme.pk}/plans/{plan.pk}/", headers=headers).status_code == 403


def test_a_token_of_one_tenant_opens_no_other(
    client: Client, acme: Tenant, globex: Tenant, alice: User, peggy: User
) -> None:
    headers = bearer(peggy, acme)
    assert client.get(f"/api/v1/tenants/{acme.pk}/plans/", headers=headers).status_code == 200
    assert client.get(f"/api/v1/tenants/{globex.pk}/plans/", headers=headers).status_code == 404
    assert client.get("/api/v1/provider/tenants/", headers=headers).status_code == 404


def test_the_provider_area_is_the_providers(client: Client, alice: User, acme: Tenant, peggy: User) -> None:
    assert client.get("/api/v1/provider/tenants/", headers=bearer(alice, None)).status_code == 404
    listed = client.get("/api/v1/provider/tenants/", headers=bearer(peggy, None))
    assert [row["name"] for row in listed.json()["results"]] == ["Acme"]


def test_recovery_in_place_needs_an_administrator(client: Client, acme: Tenant, olivia: User) -> None:
    body = {"archives": [str(uuid4())], "mode": "in_place"}
    path = f"/api/v1/tenants/{acme.pk}/recoveries/"
    answer = client.post(path, body, content_type="application/json", headers=bearer(olivia, acme))
    assert answer.status_code == 403
    as_new = client.post(path, body | {"mode": "as_new"}, content_type="application/json", headers=bearer(olivia, acme))
    assert as_new.status_code == 422


def test_a_recovery_in_place_is_cancelled_by_an_administrator_only(
    client: Client, acme: Tenant, alice: User, olivia: User, shop: VApp
) -> None:
    recovery = Recovery.objects.create(tenant=acme, vcenter=shop.vcenter, mode="in_place")
    path = f"/api/v1/tenants/{acme.pk}/recoveries/{recovery.pk}/cancel/"
    assert client.post(path, headers=bearer(olivia, acme)).status_code == 403
    assert client.post(path, headers=bearer(alice, acme, Role.OPERATOR)).status_code == 403
    assert client.post(path, headers=bearer(alice, acme)).status_code == 202


def test_no_secret_leaves_with_a_vcenter(client: Client, peggy: User, shop: VApp) -> None:
    body = client.get("/api/v1/provider/vcenters/", headers=bearer(peggy, None)).content.decode()
    assert "password" not in body
    assert "certificate" not in body


def test_a_vcenter_that_does_not_answer_is_a_problem_with_a_sentence(client: Client, peggy: User) -> None:
    body = {"host": "127.0.0.1", "port": 1}
    answer = client.post(
        "/api/v1/provider/vcenters/certificate/", body, content_type="application/json", headers=bearer(peggy, None)
    )
    assert answer.status_code == 503
    assert "127.0.0.1" in answer.json()["detail"]


def test_the_document_is_there_for_all(client: Client) -> None:
    assert client.get("/api/v1/schema/").status_code == 200
    page = client.get("/api/v1/docs/")
    assert page.status_code == 200
    assert "unsafe-inline" not in page.headers["Content-Security-Policy"].partition("script-src")[2].partition(";")[0]


def test_the_providers_token_is_made_by_command(client: Client, acme: Tenant, peggy: User, capsys: Any) -> None:
    call_command("createtoken", "peggy")
    headers = {"Authorization": f"Bearer {capsys.readouterr().out.strip()}"}
    assert client.get("/api/v1/provider/tenants/", headers=headers).status_code == 200


def test_no_token_of_the_provider_is_made_for_others(acme: Tenant, alice: User) -> None:
    with pytest.raises(CommandError, match="not provider staff"):
        call_command("createtoken", "alice")
