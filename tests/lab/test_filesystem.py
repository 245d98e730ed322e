import shutil
import subprocess
from pathlib import Path

import pytest

from vsphere.lab import ext2, filesystem, guests

E2FSCK = shutil.which("e2fsck", path="/sbin:/usr/sbin:/bin:/usr/bin")
DEBUGFS = shutil.which("debugfs", path="/sbin:/usr/sbin:/bin:/usr/bin")
needs_e2fsprogs = pytest.mark.skipif(not E2FSCK or not DEBUGFS, reason="e2fsprogs is not installed")
SIZE = 12 * 2**20
FILES = guests.own_files("alice-db", 0, 5 * 2**20, seed=1) | {"deep/er/file": b"text\n"}


def image(folder: Path) -> Path:
    path = folder / "flat"
    with path.open("wb") as file:
        file.truncate(SIZE * 4 // 3)
    return path


def check(path: Path) -> None:
    assert subprocess.run([str(E2FSCK), "-fn", str(path)], capture_output=True).returncode == 0
    for name, data in FILES.items():
        read = subprocess.run([str(DEBUGFS), "-R", f"cat /{name}", str(path)], capture_output=True)
        assert read.stdout == data


@needs_e2fsprogs
def test_the_disks_have_a_sound_file_system(tmp_path: Path) -> None:
    path = image(tmp_path)
    filesystem.make(path, SIZE, "alice-db", FILES)
    check(path)


@needs_e2fsprogs
def test_the_labs_own_ext2_is_sound_too(tmp_path: Path) -> None:
    path = image(tmp_path)
    ext2.write(path, SIZE, "alice-db", FILES)
    check(path)


def test_the_lab_does_without_mke2fs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "mke2fs", lambda: None)
    path = image(tmp_path)
    filesystem.make(path, SIZE, "alice-db", FILES)
    assert b"\x53\xef" in path.read_bytes()[1024:2048]
    with pytest.raises(ext2.TooMuchData):
        filesystem.make(path, SIZE, "alice-db", {"big": bytes(2 * SIZE)})


def test_vms_share_some_files_and_have_others_of_their_own() -> None:
    assert guests.shared_files(100_000, 1) == guests.shared_files(100_000, 1)
    alice, bob = (guests.own_files(name, 0, 100_000, 1) for name in ("alice-db", "bob-db"))
    assert alice["var/lib/data000.bin"] != bob["var/lib/data000.bin"]
