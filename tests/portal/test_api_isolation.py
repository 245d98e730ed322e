"""Programs get in no further than people do. Each token here belongs to one tenant, and has a role of its own."""

from datetime import timedelta
from itertools import product
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client

from backups.models import Membership, Plan, Recovery, Role, Run, Tenant, VApp, Vm
from portal.access import RANK
from portal.models import ApiToken
from tests.portal.may import MAY
from tests.portal.test_isolation import OBJECT_ROUTES, TENANT_ROUTES, Route, each
from tests.portal.worlds import World, build

pytestmark = pytest.mark.django_db
API_ROUTES = [route for route in TENANT_ROUTES if route.path.startswith("/api/")]
API_OBJECT_ROUTES = [route for route in OBJECT_ROUTES if route.path.startswith("/api/")]
METHODS = ("get", "post", "patch", "delete")


@pytest.fixture
def ours(acme: Tenant, alice: User) -> World:
    return build(acme, alice)


@pytest.fixture
def theirs(globex: Tenant, bob: User) -> World:
    return build(globex, bob)


def send(
    client: Client, method: str, url: str, user: User, tenant: Tenant, role: str = "admin", body: Any = None
) -> Any:
    _, token = ApiToken.objects.create(user=user, tenant=tenant, role=role, name="t", expiry=timedelta(days=1))
    headers = {"Authorization": f"Bearer {token}"}
    if method == "get":
        return client.get(url, headers=headers)
    return getattr(client, method)(url, body or {}, content_type="application/json", headers=headers)


@each(API_ROUTES)
def test_the_owners_token_is_let_in(route: Route, client: Client, ours: World, alice: User, acme: Tenant) -> None:
    assert send(client, "get", route.url(ours.ids), alice, acme).status_code not in (401, 403, 404)


@each(API_ROUTES)
def test_a_strangers_token_finds_nothing(route: Route, client: Client, ours: World, bob: User, globex: Tenant) -> None:
    for method in METHODS:
        assert send(client, method, route.url(ours.ids), bob, globex).status_code == 404, method


@each(API_ROUTES)
def test_a_token_of_another_tenant_finds_nothing_though_its_user_may_enter(
    route: Route, client: Client, ours: World, bob: User, acme: Tenant, globex: Tenant
) -> None:
    Membership.objects.create(user=bob, tenant=acme, role=Role.ADMIN)
    for method in METHODS:
        assert send(client, method, route.url(ours.ids), bob, globex).status_code == 404, method


@each(API_OBJECT_ROUTES)
def test_a_strangers_token_finds_nothing_of_ours_under_his_own_tenant(
    route: Route, client: Client, ours: World, theirs: World, bob: User, globex: Tenant
) -> None:
    for method in METHODS:
        answer = send(client, method, route.url(ours.ids | {"tenant_id": globex.pk}), bob, globex)
        if answer.status_code == 200:
            assert answer.json()["results"] == []
        else:
            assert answer.status_code in (404, 405), method
            assert "acme" not in answer.content.decode().lower()


@each(API_ROUTES)
def test_a_token_may_what_the_table_says_of_its_role(
    route: Route, client: Client, ours: World, alice: User, acme: Tenant
) -> None:
    """Alice is an administrator, whatever she gave the token."""
    for method, role in product(METHODS, Role.values):
        needed = MAY[route.name][0 if method == "get" else 1]
        status = send(client, method, route.url(ours.ids), alice, acme, role).status_code
        if needed is None:
            assert status in (403, 405), (method, role)
        elif RANK[Role(role)] < RANK[needed]:
            assert status == 403, (method, role)
        else:
            assert status != 403, (method, role)


@each(API_ROUTES)
def test_without_a_token_there_is_nothing(route: Route, client: Client, ours: World) -> None:
    for method in METHODS:
        options = {} if method == "get" else {"content_type": "application/json"}
        assert getattr(client, method)(route.url(ours.ids), **options).status_code == 401, method


