"""Acme with one of everything, and its people signed in."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from backups.models import Tenant
from tests.portal.worlds import World, build


@pytest.fixture
def ours(acme: Tenant, alice: User) -> World:
    return build(acme, alice)


@pytest.fixture
def theirs(globex: Tenant, bob: User) -> World:
    return build(globex, bob)


class Browser:
    """Somebody at a page of Acme. Pages are named as in the URL patterns' paths."""

    def __init__(self, user: User, tenant: Tenant) -> None:
        self.client = Client()
        self.client.force_login(user)
        self.base = f"/t/{tenant.pk}/"

    def sees(self, path: str = "", **query: Any) -> str:
        return self.client.get(self.base + path, query).content.decode()

    def posts(self, path: str, **data: Any) -> Any:
        return self.client.post(self.base + path, data, headers={"referer": f"http://testserver{self.base}vapps/"})

    def reads_after(self, path: str, **data: Any) -> str:
        """The page that the post leads to."""
        return self.client.post(
            self.base + path, data, follow=True, headers={"referer": f"http://testserver{self.base}vapps/"}
        ).content.decode()


@pytest.fixture
def at_acme(acme: Tenant, alice: User) -> Browser:
    return Browser(alice, acme)


@pytest.fixture
def as_olivia(acme: Tenant, olivia: User) -> Browser:
    return Browser(olivia, acme)


@pytest.fixture
def as_charlie(acme: Tenant, charlie: User) -> Browser:
    return Browser(charlie, acme)
