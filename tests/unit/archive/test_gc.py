import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from backups.archive import gc, index, refused, sessions, verify
from backups.archive.gc import collect, delete_archive
from backups.archive.maps import CHUNK_BYTES
from backups.archive.reader import ArchiveReader
from backups.archive.store import FolderStore
from backups.archive.writer import ArchiveWriter
from backups.errors import ArchiveDamaged, ArchiveMissing, Interrupted, RepositoryUnavailable
from tests.unit.archive.disks import BACKUP_TIME, MIB, Disk, archive, base_of, restored, write_disk

ROUNDS = 4
"""Forgetting a deleted archive, condemning its packs, deleting them, deleting the old index."""


@pytest.fixture(autouse=True)
def _exact_clock(monkeypatch):
    """The slack is only for caution; without it the tests see the rules themselves."""
    monkeypatch.setattr(gc, "CLOCK_SLACK_S", 0)


def collect_all(store, keys, rounds=ROUNDS):
    return [collect(store, keys.tenant_id, keys.without_private(), grace_s=0) for _ in range(rounds)]


def pack_bytes(store) -> int:
    return sum(stored.size_bytes for stored in store.list("tenants/alice/packs/"))


def commit(writer, archive_id):
    writer.commit(archive_id=archive_id, backup_time=BACKUP_TIME, config={}, extra={})


def test_the_space_of_a_deleted_archive_is_freed(store, alice, disk):
    archive(store, alice, disk, "a1")
    delete_archive(store, "alice", "a1")
    collected = collect_all(store, alice)
    assert sum(c.bytes_deleted for c in collected) > MIB
    assert pack_bytes(store) == 0
    left = {stored.name.split("/")[2] for stored in store.list("tenants/alice/")}
    assert left == set(), "nothing at all is left"


def test_a_deleted_archive_is_missing_at_once_and_deleting_again_does_no_harm(store, alice, disk):
    archive(store, alice, disk, "a1")
    delete_archive(store, "alice", "a1")
    delete_archive(store, "alice", "a1")
    with pytest.raises(ArchiveMissing):
        ArchiveReader(store, alice, "a1")


def test_deleting_an_archive_touches_no_other(store, alice, bob, disk):
    archive(store, alice, disk, "a1")
    archive(store, bob, disk, "b1")
    archive(store, alice, disk, "a2", [disk.scribble(0, 10)], since="a1")
    archive(store, alice, disk, "a3", [disk.scribble(MIB, 10)], since="a2")
    delete_archive(store, "alice", "a1")
    delete_archive(store, "alice", "a2")
    collect_all(store, alice)
    assert restored(store, alice, "a3") == disk.content
    assert verify.check(store, bob, "b1") > 0


def test_within_the_grace_period_nothing_goes(store, alice, disk):
    archive(store, alice, disk, "a1")
    before = pack_bytes(store)
    delete_archive(store, "alice", "a1")
    for _ in range(ROUNDS):
        collect(store, "alice", alice, grace_s=3600)
    assert pack_bytes(store) == before


def test_what_an_aborted_backup_stored_is_cleared_away(store, alice, disk):
    with ArchiveWriter(store, alice) as writer:
        write_disk(writer, disk)
        writer._sink.flush()
    assert pack_bytes(store) > MIB
    collect_all(store, alice)
    assert pack_bytes(store) == 0


def test_packs_of_a_running_backup_stay(store, alice, disk):
    with ArchiveWriter(store, alice) as writer:
        write_disk(writer, disk)
        writer._sink.flush()
        collect_all(store, alice)
        assert not refused.load(store, "alice").packs
        commit(writer, "a1")
    assert restored(store, alice, "a1") == disk.content


def test_a_writer_may_refer_to_packs_that_are_condemned_while_it_runs(store, alice, disk):
    archive(store, alice, disk, "a1")
    with ArchiveWriter(store, alice) as writer:
        delete_archive(store, "alice", "a1")
        collect_all(store, alice)
        assert write_disk(writer, disk).bytes_new == 0
        collect_all(store, alice)
        commit(writer, "a2")
    collect_all(store, alice)
    assert restored(store, alice, "a2") == disk.content


def test_a_writer_that_begins_later_leaves_condemned_packs_alone(store, alice, disk):
    archive(store, alice, disk, "a1")
    delete_archive(store, "alice", "a1")
    collect_all(store, alice, rounds=1)
    assert refused.load(store, "alice").packs
    with ArchiveWriter(store, alice) as writer:
        assert write_disk(writer, disk).bytes_new > 0
        collect_all(store, alice)
        commit(writer, "a2")
    collect_all(store, alice)
    assert restored(store, alice, "a2") == disk.content


