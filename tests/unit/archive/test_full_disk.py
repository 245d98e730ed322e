"""A file system that is really full, where this machine lets us make one."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backups.archive import gc, verify
from backups.archive.store import FolderStore
from backups.errors import RepositoryFull
from tests.unit.archive.disks import MIB, Disk, archive, restored


@pytest.fixture
def small(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "none", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: that takes the rights of root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_told_and_loses_nothing(small, alice):
    store, disk = FolderStore.create(small / "repository"), Disk(8 * MIB)
    disk.scribble(0, 4 * MIB)
    archive(store, alice, disk, "a1")
    before = bytes(disk.content)
    for attempt in range(3):
        disk.scribble(0, 8 * MIB)
        with pytest.raises(RepositoryFull, match="make room"):
            archive(store, alice, disk, f"b{attempt}", since="a1")
        assert restored(store, alice, "a1") == before
        assert not verify.scrub(store, "alice").damages
    assert list((store.root / "unfinished").iterdir()) == []


def test_room_is_made_again_by_deleting(small, alice):
    store, disk = FolderStore.create(small / "repository"), Disk(8 * MIB)
    disk.scribble(0, 6 * MIB)
    archive(store, alice, disk, "a1")
    disk.scribble(0, 8 * MIB)
    with pytest.raises(RepositoryFull):
        archive(store, alice, disk, "a2")
    gc.delete_archive(store, "alice", "a1")
    for _ in range(3):
        gc.collect(store, "alice", alice, grace_s=0)
    archive(store, alice, disk, "a3")
    assert restored(store, alice, "a3") == disk.content
