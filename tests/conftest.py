"""The people of the tests. Alice administers Acme, Charlie may only look there, Olivia operates it. Bob administers
Globex: he is the neighbour who must see nothing of Acme. Peggy is provider staff."""

import pytest
from django.contrib.auth.models import User

from backups.models import Membership, Role, Tenant
from backups.services.tenants import create_tenant

DATABASE_FIXTURES = {"db", "transactional_db"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a database runs on SQLite and, by this mark, on PostgreSQL."""
    for item in items:
        if DATABASE_FIXTURES & set(getattr(item, "fixturenames", ())) or item.get_closest_marker("django_db"):
            item.add_marker("database")


def member(name: str, tenant: Tenant, role: str) -> User:
    user = User.objects.create_user(name, password="correct horse battery")
    Membership.objects.create(user=user, tenant=tenant, role=role)
    return user


@pytest.fixture
def acme(db: None) -> Tenant:
    return create_tenant(None, "Acme")


@pytest.fixture
def globex(db: None) -> Tenant:
    return create_tenant(None, "Globex")


@pytest.fixture
def alice(acme: Tenant) -> User:
    return member("alice", acme, Role.ADMIN)


@pytest.fixture
def olivia(acme: Tenant) -> User:
    return member("olivia", acme, Role.OPERATOR)


@pytest.fixture
def charlie(acme: Tenant) -> User:
    return member("charlie", acme, Role.VIEWER)


@pytest.fixture
def bob(globex: Tenant) -> User:
    return member("bob", globex, Role.ADMIN)


@pytest.fixture
def peggy(db: None) -> User:
    return User.objects.create_user("peggy", password="correct horse battery", is_staff=True)
