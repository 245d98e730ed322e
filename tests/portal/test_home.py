"""Signing in, finding the way, and the pages of trouble."""

import pytest
from django.contrib.auth.models import User
from django.test import Client, override_settings

from backups.models import Membership, Role, Tenant, Vm
from tests.portal.conftest import Browser
from tests.portal.worlds import World

pytestmark = [pytest.mark.database, pytest.mark.django_db]


def test_alice_signs_in_and_is_at_home(client: Client, alice: User, acme: Tenant) -> None:
    answer = client.post("/login/", {"username": "alice", "password": "correct horse battery"}, follow=True)
    assert answer.redirect_chain[-1][0] == f"/t/{acme.pk}/"
    assert client.post("/logout/").headers["Location"] == "/login/"


def test_somebody_of_two_tenants_chooses(client: Client, alice: User, acme: Tenant, globex: Tenant) -> None:
    Membership.objects.create(user=alice, tenant=globex, role=Role.VIEWER)
    client.force_login(alice)
    page = client.get("/").content.decode()
    assert f"/t/{acme.pk}/" in page
    assert f"/t/{globex.pk}/" in page


def test_provider_staff_come_to_the_provider_area(client: Client, peggy: User) -> None:
    client.force_login(peggy)
    assert client.get("/").headers["Location"] == "/provider/"


def test_somebody_of_no_tenant_learns_whom_to_ask(client: Client, db: None) -> None:
    client.force_login(User.objects.create_user("dora"))
    assert "Ask your provider" in client.get("/").content.decode()


@override_settings(AXES_ENABLED=True)
def test_a_guesser_is_locked_out_with_a_page(client: Client, alice: User) -> None:
    for _ in range(6):
        answer = client.post("/login/", {"username": "alice", "password": "wrong"}, REMOTE_ADDR="10.0.0.9")
    assert answer.status_code == 429
    assert "Too many attempts" in answer.content.decode()


def test_pages_of_trouble_are_in_the_same_look(at_acme: Browser, as_charlie: Browser) -> None:
    missing = at_acme.client.get("/nowhere/")
    assert missing.status_code == 404
    assert "hotfirst.css" in missing.content.decode()
    assert "This needs the role Administrator" in as_charlie.sees("tokens/")


def test_a_mistake_of_ours_is_admitted_in_the_same_look(client: Client) -> None:
    from django.test import RequestFactory
    from django.views.defaults import server_error

    page = server_error(RequestFactory().get("/")).content.decode()
    assert "This is our mistake" in page
    assert "hotfirst.css" in page


def test_an_empty_dashboard_says_what_comes_next(at_acme: Browser) -> None:
    page = at_acme.sees()
    assert "No VMs yet" in page
    assert "Nothing has run yet" in page


def test_the_dashboard_tells_what_is_not_protected(at_acme: Browser, ours: World) -> None:
    assert "Every VM has a plan" in at_acme.sees()
    Vm.objects.update(vapp=None)
    assert "Some VMs have no plan" in at_acme.sees()
