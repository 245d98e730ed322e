from datetime import UTC, datetime, timedelta

import pytest

from backups.archive import copying, gc, key_objects, locks, relocation, verify
from backups.archive.copying import copy_archives
from backups.archive.gc import collect, delete_archive
from backups.archive.maps import CHUNK_BYTES
from backups.archive.store import FolderStore
from backups.errors import ArchiveMissing, Interrupted
from tests.unit.archive.disks import MIB, Disk, archive, restored
from tests.unit.archive.format_reader import FormatReader, scrub_pack
from tests.unit.archive.test_damage import data_pack, flip, objects
from tests.unit.archive.test_key_objects import OLD, QUICK


@pytest.fixture
def other(tmp_path) -> FolderStore:
    return FolderStore.create(tmp_path / "elsewhere")


@pytest.fixture(autouse=True)
def _exact_clock(monkeypatch):
    monkeypatch.setattr(gc, "CLOCK_SLACK_S", 0)


def copy(source, target, keys, *names):
    """As a host does that cannot read what it copies."""
    return copy_archives(source, target, keys.without_private(), names or None)


def test_a_copy_restores_by_itself(store, other, alice, disk):
    archive(store, alice, disk, "a1")
    before = bytes(disk.content)
    archive(store, alice, disk, "a2", [disk.scribble(2 * MIB, 9)], since="a1")
    copied = copy(store, other, alice)
    assert (copied.archives, copied.refused) == (2, {})
    assert restored(other, alice, "a1") == before
    assert restored(other, alice, "a2") == disk.content
    assert verify.scrub(other, "alice").damages == []
    assert objects(other, "sessions") == []


def test_a_copy_is_read_by_the_document_alone(store, other, alice, disk):
    archive(store, alice, disk, "a1")
    copy(store, other, alice)
    assert FormatReader(other.root, "alice", alice.write_secret, alice.private_key).disk("a1") == disk.content
    assert all(scrub_pack(path) for path in (other.root / "tenants/alice/packs").rglob("*/*"))


def test_only_what_is_missing_is_copied(store, other, alice, disk):
    archive(store, alice, disk, "a1")
    first = copy(store, other, alice)
    assert first.bytes_copied > MIB
    archive(store, alice, disk, "a2", [disk.scribble(CHUNK_BYTES, 9)], since="a1")
    second = copy(store, other, alice)
    pages = 1
    assert second.records == 1 + pages
    assert copy(store, other, alice).bytes_copied == 0


def test_only_the_archives_named_are_copied_and_only_what_they_need(store, other, alice, disk):
    archive(store, alice, disk, "a1")
    unwanted = Disk(4 * MIB, seed=9)
    unwanted.scribble(0, 4 * MIB)
    archive(store, alice, unwanted, "b1")
    assert copy(store, other, alice, "a1").bytes_copied < 2 * MIB
    assert objects(other, "archives") == ["tenants/alice/archives/a1"]
    with pytest.raises(ArchiveMissing):
        copy(store, other, alice, "c1")


def test_keys_and_locks_travel_along(store, other, alice, disk):
    archive(store, alice, disk, "a1")
    key_objects.publish(store, "alice", key_objects.seal_by_passphrase(alice, OLD, QUICK))
    until = datetime.now(UTC) + timedelta(days=3)
    locks.lock(store, "alice", "a1", until)
    copy(store, other, alice)
    keys = key_objects.find_by_passphrase(other, "alice", OLD)
    assert restored(other, keys, "a1") == disk.content
    locked = locks.locked_until(other, "alice", "a1")
    assert locked is not None
    assert abs(locked - until) < timedelta(seconds=2)


def test_a_copy_that_was_interrupted_goes_on_where_it_was(store, other, alice, monkeypatch):
    disk = Disk(6 * MIB)
    disk.scribble(0, 6 * MIB)
    archive(store, alice, disk, "a1")
    monkeypatch.setattr(copying, "BATCH_RECORDS", 4)
    monkeypatch.setattr(relocation, "PUBLISHED_ENTRIES", 8)
    batches = []

    def interrupt():
        batches.append(1)
        if len(batches) == 5:
            raise Interrupted("enough")

    with pytest.raises(Interrupted):
        copy_archives(store, other, alice, check=interrupt)
    assert objects(other, "archives") == []
    resumed = copy(store, other, alice)
    assert resumed.bytes_copied < 5 * MIB
    assert restored(other, alice, "a1") == disk.content


def test_gc_at_the_target_disturbs_no_copy_and_clears_up_after_a_dead_one(store, other, alice, disk):
    archive(store, alice, disk, "a1")

    def gather() -> None:
        collect(other, "alice", alice, grace_s=0)

    copy_archives(store, other, alice, check=gather, progress=lambda _: gather())
    for _ in range(4):
        gather()
    assert restored(other, alice, "a1") == disk.content
    delete_archive(other, "alice", "a1")
    for _ in range(4):
        gather()
    assert list(other.list("tenants/alice/")) == []


def test_what_gc_has_condemned_meanwhile_is_copied_again(store, other, alice, disk):
    archive(store, alice, disk, "a1")
    copy(store, other, alice)
    other.delete("tenants/alice/archives/a1")
    collect(other, "alice", alice, grace_s=0)
    assert objects(other, "condemned")
    assert copy(store, other, alice).bytes_copied > MIB
    for _ in range(4):
        collect(other, "alice", alice, grace_s=0)
    assert restored(other, alice, "a1") == disk.content


def test_damage_is_never_copied_and_other_archives_are(store, other, alice, disk):
    archive(store, alice, disk, "a1")
    flip(store, data_pack(store), 2000)
    sound = Disk(MIB, seed=4)
    sound.scribble(0, MIB)
    archive(store, alice, sound, "b1")
    copied = copy(store, other, alice)
    assert list(copied.refused) == ["a1"]
    assert restored(other, alice, "b1") == sound.content
    assert objects(other, "archives") == ["tenants/alice/archives/b1"]


def test_of_a_damaged_chunk_the_sound_copy_is_taken(store, other, alice, disk):
    archive(store, alice, disk, "a1")
    flip(store, data_pack(store), 2000)
    verify.scrub(store, "alice")
    archive(store, alice, disk, "a2")
    for stored in list(store.list("tenants/alice/damaged/")):
        store.delete(stored.name)
    assert copy(store, other, alice).refused == {}
    assert restored(other, alice, "a1") == disk.content


def test_records_of_several_sessions_and_full_packs_are_copied(store, other, alice, monkeypatch):
    monkeypatch.setattr(relocation, "TARGET_BYTES", MIB)
    monkeypatch.setattr(relocation, "OPEN_PACKS", 2)
    disk = Disk(4 * MIB)
    disk.scribble(0, 4 * MIB)
    archive(store, alice, disk, "a0")
    for number in range(1, 5):
        archive(store, alice, disk, f"a{number}", [disk.scribble(number * 600_000, 9)], since=f"a{number - 1}")
    copy(store, other, alice, "a4")
    assert restored(other, alice, "a4") == disk.content
    assert len(objects(other, "packs")) > 6
