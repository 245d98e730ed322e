from datetime import UTC, datetime

from backups.archive import key_objects, locks, recovery_sheet, refused
from backups.archive.layout import PackRef
from tests.unit.archive.disks import CONFIG, MIB, Disk, archive
from tests.unit.archive.format_reader import (
    FormatReader,
    check_marker,
    condemned,
    damaged,
    locked_until,
    open_key,
    read_sheet,
    scrub_pack,
)
from tests.unit.archive.test_key_objects import QUICK, RING


def test_a_reader_written_from_the_document_alone_restores_archives(store, alice, disk):
    archive(store, alice, disk, "a1")
    before = bytes(disk.content)
    archive(store, alice, disk, "a2", [disk.scribble(2 * MIB, 9)], since="a1")
    reader = FormatReader(store.root, "alice", alice.write_secret, alice.private_key)
    assert reader.disk("a1") == before
    assert reader.disk("a2") == disk.content
    public, secret = reader.manifest("a2")
    assert public["backup_time"] == "2026-10-25T00:30:00+00:00"
    assert public["disks"][0]["change_id"] == "52 de/7"
    assert secret == {"config": CONFIG, "extra": {"vapp": "shop"}}


def test_it_restores_a_disk_of_several_pages_and_index_blocks(store, alice):
    disk = Disk(300 * MIB)
    for chunk in range(0, 1200, 3):
        disk.write(chunk * 256 * 1024, chunk.to_bytes(2) * 50)
    archive(store, alice, disk, "a1")
    assert FormatReader(store.root, "alice", alice.write_secret, alice.private_key).disk("a1") == disk.content


def test_packs_are_scrubbed_by_the_document_without_a_key(store, alice, disk):
    stats = archive(store, alice, disk, "a1")
    packs = [path for path in (store.root / "tenants/alice/packs").rglob("*") if path.is_file()]
    pages = 1
    assert sum(scrub_pack(path) for path in packs) == stats.chunks_new + pages


def test_sealed_keys_are_opened_by_the_document(alice):
    both = alice.write_secret + alice.private_key
    by_passphrase = key_objects.seal_by_passphrase(alice, "Grüße aus München", QUICK)
    assert open_key(by_passphrase, passphrase="Gru\u0308ße aus Mu\u0308nchen") == both
    assert open_key(key_objects.seal_by_master(alice, RING), master_keys=RING.keys) == both
    assert open_key(key_objects.seal_by_master(alice.without_private(), RING), master_keys=RING.keys) == both[:32]


def test_a_recovery_sheet_is_read_by_the_document(alice):
    assert read_sheet(recovery_sheet.text(alice)) == ("alice", alice.write_secret + alice.private_key)


def test_marks_lists_locks_and_the_marker_are_read_by_the_document(store, alice, disk):
    archive(store, alice, disk, "a1")
    until = datetime(2090, 1, 1, 12, 0, tzinfo=UTC)
    locks.lock(store, "alice", "a1", until)
    ref = PackRef("ab" * 16, 17)
    refused.condemn(store, "alice", [ref], ["tenants/alice/index/x"])
    refused.mark_damaged(store, "alice", ref, [b"\1" * 32])
    assert locked_until(store.root, "alice", "a1") == until.timestamp()
    assert condemned(store.root, "alice") == ({ref}, {"tenants/alice/index/x"})
    assert damaged(store.root, "alice") == {ref: ["01" * 32]}
    check_marker(store.root)
