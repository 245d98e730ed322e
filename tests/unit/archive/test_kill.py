"""A writer process, killed at points that chance chooses."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backups.archive import gc
from backups.archive.gc import collect
from backups.archive.keys import TenantKeys
from backups.archive.store import FolderStore
from tests.unit.archive.disks import MIB, Disk, archive, base_of, restored

WRITER = """
import sys
from pathlib import Path
from backups.archive.keys import TenantKeys
from backups.archive.store import FolderStore
from tests.unit.archive.disks import MIB, Disk, archive
root, write_secret, public_key, first = sys.argv[1:]
keys = TenantKeys("alice", bytes.fromhex(write_secret), bytes.fromhex(public_key))
for number in range(int(first), int(first) + 1000):
    disk = Disk(2 * MIB, seed=number)
    disk.scribble(0, 2 * MIB)
    archive(FolderStore(Path(root)), keys, disk, f"a{number}")
    print(number, flush=True)
"""


def write_until_killed(root: Path, keys: TenantKeys, first: int, after_s: float) -> list[int]:
    """The numbers of the archives that the writer said were complete."""
    arguments = [str(root), keys.write_secret.hex(), keys.public_key.hex(), str(first)]
    with subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    return [int(line) for line in lines]


def contents(number: int) -> bytes:
    disk = Disk(2 * MIB, seed=number)
    disk.scribble(0, 2 * MIB)
    return bytes(disk.content)


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_writer_leaves_whole_archives_or_none(tmp_path, alice, seed, monkeypatch):
    monkeypatch.setattr(gc, "CLOCK_SLACK_S", 0)
    store = FolderStore.create(tmp_path / "r")
    complete = write_until_killed(store.root, alice, 1000 * seed, random.Random(seed).uniform(0, 0.1))
    assert complete
    visible = [stored.name.rpartition("/")[2] for stored in store.list("tenants/alice/archives/")]
    # The last one may have been complete without having been told.
    assert {f"a{number}" for number in complete} <= set(visible)
    assert len(visible) <= len(complete) + 1
    for archive_id in visible:
        assert restored(store, alice, archive_id) == contents(int(archive_id[1:]))


def test_after_a_kill_backups_go_on_and_its_rest_is_cleared_away(tmp_path, alice, monkeypatch):
    monkeypatch.setattr(gc, "CLOCK_SLACK_S", 0)
    store = FolderStore.create(tmp_path / "r")
    complete = write_until_killed(store.root, alice, 0, 0.05)
    disk = Disk(2 * MIB, seed=complete[-1])
    disk.content[:] = contents(complete[-1])
    archive(store, alice, disk, "next", [disk.scribble(0, 1)], since=f"a{complete[-1]}")
    monkeypatch.setattr("backups.archive.sessions.STALE_S", -1)
    for _ in range(4):
        collect(store, "alice", alice, grace_s=0)
    assert restored(store, alice, "next") == disk.content
    assert restored(store, alice, f"a{complete[0]}") == contents(complete[0])
    assert base_of(store, alice, "next").archive_id == "next"
    assert list(store.list("tenants/alice/sessions/")) == []