def test_a_plan_is_not_applied_to_the_neighbours_things(
    client: Client, ours: World, theirs: World, bob: User, globex: Tenant
) -> None:
    path = f"/api/v1/tenants/{globex.pk}/plans/{theirs.ids['plan_id']}/apply/"
    for body in ({"vapps": [str(ours.ids["vapp_id"])]}, {"vms": [str(ours.ids["vm_id"])]}):
        assert send(client, "post", path, bob, globex, body=body).status_code == 422
    assert VApp.objects.get(pk=ours.ids["vapp_id"]).plan_id == ours.ids["plan_id"]
    assert Vm.objects.get(pk=ours.ids["vm_id"]).plan_id is None


def test_a_plan_is_not_revoked_from_the_neighbours_things(
    client: Client, ours: World, theirs: World, bob: User, globex: Tenant
) -> None:
    body = {"vapps": [str(ours.ids["vapp_id"])]}
    assert send(client, "post", f"/api/v1/tenants/{globex.pk}/revoke/", bob, globex, body=body).status_code == 422
    assert VApp.objects.get(pk=ours.ids["vapp_id"]).plan_id == ours.ids["plan_id"]


def test_the_neighbours_vms_are_not_backed_up(
    client: Client, ours: World, theirs: World, bob: User, globex: Tenant
) -> None:
    Run.objects.all().update(state="succeeded")
    path = f"/api/v1/tenants/{globex.pk}/plans/{theirs.ids['plan_id']}/runs/"
    answer = send(client, "post", path, bob, globex, body={"vms": [str(ours.ids["vm_id"])]})
    assert answer.status_code == 422
    assert Run.objects.count() == 2


def test_the_neighbours_archives_are_not_recovered(
    client: Client, ours: World, theirs: World, bob: User, globex: Tenant
) -> None:
    path = f"/api/v1/tenants/{globex.pk}/recoveries/"
    body = {"archives": [str(ours.ids["archive_id"])], "mode": "as_new", "new_name": "loot"}
    assert send(client, "post", path, bob, globex, body=body).status_code == 422
    mixed = body | {"archives": [str(theirs.ids["archive_id"]), str(ours.ids["archive_id"])]}
    assert send(client, "post", path, bob, globex, body=mixed).status_code == 422
    assert Recovery.objects.count() == 2


def test_a_plan_stays_with_its_tenant(client: Client, theirs: World, bob: User, acme: Tenant, globex: Tenant) -> None:
    plan = Plan.objects.get(pk=theirs.ids["plan_id"])
    _, token = ApiToken.objects.create(user=bob, tenant=globex, role="admin", name="t", expiry=timedelta(days=1))
    headers = {"Authorization": f"Bearer {token}", "If-Match": f'"{plan.version}"'}
    path = f"/api/v1/tenants/{globex.pk}/plans/{plan.pk}/"
    client.patch(path, {"tenant": str(acme.pk), "readers": 3}, content_type="application/json", headers=headers)
    plan.refresh_from_db()
    assert (plan.tenant_id, plan.readers) == (globex.pk, 3)


@pytest.mark.parametrize(("path", "name", "parameter"), [
    ("archives", "vm", "vm_id"), ("archives", "run", "run_id"), ("vms", "vapp", "vapp_id"),
    ("vapps", "plan", "plan_id"), ("runs", "plan", "plan_id"),
])  # fmt: skip
def test_a_filter_does_not_tell_whether_the_neighbour_has_such_a_row(
    path: str, name: str, parameter: str, client: Client, ours: World, theirs: World, bob: User, globex: Tenant
) -> None:
    url = f"/api/v1/tenants/{globex.pk}/{path}/?{name}="
    mine, foreign, unknown = (
        send(client, "get", f"{url}{id}", bob, globex) for id in (theirs.ids[parameter], ours.ids[parameter], uuid4())
    )
    assert len(mine.json()["results"]) == 1
    assert foreign.status_code == unknown.status_code == 200
    assert foreign.json() == unknown.json()
