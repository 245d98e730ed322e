"""The life of archives, on every kind of store."""

from datetime import UTC, datetime, timedelta

import pytest

from backups.archive import __main__ as rescue
from backups.archive import gc, key_objects, locks, recovery_sheet, statistics, verify
from backups.archive.copying import copy_archives
from backups.archive.gc import collect, delete_archive, deleted_archives, undelete_archive
from backups.archive.maps import CHUNK_BYTES
from backups.archive.s3 import S3Store
from backups.errors import ArchiveMissing, Conflict
from tests.unit.archive import s3_server
from tests.unit.archive.disks import MIB, Disk, archive, restored
from tests.unit.archive.test_key_objects import OLD, QUICK


@pytest.fixture(autouse=True)
def _exact_clock(monkeypatch):
    monkeypatch.setattr(gc, "CLOCK_SLACK_S", 0)


def test_an_archive_is_locked_deleted_brought_back_and_forgotten(any_store, alice, disk):
    archive(any_store, alice, disk, "a1")
    archive(any_store, alice, disk, "a2", [disk.scribble(0, 9)], since="a1")
    locks.lock(any_store, "alice", "a2", datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(Conflict):
        delete_archive(any_store, "alice", "a2")
    delete_archive(any_store, "alice", "a1")
    collect(any_store, "alice", alice, grace_s=3600)
    assert [deleted.archive_id for deleted in deleted_archives(any_store, "alice")] == ["a1"]
    undelete_archive(any_store, "alice", "a1")
    delete_archive(any_store, "alice", "a1")
    for _ in range(4):
        collect(any_store, "alice", alice, grace_s=0)
    with pytest.raises(ArchiveMissing):
        undelete_archive(any_store, "alice", "a1")
    assert restored(any_store, alice, "a2") == disk.content
    assert verify.check_all(any_store, alice) == []


def test_its_room_is_freed(any_store, alice):
    disk = Disk(8 * CHUNK_BYTES)
    disk.scribble(0, 8 * CHUNK_BYTES)
    archive(any_store, alice, disk, "a1")
    archive(any_store, alice, disk, "a2", [disk.scribble(0, 7 * CHUNK_BYTES)], since="a1")
    delete_archive(any_store, "alice", "a1")
    for _ in range(5):
        collect(any_store, "alice", alice, grace_s=0)
    assert statistics.gather(any_store, alice).bytes_stored < 8.2 * CHUNK_BYTES
    assert restored(any_store, alice, "a2") == disk.content


def test_it_is_copied_there_and_back(any_store, store, alice, disk, tmp_path):
    archive(any_store, alice, disk, "a1")
    key_objects.publish(any_store, "alice", key_objects.seal_by_passphrase(alice, OLD, QUICK))
    other = store.create(tmp_path / "offsite")
    assert copy_archives(any_store, other, alice.without_private()).archives == 1
    delete_archive(any_store, "alice", "a1")
    for _ in range(4):
        collect(any_store, "alice", alice, grace_s=0)
    assert copy_archives(other, any_store, alice.without_private()).bytes_copied > MIB
    assert restored(any_store, key_objects.find_by_passphrase(any_store, "alice", OLD), "a1") == disk.content


def test_it_is_restored_from_a_bucket_and_a_sheet_of_paper(
    s3_place, s3_credentials, alice, disk, tmp_path, monkeypatch, capsys
):
    archive(S3Store.create(s3_place, s3_credentials, cache=tmp_path / "cache"), alice, disk, "a1")
    (tmp_path / "sheet").write_text(recovery_sheet.text(alice))
    for name, value in s3_server.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = f"{s3_place}?endpoint={s3_place.endpoint}"
    key = ["--key", str(tmp_path / "sheet")]
    assert rescue.main(["list", address, *key]) == 0
    assert "web-1" in capsys.readouterr().out
    assert rescue.main(["restore", address, "a1", str(tmp_path / "out"), *key]) == 0
    assert (tmp_path / "out/disk-2000.raw").read_bytes() == disk.content
