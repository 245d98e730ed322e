from collections.abc import Iterator

import pytest

from backups.platform import Platform
from tests.contract.worlds import FakeWorld, LabWorld, World, start_lab
from vsphere.lab.server import LabServer


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    server = start_lab(tmp_path_factory.mktemp("lab"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def _connected(lab: LabServer) -> Iterator[LabWorld]:
    world = LabWorld(lab)
    yield world
    world.platform.close()


@pytest.fixture
def lab_world(_connected: LabWorld) -> Iterator[LabWorld]:
    yield _connected
    _connected.clear()


@pytest.fixture(params=["fake", "vsphere"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "fake":
        yield FakeWorld()
    else:
        yield request.getfixturevalue("lab_world")


@pytest.fixture
def platform(world: World) -> Platform:
    return world.platform
