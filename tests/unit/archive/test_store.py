import errno
import os
from threading import Event

import pytest

from backups.archive import store as store_module
from backups.archive.store import FolderStore, ObjectMissing
from backups.archive.writer import ArchiveWriter
from backups.errors import Conflict, RepositoryFull, RepositoryUnavailable
from tests.unit.archive.disks import BACKUP_TIME, MIB, Disk, archive, restored, write_disk


def test_a_repository_is_made_once(tmp_path):
    FolderStore.create(tmp_path / "r").put("tenants/t/packs/x", b"1")
    assert FolderStore.create(tmp_path / "r").get("tenants/t/packs/x") == b"1"


@pytest.mark.parametrize("name", ["missing", "a-folder", "a-file"])
def test_what_is_no_repository_is_refused_with_advice(tmp_path, name):
    (tmp_path / "a-folder").mkdir()
    (tmp_path / "a-file").write_text("x")
    with pytest.raises(RepositoryUnavailable, match=r"mounted|cannot be read"):
        FolderStore(tmp_path / name)


def test_a_folder_with_other_files_is_not_made_a_repository(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(RepositoryUnavailable, match="empty folder"):
        FolderStore.create(tmp_path)


def test_a_repository_of_a_later_version_is_refused(store):
    (store.root / "repository.json").write_text('{"format": "hotfirst-repository", "version": 2}')
    with pytest.raises(RepositoryUnavailable, match="another version"):
        FolderStore(store.root)


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RepositoryUnavailable, match="cannot be made a repository"):
        FolderStore.create(tmp_path / "file" / "r")


def test_a_repository_whose_file_system_went_away_is_unavailable_and_not_damaged(store, alice, disk):
    archive(store, alice, disk, "a1")
    store.root.rename(store.root.with_name("unmounted"))
    with pytest.raises(RepositoryUnavailable):
        restored(store, alice, "a1")


def test_objects_are_written_once(store):
    store.put("tenants/t/packs/x", b"1")
    with pytest.raises(Conflict):
        store.put("tenants/t/packs/x", b"2")
    assert store.get("tenants/t/packs/x") == b"1"
    assert list((store.root / "unfinished").iterdir()) == []


def test_an_object_is_seen_whole_or_not_at_all(store):
    writer = store.begin("tenants/t/packs/x")
    writer.write(b"half")
    assert list(store.list("tenants/")) == []
    writer.abandon()
    assert list((store.root / "unfinished").iterdir()) == []


def test_an_object_is_durable_before_it_is_seen(store, monkeypatch):
    calls = []
    real_fsync = os.fsync
    monkeypatch.setattr(
        store_module.os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), real_fsync(fd))
    )
    store.put("tenants/t/packs/ab/x", b"1")
    assert "unfinished" in calls[0]
    assert calls[-1].endswith("packs/ab")
    assert {path.rpartition("/")[2] for path in calls[1:-1]} == {"repository", "tenants", "t", "packs"}


def test_reading_what_is_missing(store):
    for read in (store.get, store.size, store.view, lambda name: store.get_range(name, 0, 1)):
        with pytest.raises(ObjectMissing):
            read("tenants/t/packs/x")
    store.delete("tenants/t/packs/x")


def test_ranges_and_views_give_what_was_put(store):
    content = os.urandom(MIB)
    store.put("tenants/t/packs/x", content)
    assert store.get_range("tenants/t/packs/x", 1000, 50) == content[1000:1050]
    assert store.get_range("tenants/t/packs/x", MIB - 10, 50) == content[-10:]
    assert store.view("tenants/t/packs/x") == content


def test_only_old_unfinished_objects_are_swept(store):
    store.begin("tenants/t/packs/x").write(b"1")
    store.sweep(3600)
    assert len(list((store.root / "unfinished").iterdir())) == 1
    store.sweep(-1)
    assert list((store.root / "unfinished").iterdir()) == []


def archive_once_full(store, keys, disk, full: Event) -> None:
    """It is full, but not yet when the session begins."""
    with ArchiveWriter(store, keys) as writer:
        full.set()
        write_disk(writer, disk)
        writer.commit(archive_id="a2", backup_time=BACKUP_TIME, config={}, extra={})


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync", "link"])
def test_a_full_repository_is_told_and_loses_nothing(store, alice, disk, monkeypatch, code, call):
    archive(store, alice, disk, "a1")
    before = bytes(disk.content)
    disk.scribble(0, MIB)
    full = Event()

    def fail(*_: object) -> None:
        if full.is_set():
            raise OSError(code, os.strerror(code))

    real_fsync, real_link, real_write = os.fsync, store_module.os.link, store_module.FolderObject.write

    def write(self, data):
        with self._store.translated("x"):
            fail()
        real_write(self, data)

    if call == "fsync":
        monkeypatch.setattr(store_module.os, "fsync", lambda fd: (fail(), real_fsync(fd)))
    elif call == "link":
        monkeypatch.setattr(store_module.os, "link", lambda *paths: (fail(), real_link(*paths))[1])
    else:
        monkeypatch.setattr(store_module.FolderObject, "write", write)
    with pytest.raises(RepositoryFull, match="make room"):
        archive_once_full(store, alice, disk, full)
    full.clear()
    monkeypatch.undo()
    assert restored(store, alice, "a1") == before
    assert list((store.root / "unfinished").iterdir()) == []
    archive(store, alice, disk, "a2")
    assert restored(store, alice, "a2") == disk.content


def test_a_store_that_fails_in_another_way_is_unavailable(store, alice, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(store_module.os, "fsync", fail)
    with pytest.raises(RepositoryUnavailable, match="check its file system"):
        archive(store, alice, Disk(MIB), "a1")


def test_a_file_system_without_links_is_served_as_well(store, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(store_module.os, "link", refuse)
    store.put("tenants/t/packs/x", b"1")
    with pytest.raises(Conflict):
        store.put("tenants/t/packs/x", b"2")
    assert store.get("tenants/t/packs/x") == b"1"
    assert list((store.root / "unfinished").iterdir()) == []
