"""Secrets at rest, sealed by AES-256-GCM under the provider's master key and bound to their row and purpose: a
ciphertext that is moved to another row does not open. Fails closed."""

import json
import os
import secrets
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

from backups.archive.key_objects import MasterRing
from backups.errors import InvalidRequest, KeyUnavailable

KEY_ID_BYTES, KEY_BYTES, NONCE_BYTES = 8, 32, 12


def seal(secret: bytes, row: UUID, purpose: str) -> bytes:
    ring = master_ring()
    nonce = os.urandom(NONCE_BYTES)
    sealed = AESGCM(ring.keys[ring.current]).encrypt(nonce, secret, _binding(row, purpose))
    return bytes.fromhex(ring.current) + nonce + sealed


def unseal(sealed: bytes | memoryview, row: UUID, purpose: str) -> bytes:
    """Raises KeyUnavailable: a wrong master key never yields a wrong secret."""
    sealed = bytes(sealed)
    key = master_ring().keys.get(sealed[:KEY_ID_BYTES].hex())
    if key is None:
        raise KeyUnavailable("The master key that sealed this secret is not in the key ring; restore its file.")
    body = sealed[KEY_ID_BYTES:]
    try:
        return AESGCM(key).decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], _binding(row, purpose))
    except InvalidTag as error:
        raise KeyUnavailable("A stored secret does not open under its master key; it was changed or moved.") from error


def is_under_current(sealed: bytes | memoryview) -> bool:
    return bytes(sealed)[:KEY_ID_BYTES].hex() == master_ring().current


def _binding(row: UUID, purpose: str) -> bytes:
    return f"{purpose}:{row}".encode()


def master_ring() -> MasterRing:
    """From the environment or its file, and read anew each time, so that a new key is used from its first moment on."""
    if settings.HOTFIRST_MASTER_KEY:
        return MasterRing.parse(settings.HOTFIRST_MASTER_KEY)
    path = _path()
    if not path.exists():
        _make_ring(path)
    return MasterRing.parse(path.read_text())


def add_master_key(*, current: bool) -> str:
    """Puts a new key into the ring and returns its id; the others stay. Not yet `current`, it can be carried to all
    hosts before anything is sealed with it."""
    if settings.HOTFIRST_MASTER_KEY:
        raise InvalidRequest(
            "The key ring is in HOTFIRST_MASTER_KEY: add a new key to it there, on all hosts, and name it as current."
        )
    ring, key_id = master_ring(), secrets.token_hex(KEY_ID_BYTES)
    keys = {**ring.keys, key_id: secrets.token_bytes(KEY_BYTES)}
    _replace_ring(MasterRing(key_id if current else ring.current, keys))
    return key_id


def use_master_key(key_id: str) -> None:
    """Raises InvalidRequest if it is not in the ring."""
    ring = master_ring()
    if settings.HOTFIRST_MASTER_KEY or key_id not in ring.keys:
        raise InvalidRequest(f"The key ring's file holds no key {key_id}; copy the file with it to this host first.")
    _replace_ring(MasterRing(key_id, ring.keys))


def _path() -> Path:
    return Path(settings.HOTFIRST_HOME) / "master.key"


def _make_ring(path: Path) -> None:
    """Made under a name of its own and linked: of two processes at a first start, one wins and both read it."""
    key_id = secrets.token_hex(KEY_ID_BYTES)
    fresh = _written(path, MasterRing(key_id, {key_id: secrets.token_bytes(KEY_BYTES)}))
    try:
        os.link(fresh, path)
    except FileExistsError:
        return
    finally:
        fresh.unlink()


def _replace_ring(ring: MasterRing) -> None:
    """Durable before anything is sealed with its new key."""
    path = _path()
    _written(path, ring).replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _written(path: Path, ring: MasterRing) -> Path:
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"current": ring.current, "keys": {name: key.hex() for name, key in ring.keys.items()}}, file)
        file.flush()
        os.fsync(file.fileno())
    return fresh
