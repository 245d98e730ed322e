from pathlib import Path

import pytest

from backups.archive.keys import TenantKeys
from backups.archive.store import FolderStore
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
