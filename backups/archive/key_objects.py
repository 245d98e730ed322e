"""A tenant's keys as they lie in a repository, sealed: FORMAT.md, section 3. Each object is one way to open them, by
a passphrase or by a master key, so that a repository can be read when everything else is gone. Changing a passphrase
or a master key writes a new object and deletes the old one: no data is written again."""

import json
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from backups.archive import documents, layout
from backups.archive.keys import KEY_BYTES, NONCE_BYTES, TenantKeys, derived, public_key_of
from backups.archive.store import ObjectMissing, ObjectStore
from backups.errors import ArchiveDamaged, InvalidRequest, KeyUnavailable

FORMAT = "hotfirst-key"
SALT_BYTES = 16
MIN_PASSPHRASE = 12


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of argon2id. The limits keep a hostile object from taking all of a host's memory."""

    memory_kib: int = 256 * 1024
    passes: int = 3
    lanes: int = 4

    def check(self, name: str) -> Self:
        if not (8 <= self.memory_kib <= 2**20 and 1 <= self.passes <= 16 and 1 <= self.lanes <= 16):
            raise ArchiveDamaged(f"{name} asks for more memory or time than any passphrase needs.")
        return self


@dataclass(frozen=True)
class MasterRing:
    """The provider's master keys by their ids; `current` seals, all of them open."""

    current: str
    keys: dict[str, bytes]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of JSON: {"current": id, "keys": {id: key}}, the keys in hexadecimal."""
        try:
            said = json.loads(text)
            ring = cls(str(said["current"]), {str(name): bytes.fromhex(key) for name, key in said["keys"].items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise KeyUnavailable("This is no file of master keys; give the one that the product made.") from error
        if ring.current not in ring.keys or any(len(key) != KEY_BYTES for key in ring.keys.values()):
            raise KeyUnavailable("The file of master keys is incomplete; restore it from its copy.")
        return ring

    def __repr__(self) -> str:
        return f"MasterRing(current={self.current!r})"


def seal_by_passphrase(keys: TenantKeys, passphrase: str, cost: Cost | None = None) -> bytes:
    """All of the tenant's keys. Whoever loses the passphrase, and has no recovery sheet, loses the archives."""
    cost = cost or Cost()
    if len(passphrase) < MIN_PASSPHRASE:
        raise InvalidRequest(f"A passphrase needs {MIN_PASSPHRASE} characters at least; five random words are good.")
    salt = os.urandom(SALT_BYTES)
    head = {"by": "passphrase", "kdf": "argon2id", "salt": salt.hex(), **asdict(cost)}
    return _sealed(keys, head, _stretched(passphrase, salt, cost))


def seal_by_master(keys: TenantKeys, ring: MasterRing) -> bytes:
    """Without a private key in `keys` the object lets the provider write, and not read."""
    return _sealed(keys, {"by": "master", "master_key": ring.current}, _wrapping(ring.keys[ring.current], keys))


def open_by_passphrase(data: bytes, passphrase: str, name: str = "The key") -> TenantKeys:
    """Raises KeyUnavailable if it is another passphrase."""
    said = _parsed(data, name)
    if said["by"] != "passphrase":
        raise KeyUnavailable(f"{name} is not opened by a passphrase; it needs the provider's master key.")
    cost = Cost(memory_kib=said["memory_kib"], passes=said["passes"], lanes=said["lanes"]).check(name)
    wrapping = _stretched(passphrase, bytes.fromhex(said["salt"]), cost)
    return _opened(said, wrapping, f"The passphrase does not open {name}; check it, capitals and spaces included.")


def open_by_master(data: bytes, ring: MasterRing, name: str = "The key") -> TenantKeys:
    said = _parsed(data, name)
    key = ring.keys.get(said["master_key"]) if said["by"] == "master" else None
    if key is None:
        raise KeyUnavailable(f"The master key that opens {name} is not in the ring; restore its file.")
    tenant = TenantKeys(said["tenant"], b"", bytes.fromhex(said["public_key"]))
    return _opened(said, _wrapping(key, tenant), f"The master key does not open {name}: one of both was changed.")


def publish(store: ObjectStore, tenant_id: str, sealed: bytes) -> str:
    """Puts a sealed key into the repository, in place of all others that are opened in the same way. A kill in the
    middle leaves both, and the next call clears away the old one."""
    by = _parsed(sealed, "The key")["by"]
    old = [name for name, data in _stored(store, tenant_id) if _is(data, name, by)]
    name = f"{layout.key_objects(tenant_id)}{by}-{os.urandom(8).hex()}"
    store.put(name, sealed)
    for replaced in old:
        store.delete(replaced)
    return name


def withdraw(store: ObjectStore, tenant_id: str, by: str) -> None:
    """Takes all keys out of the repository that are opened by "passphrase", or by "master"."""
    for name, data in list(_stored(store, tenant_id)):
        if _is(data, name, by):
            store.delete(name)


def find_by_passphrase(store: ObjectStore, tenant_id: str, passphrase: str) -> TenantKeys:
    """Raises KeyUnavailable if there is no such key, or if the passphrase opens none."""
    trouble = KeyUnavailable("This repository holds no key of the tenant under a passphrase; use the recovery sheet.")
    for name, data in _stored(store, tenant_id):
        if _is(data, name, "passphrase"):
            try:
                return open_by_passphrase(data, passphrase, "the key in the repository")
            except KeyUnavailable as error:
                trouble = error
    raise trouble


