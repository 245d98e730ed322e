"""Nobody gets in. The walk goes over the project's own URL patterns, so that a new route cannot be forgotten."""

import re
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from backups.models import Role, Tenant
from portal.access import RANK, Access
from tests.portal.may import MAY
from tests.portal.worlds import World, build

pytestmark = pytest.mark.django_db
REFUSED = (401, 403, 404)


class Route(NamedTuple):
    path: str
    name: str
    parameters: tuple[str, ...]
    access: Access | None

    def url(self, ids: dict[str, Any]) -> str:
        return re.sub(r"<uuid:(\w+)>", lambda match: str(ids[match[1]]), self.path)


def routes(patterns: Any = None, prefix: str = "/") -> Iterator[Route]:
    for pattern in patterns if patterns is not None else get_resolver().url_patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, path)
        elif isinstance(pattern, URLPattern):
            view = pattern.callback
            access = getattr(view, "access", None) or getattr(getattr(view, "cls", None), "access", None)
            yield Route(path, pattern.name or path, tuple(re.findall(r"<\w+:(\w+)>", path)), access)


ROUTES = list(routes())
TENANT_ROUTES = [route for route in ROUTES if route.access and route.access.kind == "tenant"]
OBJECT_ROUTES = [route for route in TENANT_ROUTES if len(route.parameters) > 1]
PROVIDER_ROUTES = [route for route in ROUTES if route.access and route.access.kind == "provider"]
ACCOUNT_ROUTES = [route for route in ROUTES if route.access and route.access.kind == "account"]
LISTS = {
    "dashboard": "plan", "plans": "plan", "vapps": "vapp", "runs": "plan", "run-report": "vm", "archives": "vm",
    "recoveries": "vapp", "tokens": "token", "audit": "audit", "api-plans": "plan", "api-vapps": "vapp",
    "api-vms": "vm", "api-runs": "plan", "api-run-items": "vm", "api-archives": "vm", "api-recoveries": "vapp",
    "api-audit": "audit",
}  # fmt: skip
"""What of his own a tenant's member must find there: a list that is empty hides a leak."""
METHODS = ("get", "post")


def each(chosen: list[Route]) -> Any:
    return pytest.mark.parametrize("route", chosen, ids=lambda route: route.name)


@pytest.fixture
def ours(acme: Tenant, alice: User) -> World:
    return build(acme, alice)


@pytest.fixture
def theirs(globex: Tenant, bob: User) -> World:
    return build(globex, bob)


def ask(client: Client, method: str, url: str) -> Any:
    if method == "post":
        return client.post(
            url, {}, content_type="application/json" if "/api/" in url else "multipart/form-data; boundary=x"
        )
    return client.get(url)


@each(ROUTES)
def test_every_route_says_who_may_enter(route: Route) -> None:
    assert route.access is not None, f"{route.path} has no access decorator"
    in_tenant = "tenant_id" in route.parameters
    assert in_tenant == (route.access.kind == "tenant") or route.access.kind == "provider"


@each(TENANT_ROUTES)
def test_every_tenant_route_has_its_line_in_the_table(route: Route) -> None:
    assert route.access
    assert (route.access.read, route.access.write) == MAY[route.name]


@each(TENANT_ROUTES)
def test_the_owner_is_let_in(route: Route, client: Client, ours: World, alice: User) -> None:
    client.force_login(alice)
    assert client.get(route.url(ours.ids)).status_code not in REFUSED


@each(TENANT_ROUTES)
def test_a_stranger_finds_nothing(route: Route, client: Client, ours: World, bob: User) -> None:
    client.force_login(bob)
    for method in METHODS:
        assert ask(client, method, route.url(ours.ids)).status_code == 404, method


@each(OBJECT_ROUTES)
def test_a_stranger_finds_nothing_of_ours_under_his_own_tenant(
    route: Route, client: Client, ours: World, theirs: World, bob: User
) -> None:
    client.force_login(bob)
    for method in METHODS:
        answer = ask(client, method, route.url(ours.ids | {"tenant_id": theirs.tenant.pk}))
        cannot_be_done = method == "post" and MAY[route.name][1] is None
        assert answer.status_code in ((403, 405) if cannot_be_done else (404, 405)), method


@each(TENANT_ROUTES + PROVIDER_ROUTES + ACCOUNT_ROUTES)
def test_nobody_is_sent_to_the_login(route: Route, client: Client, ours: World) -> None:
    for method in METHODS:
        answer = ask(client, method, route.url(ours.ids))
        sent_away = answer.status_code == 302 and answer.headers["Location"].startswith("/login/")
        assert sent_away or answer.status_code in (401, 403), method


@each(TENANT_ROUTES)
def test_a_role_may_what_the_table_says(route: Route, client: Client, ours: World) -> None:
    for role, method in product(Role.values, METHODS):
        member, _ = User.objects.get_or_create(username=role)
        ours.tenant.memberships.get_or_create(user=member, role=role)
        client.force_login(member)
        needed = MAY[route.name][0 if method == "get" else 1]
        status = ask(client, method, route.url(ours.ids)).status_code
        if needed is None:
            assert status in (403, 405), (role, method)
        elif RANK[Role(role)] < RANK[needed]:
            assert status == 403, (role, method)
        else:
            assert status != 403, (role, method)


@each(PROVIDER_ROUTES)
def test_the_provider_area_is_nothing_to_a_tenants_administrator(
    route: Route, client: Client, ours: World, alice: User
) -> None:
    client.force_login(alice)
    for method in METHODS:
        assert ask(client, method, route.url(ours.ids)).status_code == 404, method


@each(PROVIDER_ROUTES)
def test_provider_staff_are_let_in(route: Route, client: Client, ours: World, peggy: User) -> None:
    client.force_login(peggy)
    assert client.get(route.url(ours.ids)).status_code not in REFUSED


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume asynchronous iterators")
@each([route for route in TENANT_ROUTES + ACCOUNT_ROUTES if "events" not in route.name])
def test_no_page_shows_the_neighbours_names(
    route: Route, client: Client, ours: World, theirs: World, bob: User
) -> None:
    client.force_login(bob)
    told = b"".join(client.get(route.url(theirs.ids), follow=True)).decode().lower()
    assert "acme" not in told
    assert route.name not in LISTS or f"{LISTS[route.name]}-of-globex" in told
