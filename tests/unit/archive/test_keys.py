from dataclasses import replace

import pytest

from backups.archive.keys import TenantKeys
from backups.archive.reader import ArchiveReader
from backups.archive.store import FolderStore
from backups.errors import ArchiveDamaged, KeyUnavailable
from tests.unit.archive.disks import KEY, archive, base_of


def test_a_host_without_the_private_key_reads_maps_and_no_data(store, alice, disk):
    archive(store, alice, disk, "a1")
    reader = ArchiveReader(store, alice.without_private(), "a1")
    assert len(list(reader.disk_map(KEY).ids())) > 0
    assert reader.disks[0].change_id == "52 de/7"
    with pytest.raises(KeyUnavailable):
        reader.read(KEY, 0, 1)
    with pytest.raises(KeyUnavailable):
        next(reader.runs(KEY))
    with pytest.raises(KeyUnavailable):
        _ = reader.config
    with pytest.raises(KeyUnavailable):
        _ = reader.extra


def test_nothing_of_disk_or_configuration_lies_in_the_open(store, alice, disk):
    disk.write(0, b"a line of the customer's ledger" * 9000)
    archive(store, alice, disk, "a1")
    stored = b"".join(path.read_bytes() for path in store.root.rglob("*") if path.is_file())
    for secret in (b"customer's ledger", b"the-root-password", b"web-1", b"Hard disk 1", alice.write_secret):
        assert secret not in stored


def test_another_private_key_is_refused_by_name(store, alice, disk):
    archive(store, alice, disk, "a1")
    other = TenantKeys.generate("alice")
    wrong = replace(alice, public_key=other.public_key, private_key=other.private_key)
    with pytest.raises(KeyUnavailable, match="another key"):
        ArchiveReader(store, wrong, "a1").read(KEY, 0, 1)


def test_another_write_secret_does_not_open_an_archive(store, alice, disk):
    archive(store, alice, disk, "a1")
    with pytest.raises(ArchiveDamaged, match="write secret"):
        ArchiveReader(store, replace(alice, write_secret=bytes(32)), "a1")


def test_the_same_data_has_another_id_for_each_tenant(store, alice, bob, disk):
    archive(store, alice, disk, "a1")
    archive(store, bob, disk, "b1")
    assert base_of(store, alice, "a1").chunk_id(0) != base_of(store, bob, "b1").chunk_id(0)


def test_the_same_data_is_never_the_same_in_two_sessions(tmp_path, alice, disk):
    """Neither keys nor nonces are used again."""
    stores = [FolderStore.create(tmp_path / name) for name in ("one", "two")]
    for store in stores:
        archive(store, alice, disk, "a1")
    one, two = ({p.read_bytes()[160:220] for p in s.root.rglob("packs/*/*")} for s in stores)
    assert one.isdisjoint(two)


def test_keys_do_not_show_in_logs(alice):
    assert str(alice.write_secret) not in repr(alice)
    assert str(alice.private_key) not in repr(alice)
