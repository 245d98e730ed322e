from dataclasses import replace

import pytest

from backups.archive import documents, key_objects
from backups.archive.key_objects import Cost, MasterRing
from backups.archive.store import FolderStore
from backups.errors import ArchiveDamaged, InvalidRequest, KeyUnavailable
from tests.unit.archive.disks import archive, restored

QUICK = Cost(memory_kib=64, passes=1, lanes=1)
OLD, NEW = "correct horse battery staple", "another long passphrase"
RING = MasterRing("aa", {"aa": bytes(32), "bb": b"\1" * 32})
ROTATED = replace(RING, current="bb")


@pytest.fixture
def held(store, alice):
    """Alice holds her own key: the provider can write."""
    key_objects.publish(store, "alice", key_objects.seal_by_passphrase(alice, OLD, QUICK))
    key_objects.publish(store, "alice", key_objects.seal_by_master(alice.without_private(), RING))
    return store


def names(store: FolderStore) -> list[str]:
    return [stored.name for stored in store.list("tenants/alice/keys/")]


def test_a_tenant_who_holds_his_key_reads_with_his_passphrase_alone(held, alice, disk):
    archive(held, key_objects.find_by_master(held, "alice", RING), disk, "a1")
    assert restored(held, key_objects.find_by_passphrase(held, "alice", OLD), "a1") == disk.content


def test_his_provider_cannot_read(held, alice):
    assert key_objects.find_by_master(held, "alice", RING) == alice.without_private()


def test_another_passphrase_opens_nothing(held):
    with pytest.raises(KeyUnavailable, match="capitals"):
        key_objects.find_by_passphrase(held, "alice", OLD.title())


def test_a_passphrase_may_be_typed_on_any_keyboard(store, alice):
    sealed = key_objects.seal_by_passphrase(alice, "Gr\u00fc\u00dfe aus M\u00fcnchen", QUICK)
    assert key_objects.open_by_passphrase(sealed, "Gru\u0308\u00dfe aus Mu\u0308nchen") == alice


def test_a_short_passphrase_is_refused(alice):
    with pytest.raises(InvalidRequest, match="12 characters"):
        key_objects.seal_by_passphrase(alice, "hunter2", QUICK)


def test_a_changed_passphrase_replaces_the_old_one_and_no_data(held, alice, disk):
    archive(held, alice, disk, "a1")
    before = {stored.name for stored in held.list("tenants/alice/packs/")}
    key_objects.change_passphrase(held, "alice", OLD, NEW, QUICK)
    assert key_objects.find_by_passphrase(held, "alice", NEW) == alice
    with pytest.raises(KeyUnavailable):
        key_objects.find_by_passphrase(held, "alice", OLD)
    assert {stored.name for stored in held.list("tenants/alice/packs/")} == before
    assert len(names(held)) == 2


def test_a_master_key_is_rotated_without_the_tenants_help(held, alice):
    assert key_objects.rotate_master(held, "alice", ROTATED)
    assert not key_objects.rotate_master(held, "alice", ROTATED)
    without_old = MasterRing("bb", {"bb": ROTATED.keys["bb"]})
    assert key_objects.find_by_master(held, "alice", without_old) == alice.without_private()
    assert key_objects.find_by_passphrase(held, "alice", OLD) == alice


def renew(store: FolderStore, by: str) -> None:
    if by == "passphrase":
        key_objects.change_passphrase(store, "alice", OLD, NEW, QUICK)
    else:
        key_objects.rotate_master(store, "alice", ROTATED)


@pytest.mark.parametrize("by", ["passphrase", "master"])
def test_a_rotation_that_died_in_the_middle_leaves_both_and_the_next_one_clears_up(held, alice, monkeypatch, by):
    monkeypatch.setattr(held, "delete", lambda name: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        renew(held, by)
    monkeypatch.undo()
    assert len(names(held)) == 3
    assert key_objects.find_by_passphrase(held, "alice", OLD) == alice
    assert key_objects.find_by_master(held, "alice", RING) == alice.without_private()
    renew(held, by)
    assert len(names(held)) == 2


def test_a_master_key_that_is_gone_is_named(held):
    with pytest.raises(KeyUnavailable, match="restore its file"):
        key_objects.find_by_master(held, "alice", MasterRing("cc", {"cc": bytes(32)}))


@pytest.mark.parametrize("text", ["", "{}", '{"current": "a", "keys": {}}', '{"current": "a", "keys": {"a": "00"}}'])
def test_what_is_no_ring_is_refused(text):
    with pytest.raises(KeyUnavailable, match="master keys"):
        MasterRing.parse(text)


def test_a_key_is_of_its_tenant_alone(store, alice):
    said = documents.decode(key_objects.seal_by_passphrase(alice, OLD, QUICK), "key")
    forged = documents.encode({**{k: v for k, v in said.items() if k != "version"}, "tenant": "bob"})
    with pytest.raises(KeyUnavailable):
        key_objects.open_by_passphrase(forged, OLD)


@pytest.mark.parametrize("field", ["memory_kib", "passes", "lanes"])
def test_a_hostile_key_costs_no_memory(alice, field):
    said = documents.decode(key_objects.seal_by_passphrase(alice, OLD, QUICK), "key")
    hostile = documents.encode({**{k: v for k, v in said.items() if k != "version"}, field: 2**31})
    with pytest.raises(ArchiveDamaged, match="more memory"):
        key_objects.open_by_passphrase(hostile, OLD)


def test_a_damaged_key_does_not_hide_a_sound_one(held, alice):
    sealed = key_objects.seal_by_passphrase(alice, OLD, QUICK)
    held.put("tenants/alice/keys/a-damaged-one", sealed.replace(b"argon2id", b"argon2ix"))
    assert key_objects.find_by_passphrase(held, "alice", OLD) == alice


def test_keys_are_copied_as_they_are(held, alice, tmp_path):
    other = FolderStore.create(tmp_path / "other")
    assert key_objects.copy(held, other, "alice") == 2
    key_objects.change_passphrase(held, "alice", OLD, NEW, QUICK)
    assert key_objects.copy(held, other, "alice") == 1
    assert names(other) == names(held)
    assert key_objects.find_by_passphrase(other, "alice", NEW) == alice