def test_condemned_packs_that_are_needed_again_are_spared(store, alice, disk):
    """A writer refers to them, and commits before they go."""
    with ArchiveWriter(store, alice) as early:
        archive(store, alice, disk, "a1")
        early._sink.index = index.Index.open(store, alice)
        delete_archive(store, "alice", "a1")
        (store.root / "tenants/alice/deleted/a1").unlink()
        collect_all(store, alice, rounds=1)
        assert refused.load(store, "alice").packs
        assert write_disk(early, disk).bytes_new == 0
        commit(early, "a2")
    collect_all(store, alice)
    assert restored(store, alice, "a2") == disk.content
    assert not refused.load(store, "alice").packs


def test_the_base_of_a_running_increment_is_kept_when_it_is_deleted(store, alice, disk):
    archive(store, alice, disk, "a1")
    base = base_of(store, alice, "a1")
    with ArchiveWriter(store, alice) as writer:
        area = disk.scribble(0, 10)
        write_disk(writer, disk, [area], base)
        delete_archive(store, "alice", "a1")
        collect_all(store, alice)
        commit(writer, "a2")
    collect_all(store, alice)
    assert restored(store, alice, "a2") == disk.content


def test_a_base_whose_packs_were_condemned_before_it_was_committed_is_kept_as_well(store, alice, disk):
    """The early writer finds packs that are condemned under its hands, and commits; the late one builds on its
    archive, which is then deleted."""
    archive(store, alice, disk, "a0")
    delete_archive(store, "alice", "a0")
    os.utime(store.root / "tenants/alice/deleted/a0", (0, 0))
    with ArchiveWriter(store, alice) as early:
        collect_all(store, alice, rounds=1)
        assert refused.load(store, "alice").packs
        assert write_disk(early, disk).bytes_new == 0
        commit(early, "a1")
    with ArchiveWriter(store, alice) as late:
        write_disk(late, disk, [disk.scribble(0, 10)], base_of(store, alice, "a1"))
        delete_archive(store, "alice", "a1")
        collect_all(store, alice)
        commit(late, "a2")
    collect_all(store, alice)
    assert restored(store, alice, "a2") == disk.content


def test_a_base_that_was_deleted_before_is_refused(store, alice, disk):
    archive(store, alice, disk, "a1")
    base = base_of(store, alice, "a1")
    delete_archive(store, "alice", "a1")
    with ArchiveWriter(store, alice) as writer, pytest.raises(Interrupted, match="deleted meanwhile"):
        write_disk(writer, disk, [], base)


def test_a_writer_that_gc_gave_up_cannot_commit(store, alice, disk, monkeypatch):
    """It was suspended, say, for so long that its packs may have gone."""
    with ArchiveWriter(store, alice) as writer:
        write_disk(writer, disk)
        monkeypatch.setattr(sessions, "STALE_S", -1)
        collect_all(store, alice)
        with pytest.raises(RepositoryUnavailable, match="made again"):
            commit(writer, "a1")
    assert list(store.list("tenants/alice/archives/")) == []


@pytest.mark.parametrize("when", ["before", "while"])
def test_no_manifest_stays_of_a_session_that_gc_ended(store, alice, disk, monkeypatch, when):
    """Before the manifest is written it is not even attempted; while it is written, it is taken back."""
    put, manifests = store.put, []

    def put_and_note(name, data):
        put(name, data)
        if "/archives/" in name:
            manifests.append(name)
            end_sessions()

    def end_sessions():
        for stored in list(store.list("tenants/alice/sessions/")):
            store.delete(stored.name)

    monkeypatch.setattr(store, "put", put_and_note)
    with ArchiveWriter(store, alice) as writer:
        write_disk(writer, disk)
        if when == "before":
            end_sessions()
        with pytest.raises(RepositoryUnavailable):
            commit(writer, "a1")
    assert len(manifests) == (0 if when == "before" else 1)
    assert list(store.list("tenants/alice/archives/")) == []


def test_a_heartbeat_keeps_a_session_alive(store, monkeypatch):
    monkeypatch.setattr(sessions, "HEARTBEAT_S", 0.01)
    session = sessions.WriterSession(store, "alice")
    while len(list(store.list("tenants/alice/sessions/"))) < 2:
        assert list(store.list("tenants/alice/sessions/"))
    (seen,) = sessions.living(store, "alice", 0.0)
    assert (seen.id, seen.heard_s >= seen.started_s) == (session.id, True)
    session.end()
    assert list(store.list("tenants/alice/sessions/")) == []


def test_nothing_is_deleted_while_a_map_cannot_be_read(store, alice, disk):
    archive(store, alice, disk, "a1")
    archive(store, alice, disk, "a2", [disk.scribble(0, 1)], since="a1")
    delete_archive(store, "alice", "a1")
    for stored in [s for s in store.list("tenants/alice/packs/") if s.size_bytes < 2048]:
        (store.root / stored.name).write_bytes(b"rubbish")
    before = pack_bytes(store)
    with pytest.raises(ArchiveDamaged):
        collect_all(store, alice)
    assert pack_bytes(store) == before


