from tests.unit.archive.disks import CONFIG, MIB, Disk, archive
from tests.unit.archive.format_reader import FormatReader, scrub_pack


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
