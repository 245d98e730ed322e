"""Alice's vApp has a database with two disks and a web server, Bob's one web server; one VM is in no vApp."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.client import Client
from vsphere.lab.server import LabServer


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LabServer]:
    server = LabServer(tmp_path / "lab", spec="small", sample_s=0.3, load_scale=2).start()
    yield server
    server.stop()


@pytest.fixture
def idle_lab(tmp_path: Path) -> Iterator[LabServer]:
    """Its guests do nothing, so what changes was changed by the test."""
    server = LabServer(tmp_path / "lab", spec="small", load_scale=0).start()
    yield server
    server.stop()


@pytest.fixture
def client(lab: LabServer) -> Client:
    return Client(lab.endpoint).login()


@pytest.fixture
def idle(idle_lab: LabServer) -> Client:
    return Client(idle_lab.endpoint).login()
