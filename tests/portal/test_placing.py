"""Another place, network or identity for what is recovered as new: on the pages and in the API, on a platform that
runs."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from backups.models import Plan, Recovery, Tenant, VCenter, Vm
from backups.services.inventory import refresh
from backups.services.recoveries import recovery_points
from backups.services.runs import start_run
from backups.tasks.recover import recover
from tests.fakes.platform import FakePlatform
from tests.portal.conftest import Browser
from tests.portal.test_api_isolation import send
from tests.runs.conftest import finish, plan, platform, repository, vcenter  # noqa: F401

pytestmark = pytest.mark.django_db(transaction=True)
LACKING = "CD/DVD drive 1 is of a kind that is not recovered, and is left out."


@pytest.fixture
def chosen(acme: Tenant, plan: Plan, platform: FakePlatform, vcenter: VCenter, finish: Any) -> dict[str, Any]:  # noqa: F811
    """The vApp shop as archived; Acme has a VM on network2 too, and network3 belongs to others."""
    platform.leave_out("shop-web", "CD/DVD drive 1")
    platform.add_vm("acme-other", host="host2", datastore="store2", network="network2")
    refresh(vcenter)
    Vm.objects.filter(name="acme-other").update(tenant=acme)
    run = finish(start_run(None, plan))
    return {"vapp": "shop", "0-point": str(run.pk), "0-new_name": "shop-2", "mode": "as_new"}


def cards_of(recovery: Recovery, platform: FakePlatform) -> set[tuple[str, bool]]:  # noqa: F811
    recover(str(recovery.pk))
    refs = recovery.items.values_list("vm_ref", flat=True)
    found = [card for ref in refs for card in platform.describe(ref).settings["networks"]]
    return {(card["network"], card["start_connected"]) for card in found}


def test_the_review_offers_networks_and_tells_what_will_lack(as_olivia: Browser, chosen: dict[str, Any]) -> None:
    page = as_olivia.sees("recoveries/review/", **chosen)
    assert LACKING in page
    assert 'name="0-network-network1"' in page
    assert 'value="to:network2"' in page
    page = as_olivia.sees("recoveries/review/", **chosen | {"0-network-network1": "to:network2", "0-host": "host2"})
    assert "Network adapters on network1 are moved to network2." in page
    assert "It is made on host host2." in page
    assert '<option value="to:network2" selected>' in page


def test_other_networks_are_reviewed_before_anything_starts(as_olivia: Browser, chosen: dict[str, Any]) -> None:
    wanted = chosen | {"0-network-network1": "to:network2", "again": "yes"}
    assert "are moved to network2." in as_olivia.reads_after("recoveries/review/", **wanted)
    assert not Recovery.objects.exists()


def test_what_was_chosen_on_the_page_is_what_is_made(
    as_olivia: Browser,
    chosen: dict[str, Any],
    platform: FakePlatform,  # noqa: F811
) -> None:
    as_olivia.posts("recoveries/review/", **chosen | {"0-network-network1": "disconnected"})
    made = Recovery.objects.get()
    assert cards_of(made, platform) == {("network1", False)}
    assert LACKING in as_olivia.sees(f"recoveries/{made.pk}/")


@pytest.mark.parametrize(
    "wanted", [{"0-host": "host9"}, {"0-network-network1": "to:network3"}, {"0-same_identity": "on"}]
)
def test_what_cannot_be_is_not_started(as_olivia: Browser, chosen: dict[str, Any], wanted: dict[str, str]) -> None:
    as_olivia.posts("recoveries/review/", **chosen | wanted)
    assert not Recovery.objects.exists()


def body(acme: Tenant, **wanted: Any) -> dict[str, Any]:
    archives = [str(archive.pk) for archive in recovery_points(acme, "shop")[0].archives]
    return {"archives": archives, "mode": "as_new", "vapp_name": "shop", "new_name": "shop-2", **wanted}


def test_the_api_takes_the_same_choices(
    client: Client,
    acme: Tenant,
    alice: User,
    chosen: dict[str, Any],
    platform: FakePlatform,  # noqa: F811
) -> None:
    path = f"/api/v1/tenants/{acme.pk}/recoveries/"
    wanted = body(acme, host="host2", datastore="store2", networks={"network1": "network2"})
    answer = send(client, "post", path, alice, acme, body=wanted)
    assert answer.status_code == 202, answer.json()
    assert answer.json()["networks"] == {"network1": "network2"}
    assert cards_of(Recovery.objects.get(), platform) == {("network2", True)}


def test_the_api_refuses_others_places_unless_the_provider_asks(
    client: Client,
    acme: Tenant,
    alice: User,
    peggy: User,
    chosen: dict[str, Any],
    platform: FakePlatform,  # noqa: F811
) -> None:
    Vm.objects.filter(name="acme-other").update(tenant=None)
    path = f"/api/v1/tenants/{acme.pk}/recoveries/"
    wanted = body(acme, networks={"network1": "network2"})
    for user in (alice, peggy):  # a token for one tenant is no provider's, whoever holds it
        answer = send(client, "post", path, user, acme, body=wanted)
        assert answer.status_code == 422
        assert "There is no network network2" in answer.json()["detail"]
    client.force_login(peggy)
    page = f"/t/{acme.pk}/recoveries/review/"
    client.post(page, chosen | {"0-network-network1": "to:network2"})
    assert cards_of(Recovery.objects.get(), platform) == {("network2", True)}
