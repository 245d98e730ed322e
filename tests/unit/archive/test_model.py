"""Whatever is done to a repository in whatever order, it does what a dictionary would do."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backups.archive import gc, locks, relocation, sink, verify
from backups.archive.copying import copy_archives
from backups.archive.gc import collect, delete_archive, deleted_archives, undelete_archive
from backups.archive.keys import TenantKeys
from backups.archive.maps import CHUNK_BYTES
from backups.archive.memory import MemoryStore
from backups.archive.writer import ArchiveWriter
from backups.errors import ArchiveMissing, Conflict
from tests.unit.archive.disks import BACKUP_TIME, Disk, base_of, restored, write_disk

CHUNKS = 3
KEYS = TenantKeys.generate("alice")
WRITING = KEYS.without_private()
chunks = st.integers(0, CHUNKS - 1)
letters = st.sampled_from([0, *b"abcd"])


@pytest.fixture(autouse=True, scope="module")
def _hurried():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "CLOCK_SLACK_S", 0)
        patch.setattr(gc, "MERGED_FROM_FILES", 3)
        patch.setattr(sink, "PUBLISHED_ENTRIES", 2)
        patch.setattr(relocation, "PUBLISHED_ENTRIES", 2)
        yield


class Repository(RuleBasedStateMachine):
    """`kept`, `deleted` and `elsewhere` are the model: what is on the disk of each archive."""

    @initialize()
    def begin(self):
        self.store, self.offsite = MemoryStore(), MemoryStore()
        self.kept, self.deleted, self.elsewhere, self.locked = {}, {}, {}, set()
        self.deleted_at, self.writers, self.count = {}, [], 0

    def fresh(self) -> int:
        self.count += 1
        return self.count

    def some(self, data, names):
        return data.draw(st.sampled_from(sorted(names)))

    @rule(content=st.lists(letters, min_size=CHUNKS, max_size=CHUNKS))
    def a_full_backup_begins(self, content):
        disk = Disk(CHUNKS * CHUNK_BYTES)
        for chunk, letter in enumerate(content):
            disk.write(chunk * CHUNK_BYTES, bytes([letter]) * CHUNK_BYTES)
        self.open_writer(disk, None, None)

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), changes=st.lists(st.tuples(chunks, letters), max_size=2))
    def an_increment_begins(self, data, changes):
        base = self.some(data, self.kept)
        disk = Disk(CHUNKS * CHUNK_BYTES)
        disk.content[:] = self.kept[base]
        areas = [disk.write(chunk * CHUNK_BYTES, bytes([letter]) * CHUNK_BYTES) for chunk, letter in changes]
        self.open_writer(disk, areas, base)

    def open_writer(self, disk, areas, base):
        began, writer = self.fresh(), ArchiveWriter(self.store, WRITING, threads=1).__enter__()
        try:
            write_disk(writer, disk, areas, base_of(self.store, KEYS, base) if base else None)
        except BaseException:
            writer.__exit__(None, None, None)
            raise
        self.writers.append((began, writer, bytes(disk.content)))

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), commits=st.sampled_from([True, True, False]))
    def a_backup_ends(self, data, commits):
        _, writer, content = self.writers.pop(data.draw(st.integers(0, len(self.writers) - 1)))
        archive_id = f"a{self.fresh()}"
        if commits:
            writer.commit(archive_id=archive_id, backup_time=BACKUP_TIME, config={}, extra={})
            self.kept[archive_id] = content
        writer.__exit__(None, None, None)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def an_archive_is_deleted(self, data):
        archive_id = self.some(data, self.kept)
        if archive_id in self.locked:
            with pytest.raises(Conflict):
                delete_archive(self.store, "alice", archive_id)
            return
        delete_archive(self.store, "alice", archive_id)
        self.deleted[archive_id] = self.kept.pop(archive_id)
        self.deleted_at[archive_id] = self.fresh()

    @precondition(lambda self: self.deleted_at)
    @rule(data=st.data())
    def an_archive_is_brought_back(self, data):
        archive_id = self.some(data, self.deleted_at)
        if archive_id in self.deleted:
            undelete_archive(self.store, "alice", archive_id)
            self.kept[archive_id] = self.deleted.pop(archive_id)
        else:
            with pytest.raises((ArchiveMissing, Conflict)):
                undelete_archive(self.store, "alice", archive_id)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def an_archive_is_locked(self, data):
        archive_id = self.some(data, self.kept)
        locks.lock(self.store, "alice", archive_id, datetime.now(UTC) + timedelta(days=1))
        self.locked.add(archive_id)

    @rule(grace_s=st.sampled_from([0, 0, 3600]))
    def gc_runs(self, grace_s):
        collect(self.store, "alice", WRITING, grace_s=grace_s)
        oldest = min((began for began, _, _ in self.writers), default=self.count + 1)
        if not grace_s:
            self.deleted = {name: c for name, c in self.deleted.items() if self.deleted_at[name] > oldest}

    @rule(data=st.data())
    def archives_are_copied(self, data):
        wanted = data.draw(st.lists(st.sampled_from(sorted(self.kept)), unique=True)) if self.kept else []
        assert copy_archives(self.store, self.offsite, WRITING, wanted).refused == {}
        self.elsewhere |= {name: self.kept[name] for name in wanted}

    @rule()
    def gc_runs_elsewhere(self):
        collect(self.offsite, "alice", WRITING, grace_s=0)

    @precondition(lambda self: self.elsewhere)
    @rule(data=st.data())
    def a_copy_is_deleted(self, data):
        archive_id = self.some(data, self.elsewhere)
        try:
            delete_archive(self.offsite, "alice", archive_id)
        except Conflict:
            assert archive_id in self.locked
            return
        self.elsewhere.pop(archive_id)

    @invariant()
    def the_repository_holds_what_the_model_holds(self):
        names = {stored.name.rpartition("/")[2] for stored in self.store.list("tenants/alice/archives/")}
        assert names == set(self.kept)
        assert {one.archive_id for one in deleted_archives(self.store, "alice")} == set(self.deleted)
        for archive_id, content in self.kept.items():
            assert restored(self.store, KEYS, archive_id) == content

    def teardown(self):
        for _, writer, _ in self.writers:
            writer.__exit__(None, None, None)
        for _ in range(3):
            collect(self.store, "alice", WRITING, grace_s=0)
        assert verify.check_all(self.store, KEYS) == verify.check_all(self.offsite, KEYS) == []
        for store, archives in ((self.store, self.kept), (self.offsite, self.elsewhere)):
            for archive_id, content in archives.items():
                assert restored(store, KEYS, archive_id) == content


Repository.TestCase.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
TestRepository = Repository.TestCase
