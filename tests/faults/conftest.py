from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection

from tests.faults.installation import QUICK, Installation, furnish


@pytest.fixture
def hosts(transactional_db: None, tmp_path: Path) -> Iterator[Installation]:
    """An installation on the database of the tests, without a lab and without workers so far."""
    made = Installation(tmp_path, None, {**QUICK, "DATABASE_URL": _url(), "HOTFIRST_HOME": str(settings.HOTFIRST_HOME)})
    yield made
    made.stop()


@pytest.fixture
def made(hosts: Installation) -> Installation:
    """With a lab, two tenants and their plans."""
    furnish(hosts)
    return hosts


def _url() -> str:
    place = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{place['NAME']}"
    login = f"{place['USER']}:{place['PASSWORD']}" if place["PASSWORD"] else place["USER"]
    return f"postgres://{login}@{place['HOST']}:{place['PORT']}/{place['NAME']}"
