"""What every store does, on a folder, in memory, and on a real S3 server."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from backups.archive import gc, verify
from backups.archive.store import ObjectMissing
from backups.errors import Conflict
from tests.unit.archive.disks import MIB, archive, restored

NAME = "tenants/t/packs/ab/x"


def always(_view: memoryview) -> bool:
    return True


def names(store, prefix="tenants/"):
    return [stored.name for stored in store.list(prefix)]


def test_what_was_put_is_given_back(any_store):
    content = os.urandom(MIB)
    any_store.put(NAME, content)
    assert any_store.get(NAME) == content
    assert any_store.size(NAME) == MIB
    assert any_store.exists(NAME)
    assert bytes(any_store.view(NAME)) == content
    assert bytes(any_store.cached_view(NAME, always)) == bytes(any_store.cached_view(NAME, always)) == content


@pytest.mark.parametrize(
    ("start", "length"), [(0, 10), (1000, 50), (MIB - 10, 50), (MIB, 5), (MIB + 5, 5), (7, 0), (0, 2 * MIB)]
)
def test_ranges_are_shorter_at_the_end(any_store, start, length):
    content = os.urandom(MIB)
    any_store.put(NAME, content)
    assert any_store.get_range(NAME, start, length) == content[start : start + length]


def test_an_empty_object_is_an_object(any_store):
    any_store.put(NAME, b"")
    assert any_store.get(NAME) == any_store.get_range(NAME, 0, 10) == bytes(any_store.view(NAME)) == b""
    assert names(any_store) == [NAME]


def test_objects_are_written_once(any_store):
    any_store.put(NAME, b"1")
    with pytest.raises(Conflict):
        any_store.put(NAME, b"2")
    assert any_store.get(NAME) == b"1"


def test_of_many_who_put_the_same_name_exactly_one_wins(any_store):
    def attempt(number: int) -> int:
        try:
            any_store.put(NAME, str(number).encode())
        except Conflict:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


def test_an_object_is_seen_whole_or_not_at_all(any_store):
    writer = any_store.begin(NAME)
    writer.write(b"ha")
    writer.write(bytearray(b"lf"))
    assert not any_store.exists(NAME)
    assert names(any_store) == []
    writer.finish()
    writer.abandon()
    assert any_store.get(NAME) == b"half"


def test_what_is_abandoned_was_never_there(any_store):
    writer = any_store.begin(NAME)
    writer.write(b"half")
    writer.abandon()
    writer.abandon()
    assert not any_store.exists(NAME)
    any_store.put(NAME, b"whole")
    assert any_store.get(NAME) == b"whole"


def test_a_large_object_arrives_whole(any_store):
    pieces = [os.urandom(MIB) for _ in range(40)]
    writer = any_store.begin(NAME)
    for piece in pieces:
        writer.write(piece)
    writer.finish()
    writer.abandon()
    assert any_store.size(NAME) == 40 * MIB
    assert bytes(any_store.view(NAME)) == b"".join(pieces)
    assert any_store.get_range(NAME, 39 * MIB, 2 * MIB) == pieces[-1]


def test_a_large_object_is_not_overwritten(any_store):
    any_store.put(NAME, b"first")
    writer = any_store.begin(NAME)
    for _ in range(20):
        writer.write(bytes(MIB))
    with pytest.raises(Conflict):
        writer.finish()
    writer.abandon()
    assert any_store.get(NAME) == b"first"


def test_what_is_missing_is_said_to_be(any_store):
    reads = (any_store.get, any_store.size, any_store.view, lambda name: any_store.get_range(name, 0, 1))
    for read in (*reads, lambda name: any_store.cached_view(name, always)):
        with pytest.raises(ObjectMissing):
            read(NAME)
    assert not any_store.exists(NAME)
    any_store.delete(NAME)


def test_deleted_objects_are_gone_and_their_names_free(any_store):
    any_store.put(NAME, b"1")
    any_store.delete(NAME)
    assert not any_store.exists(NAME)
    any_store.put(NAME, b"2")
    assert any_store.get(NAME) == b"2"


def test_a_list_has_all_of_its_prefix_and_nothing_else_in_order(any_store):
    inside = sorted(f"tenants/t/packs/{number:02x}/x" for number in range(30))
    for name in reversed(inside):
        any_store.put(name, b"123")
    any_store.put("tenants/t/packsx/x", b"1")
    any_store.put("tenants/tt/packs/x", b"1")
    assert names(any_store, "tenants/t/packs/") == inside
    assert names(any_store, "tenants/nobody/") == []
    assert {stored.size_bytes for stored in any_store.list("tenants/t/packs/")} == {3}


def test_times_are_those_of_one_clock(any_store):
    for number in range(3):
        any_store.put(f"tenants/t/clock/{number}", b"")
    times = [stored.modified_s for stored in any_store.list("tenants/t/clock/")]
    assert times == sorted(times)
    assert times[-1] - times[0] < 60


def test_archives_live_there(any_store, alice, disk):
    """Written, changed, checked, scrubbed, deleted and collected, and restored exactly all the while."""
    archive(any_store, alice, disk, "a1")
    before = bytes(disk.content)
    stats = archive(any_store, alice, disk, "a2", [disk.scribble(2 * MIB, 9)], since="a1")
    assert stats.chunks_new == 1
    assert restored(any_store, alice, "a1") == before
    assert restored(any_store, alice, "a2") == disk.content
    verify.check(any_store, alice, "a2")
    assert not verify.scrub(any_store, "alice").damages
    gc.delete_archive(any_store, "alice", "a1")
    for _ in range(3):
        gc.collect(any_store, "alice", alice, grace_s=0)
    assert restored(any_store, alice, "a2") == disk.content