def find_by_master(store: ObjectStore, tenant_id: str, ring: MasterRing) -> TenantKeys:
    """Raises KeyUnavailable if there is no such key, or if no master key of the ring opens it."""
    trouble = KeyUnavailable("This repository holds no key of the tenant under a master key.")
    for name, data in _stored(store, tenant_id):
        if _is(data, name, "master"):
            try:
                return open_by_master(data, ring, name)
            except KeyUnavailable as error:
                trouble = error
    raise trouble


def change_passphrase(store: ObjectStore, tenant_id: str, old: str, new: str, cost: Cost | None = None) -> bytes:
    """Returns the new sealed key, for whoever keeps a copy elsewhere. In copies of the repository that lie elsewhere
    the old passphrase goes on to open the old key."""
    sealed = seal_by_passphrase(find_by_passphrase(store, tenant_id, old), new, cost)
    publish(store, tenant_id, sealed)
    return sealed


def rotate_master(store: ObjectStore, tenant_id: str, ring: MasterRing) -> bool:
    """Seals the tenant's key again under the ring's current master key; False if nothing was to be done."""
    under = {name: said for name, said in _masters(store, tenant_id) if said["master_key"] != ring.current}
    if not under:
        return False
    publish(store, tenant_id, seal_by_master(find_by_master(store, tenant_id, ring), ring))
    return True


def copy(source: ObjectStore, target: ObjectStore, tenant_id: str) -> int:
    """The tenant's keys as they are, sealed; what the source no longer has goes from the target. Returns how many
    were missing."""
    kept = dict(_stored(source, tenant_id))
    missing = [name for name in kept if not target.exists(name)]
    for name in missing:
        documents.decode(kept[name], name)
        target.put(name, kept[name])
    for stored in list(target.list(layout.key_objects(tenant_id))):
        if kept and stored.name not in kept:
            target.delete(stored.name)
    return len(missing)


def _stored(store: ObjectStore, tenant_id: str) -> Iterator[tuple[str, bytes]]:
    for stored in list(store.list(layout.key_objects(tenant_id))):
        try:
            yield stored.name, documents.read_bytes(store, stored.name)
        except ObjectMissing:
            continue


def _masters(store: ObjectStore, tenant_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, data in _stored(store, tenant_id):
        if _is(data, name, "master"):
            yield name, _parsed(data, name)


def _is(data: bytes, name: str, by: str) -> bool:
    """A damaged key opens nothing, but it must not hide a sound one."""
    try:
        return bool(_parsed(data, name)["by"] == by)
    except ArchiveDamaged:
        return False


def _parsed(data: bytes, name: str) -> dict[str, Any]:
    """What is in it has the right types, whoever wrote it."""
    said = documents.decode(data, name)
    passphrase = said.get("by") == "passphrase"
    texts = ["by", "tenant", *([] if passphrase else ["master_key"])]
    numbers = ["memory_kib", "passes", "lanes"] if passphrase else []
    try:
        for field in ["public_key", "sealed", *(["salt"] if passphrase else [])]:
            bytes.fromhex(said[field])
        sound = all(isinstance(said[field], str) for field in texts) and all(type(said[n]) is int for n in numbers)
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound or said.get("format") != FORMAT:
        raise ArchiveDamaged(f"{name} is no key of an archive.")
    return said


def _sealed(keys: TenantKeys, head: dict[str, Any], wrapping: bytes) -> bytes:
    secret = keys.write_secret + (keys.private_key or b"")
    said = {"format": FORMAT, "tenant": keys.tenant_id, "public_key": keys.public_key.hex(), **head}
    nonce = os.urandom(NONCE_BYTES)
    sealed = nonce + AESGCM(wrapping).encrypt(nonce, secret, _binding(said))
    return documents.encode({**said, "sealed": sealed.hex()})


def _opened(said: dict[str, Any], wrapping: bytes, refusal: str) -> TenantKeys:
    sealed = bytes.fromhex(said["sealed"])
    try:
        secret = AESGCM(wrapping).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _binding(said))
    except (InvalidTag, ValueError) as error:
        raise KeyUnavailable(refusal) from error
    private = secret[KEY_BYTES:] or None
    if private is not None and public_key_of(private).hex() != said["public_key"]:
        raise ArchiveDamaged("The key was sealed with a public key that is not its own.")
    return TenantKeys(said["tenant"], secret[:KEY_BYTES], bytes.fromhex(said["public_key"]), private)


def _binding(said: dict[str, Any]) -> bytes:
    return f"hotfirst/1/key/{said['by']}/{said['tenant']}/{said['public_key']}".encode()


def _wrapping(master_key: bytes, keys: TenantKeys) -> bytes:
    return derived(master_key, f"hotfirst/1/master/{keys.tenant_id}")


def _stretched(passphrase: str, salt: bytes, cost: Cost) -> bytes:
    """Normalized, since keyboards write the same letter in several ways."""
    text = unicodedata.normalize("NFC", passphrase).encode()
    kdf = Argon2id(salt=salt, length=KEY_BYTES, iterations=cost.passes, lanes=cost.lanes, memory_cost=cost.memory_kib)
    return kdf.derive(text)
