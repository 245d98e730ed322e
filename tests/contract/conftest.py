from collections.abc import Iterator

import pytest

from backups.platform import Platform
from tests.contract import vcsim
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


@pytest.fixture(scope="session")
def vcsim_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vcsim.VcsimWorld]:
    if vcsim.BINARY is None:
        pytest.skip("vcsim is not built; `.ci/run` builds it")
    with vcsim.running(tmp_path_factory.mktemp("vcsim")) as connection:
        world = vcsim.VcsimWorld(connection, tmp_path_factory.mktemp("other"))
        yield world
        world.close()


@pytest.fixture(params=["fake", "vsphere", "vcsim"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "fake":
        yield FakeWorld()
    elif request.param == "vsphere":
        yield request.getfixturevalue("lab_world")
    else:
        reason = vcsim.CANNOT.get(request.node.originalname)
        if reason:
            pytest.skip(reason)
        yield request.getfixturevalue("vcsim_world")


@pytest.fixture
def platform(world: World) -> Platform:
    return world.platform
