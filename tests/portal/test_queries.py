"""A page with many rows asks the database no more often than a page with one."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from backups.models import Datastore, Membership, Plan, Run, Tenant, VApp, Vm
from backups.services import audit
from backups.services.tenants import create_tenant
from portal.models import ApiToken
from tests.portal import worlds
from tests.portal.worlds import World

pytestmark = [pytest.mark.database, pytest.mark.django_db]
MOST = 30
LISTS = ("", "plans/", "vapps/", "runs/", "archives/", "recoveries/", "tokens/", "audit/")
PROVIDER_LISTS = ("", "tenants/", "vcenters/", "assignments/", "repositories/", "runs/", "snapshots/", "audit/")


def count(client: Client, path: str) -> int:
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert client.get(path).status_code == 200
    return len(queries)


def grow(tenant: Tenant, user: User, number: int) -> None:
    """One more of everything."""
    vcenter, repository = worlds.shared()
    plan = Plan.objects.create(
        tenant=tenant, name=f"plan {number}", repository=repository, cron="0 22 * * *", next_start_at=timezone.now()
    )
    vapp = VApp.objects.create(vcenter=vcenter, tenant=tenant, plan=plan, ref=f"v{number}", name=f"vapp {number}")
    for inside in (vapp, None):
        name = f"vm {number} {inside}"
        vm = Vm.objects.create(
            vcenter=vcenter, tenant=tenant, vapp=inside, plan=plan, instance_uuid=name, ref=name, name=name
        )
        run, item = worlds._run(tenant, plan, vm)
        archive = worlds._archive(tenant, repository, vm, run)
        worlds._recovery(tenant, vcenter, archive)
        item.snapshot_records.create(name=f"s {name}", vcenter=vcenter, vm_ref=vm.ref)
        type(run).objects.filter(pk=run.pk).update(state="failed")
        type(item).objects.filter(pk=item.pk).update(state="failed")
    ApiToken.objects.create(user=user, tenant=tenant, name=f"token {number}")
    audit.record(user, tenant, "test", f"audit {number}")


def compare(client: Client, path: str, more: Any) -> None:
    client.get(path)
    before = count(client, path)
    more()
    assert count(client, path) <= before
    assert before <= MOST


@pytest.mark.parametrize("path", LISTS)
def test_a_tenants_lists_ask_no_more_for_more_rows(client: Client, ours: World, alice: User, path: str) -> None:
    grow(ours.tenant, alice, 0)
    client.force_login(alice)
    compare(client, f"/t/{ours.tenant.pk}/{path}", lambda: [grow(ours.tenant, alice, number) for number in range(1, 4)])


@pytest.mark.parametrize("path", PROVIDER_LISTS)
def test_the_providers_lists_ask_no_more_for_more_rows(
    client: Client, ours: World, peggy: User, alice: User, path: str
) -> None:
    grow(ours.tenant, alice, 0)
    client.force_login(peggy)
    more = [lambda number=number: create_tenant(peggy, f"tenant {number}") for number in range(3)]  # type: ignore[misc]
    compare(client, f"/provider/{path}", lambda: [grow(each(), alice, 10 + n) for n, each in enumerate(more)])


def test_members_ask_no_more_for_more_rows(client: Client, ours: World, peggy: User) -> None:
    client.force_login(peggy)

    def more() -> None:
        for number in range(4):
            user = User.objects.create(username=f"user {number}")
            Membership.objects.create(tenant=ours.tenant, user=user, role="viewer")

    compare(client, f"/provider/tenants/{ours.tenant.pk}/members/", more)


@pytest.mark.parametrize("part", ["", "live/"])
def test_the_runs_screen_asks_no_more_for_more_vms(client: Client, ours: World, alice: User, part: str) -> None:
    run = Run.objects.get()
    client.force_login(alice)

    compare(client, f"/t/{ours.tenant.pk}/runs/{run.pk}/{part}", lambda: add_vms(ours, run))


def add_vms(ours: World, run: Run) -> None:
    vcenter, repository = worlds.shared()
    for number in range(5):
        vm = Vm.objects.create(
            vcenter=vcenter, tenant=ours.tenant, instance_uuid=f"m{number}", ref=f"m{number}", name=f"m{number}"
        )
        archive = worlds._archive(ours.tenant, repository, vm, run)
        run.items.create(tenant=ours.tenant, vm=vm, vm_name=vm.name, archive=archive, state="waiting")


def test_a_vcenters_page_asks_no_more_for_more_datastores(client: Client, ours: World, peggy: User) -> None:
    client.force_login(peggy)
    vcenter, _ = worlds.shared()
    vcenter.datastores.create(name="first")

    def more() -> None:
        vcenter.datastores.bulk_create(Datastore(vcenter=vcenter, name=f"ds{number}") for number in range(5))

    compare(client, f"/provider/vcenters/{vcenter.pk}/", more)


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume asynchronous iterators")
def test_a_runs_table_asks_no_more_for_more_vms(client: Client, ours: World, alice: User) -> None:
    client.force_login(alice)
    run = Run.objects.get()

    def ask() -> int:
        with CaptureQueriesContext(connection) as queries:
            lines = b"".join(client.get(f"/t/{ours.tenant.pk}/runs/{run.pk}/report.csv")).splitlines()
        assert len(lines) == run.items.count() + 1
        return len(queries)

    before = ask()
    add_vms(ours, run)
    assert ask() == before


def test_long_lists_are_paged(client: Client, ours: World, alice: User) -> None:
    client.force_login(alice)
    vcenter, _ = worlds.shared()
    VApp.objects.bulk_create(
        VApp(vcenter=vcenter, tenant=ours.tenant, ref=f"b{number}", name=f"batch {number:03}") for number in range(60)
    )
    first = client.get(f"/t/{ours.tenant.pk}/vapps/", {"q": "batch"}).content.decode()
    assert "batch 000" in first
    assert "batch 050" not in first
    assert "q=batch&amp;page=2" in first
    assert "batch 050" in client.get(f"/t/{ours.tenant.pk}/vapps/", {"q": "batch", "page": 3}).content.decode()
