"""A store that fails every twentieth call, retries and all: each operation succeeds or says so, and loses nothing."""

import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from backups.archive import gc, key_objects, locks, relocation, verify
from backups.archive.copying import copy_archives
from backups.archive.gc import collect, delete_archive, undelete_archive
from backups.archive.maps import CHUNK_BYTES
from backups.archive.store import FolderStore
from backups.errors import ArchiveMissing, Conflict, KeyUnavailable, RepositoryFull, RepositoryUnavailable
from tests.unit.archive.disks import Disk, archive, restored
from tests.unit.archive.test_key_objects import OLD, QUICK

FAILS = 0.05


class FlakyStore(FolderStore):
    """Fails before a call, or after it was carried out, as a network does."""

    def __init__(self, root, *, writable=True):
        super().__init__(root, writable=writable)
        self.chance, self.share = random.Random(1), 0.0

    def flaky(self, call, *arguments):
        trouble = self.chance.choice([RepositoryUnavailable, RepositoryFull])("It failed.")
        if self.chance.random() < self.share / 2:
            raise trouble
        answer = call(*arguments)
        if self.chance.random() < self.share / 2:
            raise trouble
        return answer

    def begin(self, name):
        return self.flaky(super().begin, name)

    def put(self, name, data):
        self.flaky(super().put, name, data)

    def get(self, name):
        return self.flaky(super().get, name)

    def get_range(self, name, start, length):
        return self.flaky(super().get_range, name, start, length)

    def delete(self, name):
        self.flaky(super().delete, name)

    def list(self, prefix):
        return self.flaky(super().list, prefix)


@pytest.fixture
def flaky(tmp_path) -> FlakyStore:
    return FlakyStore.create(tmp_path / "flaky")


@pytest.fixture(autouse=True)
def _hurried(monkeypatch):
    monkeypatch.setattr(gc, "CLOCK_SLACK_S", 0)
    monkeypatch.setattr(relocation, "TARGET_BYTES", CHUNK_BYTES)
    monkeypatch.setattr("backups.archive.sessions.STALE_S", -1)


def stubbornly(store: FlakyStore, work, *arguments, **named) -> None:
    """Again and again; what was done although it failed is not done twice."""
    store.share = FAILS
    for _ in range(400):
        try:
            work(*arguments, **named)
        except (RepositoryUnavailable, RepositoryFull):
            continue
        except (Conflict, ArchiveMissing):
            break
        break
    else:
        pytest.fail("it never succeeded")
    store.share = 0.0


@pytest.mark.parametrize("seed", range(4))
def test_whatever_fails_nothing_is_lost(flaky, alice, tmp_path, seed):
    flaky.chance = random.Random(seed)
    disk = Disk(6 * CHUNK_BYTES, seed=seed)
    disk.scribble(0, 6 * CHUNK_BYTES)
    archive(flaky, alice, disk, "a1")
    archive(flaky, alice, disk, "a2", [disk.scribble(0, 5 * CHUNK_BYTES)], since="a1")
    stubbornly(flaky, delete_archive, flaky, "alice", "a1")
    for _ in range(4):
        stubbornly(flaky, collect, flaky, "alice", alice, grace_s=0)
        assert restored(flaky, alice, "a2") == disk.content
    stubbornly(flaky, delete_archive, flaky, "alice", "a2")
    stubbornly(flaky, undelete_archive, flaky, "alice", "a2")
    stubbornly(flaky, locks.lock, flaky, "alice", "a2", datetime.now(UTC) + timedelta(days=1))
    assert locks.locked_until(flaky, "alice", "a2")
    assert restored(flaky, alice, "a2") == disk.content
    assert verify.check_all(flaky, alice) == []


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("failing", ["source", "target"])
def test_a_copy_comes_to_its_end(flaky, store, alice, seed, failing):
    flaky.chance = random.Random(seed)
    disk = Disk(6 * CHUNK_BYTES, seed=seed)
    disk.scribble(0, 6 * CHUNK_BYTES)
    source, target = (flaky, store) if failing == "source" else (store, flaky)
    archive(source, alice, disk, "a1")
    archive(source, alice, disk, "a2", [disk.scribble(0, 9)], since="a1")
    key_objects.publish(source, "alice", key_objects.seal_by_passphrase(alice, OLD, QUICK))
    stubbornly(flaky, copy_archives, source, target, alice.without_private())
    copied = copy_archives(source, target, alice.without_private())
    assert copied.refused == {}
    assert restored(target, alice, "a2") == disk.content
    assert key_objects.find_by_passphrase(target, "alice", OLD) == alice
    assert verify.check_all(target, alice) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_passphrase_is_changed_or_is_not(flaky, alice, seed):
    flaky.chance = random.Random(seed)
    key_objects.publish(flaky, "alice", key_objects.seal_by_passphrase(alice, OLD, QUICK))
    flaky.share = FAILS
    new = "another long passphrase"
    with suppress(RepositoryUnavailable, RepositoryFull):
        key_objects.change_passphrase(flaky, "alice", OLD, new, QUICK)
    flaky.share = 0.0
    assert opens(flaky, OLD) or opens(flaky, new)


def opens(store: FolderStore, passphrase: str) -> bool:
    with suppress(KeyUnavailable):
        return key_objects.find_by_passphrase(store, "alice", passphrase) is not None
    return False