def test_small_indexes_are_merged(store, alice, disk):
    for number in range(gc.MERGED_FROM_FILES):
        disk.scribble(0, 100)
        archive(store, alice, disk, f"a{number}")
    collect_all(store, alice, rounds=2)
    assert len(list(store.list("tenants/alice/index/"))) == 1
    assert restored(store, alice, f"a{gc.MERGED_FROM_FILES - 1}") == disk.content


class Killed(BaseException):
    """As by SIGKILL: nothing catches it."""


class FailingStore(FolderStore):
    """Dies at the n-th change."""

    changes_left = 10**9

    def _count(self) -> None:
        self.changes_left -= 1
        if self.changes_left < 0:
            raise Killed

    def begin(self, name):
        self._count()
        return super().begin(name)

    def delete(self, name):
        self._count()
        super().delete(name)


@pytest.mark.parametrize("rounds_before", range(3))
def test_gc_may_die_at_any_point(tmp_path, alice, rounds_before):
    disk = Disk(CHUNK_BYTES)
    store = FailingStore.create(tmp_path / "r")
    for number in range(3):
        disk.scribble(0, CHUNK_BYTES)
        archive(store, alice, disk, f"a{number}")
    delete_archive(store, "alice", "a0")
    delete_archive(store, "alice", "a1")
    collect_all(store, alice, rounds_before)
    for changes in range(100):
        copy = FailingStore(shutil.copytree(store.root, tmp_path / f"copy-{changes}"))
        copy.changes_left = changes
        died = False
        try:
            collect(copy, "alice", alice, grace_s=0)
        except Killed:
            died = True
        copy.changes_left = 10**9
        assert restored(copy, alice, "a2") == disk.content
        assert archive(copy, alice, disk, "a4").bytes_new == 0
        collect_all(copy, alice)
        assert restored(copy, alice, "a4") == disk.content
        assert len(list(copy.list("tenants/alice/packs/"))) == 2
        if not died:
            return
    pytest.fail("gc never came to its end")


@pytest.mark.parametrize("seed", range(6))
def test_every_archive_stays_readable_whatever_happens_in_whatever_order(tmp_path, alice, seed):
    """Backups that overlap, increments, deletions, and gc in between that dies now and then."""
    store, chance = FailingStore.create(tmp_path / "r"), random.Random(seed)
    contents = [chance.randbytes(2 * CHUNK_BYTES) for _ in range(3)]
    expected, running = {}, []

    def begin():
        writer = ArchiveWriter(store, alice).__enter__()
        disk = Disk(2 * CHUNK_BYTES)
        disk.content[:] = chance.choice(contents)
        base_id = chance.choice([*expected, None])
        if base_id:
            disk.content[:CHUNK_BYTES] = expected[base_id][:CHUNK_BYTES]
            area = disk.write(CHUNK_BYTES, chance.choice(contents)[:CHUNK_BYTES])
            write_disk(writer, disk, [area], base_of(store, alice, base_id))
        else:
            write_disk(writer, disk)
        running.append((writer, bytes(disk.content)))

    def end():
        if running:
            writer, content = running.pop(chance.randrange(len(running)))
            if chance.random() < 0.8:
                commit(writer, f"a{step}")
                expected[f"a{step}"] = content
            writer.__exit__(None, None, None)

    def delete():
        if expected:
            delete_archive(store, "alice", expected.popitem()[0])

    def gather():
        store.changes_left = chance.choice([3, 10, 10**9])
        with suppress(Killed):
            collect(store, "alice", alice, grace_s=0)
        store.changes_left = 10**9

    for step in range(60):  # noqa: B007
        chance.choice([begin, end, end, delete, gather, gather])()
    while running:
        step += 1
        end()
    collect_all(store, alice)
    for archive_id, content in expected.items():
        assert restored(store, alice, archive_id) == content


def test_gc_beside_writers_that_work_at_full_speed_loses_nothing(store, alice):
    """Chains of increments of overlapping content whose bases are deleted behind them, while gc runs in a loop."""

    def chain(name: str) -> tuple[str, bytes]:
        disk = Disk(4 * CHUNK_BYTES)
        disk.scribble(0, 2 * CHUNK_BYTES)
        archive(store, alice, disk, f"{name}-0")
        for number in range(1, 12):
            area = disk.scribble(number % 4 * CHUNK_BYTES, 100)
            archive(store, alice, disk, f"{name}-{number}", [area], since=f"{name}-{number - 1}")
            delete_archive(store, "alice", f"{name}-{number - 1}")
        return f"{name}-{number}", bytes(disk.content)

    with ThreadPoolExecutor(3) as pool:
        chains = [pool.submit(chain, name) for name in ("one", "two", "three")]
        while not all(done.done() for done in chains):
            collect_all(store, alice, rounds=1)
    collect_all(store, alice)
    for done in chains:
        archive_id, content = done.result()
        assert restored(store, alice, archive_id) == content
        assert verify.check(store, alice, archive_id) > 0
