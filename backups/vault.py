"""Secrets at rest, sealed by AES-256-GCM under the provider's master key and bound to their row and purpose: a
ciphertext that is moved to another row does not open. Fails closed."""

import json
import os
import secrets
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

from backups.errors import KeyUnavailable

KEY_ID_BYTES, NONCE_BYTES = 8, 12


def seal(secret: bytes, row: UUID, purpose: str) -> bytes:
    ring = _ring()
    key_id: str = ring["current"]
    nonce = os.urandom(NONCE_BYTES)
    sealed = AESGCM(bytes.fromhex(ring["keys"][key_id])).encrypt(nonce, secret, _binding(row, purpose))
    return bytes.fromhex(key_id) + nonce + sealed


def unseal(sealed: bytes | memoryview, row: UUID, purpose: str) -> bytes:
    """Raises KeyUnavailable: a wrong master key never yields a wrong secret."""
    sealed = bytes(sealed)
    key = _ring()["keys"].get(sealed[:KEY_ID_BYTES].hex())
    if key is None:
        raise KeyUnavailable("The master key that sealed this secret is not in the key ring; restore its file.")
    body = sealed[KEY_ID_BYTES:]
    try:
        return AESGCM(bytes.fromhex(key)).decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], _binding(row, purpose))
    except InvalidTag as error:
        raise KeyUnavailable("A stored secret does not open under its master key; it was changed or moved.") from error


def _binding(row: UUID, purpose: str) -> bytes:
    return f"{purpose}:{row}".encode()


def _ring() -> dict[str, Any]:
    """{"current": key id, "keys": {key id: key}}, both in hexadecimal; from the environment or its file."""
    if settings.HOTFIRST_MASTER_KEY:
        return json.loads(settings.HOTFIRST_MASTER_KEY)
    path = Path(settings.HOTFIRST_HOME) / "master.key"
    if not path.exists():
        _make_ring(path)
    return json.loads(path.read_text())


def _make_ring(path: Path) -> None:
    """Made under a name of its own and linked: of two processes at a first start, one wins and both read it."""
    key_id = secrets.token_hex(KEY_ID_BYTES)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{key_id}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"current": key_id, "keys": {key_id: secrets.token_hex(32)}}, file)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)
    except FileExistsError:
        return
    finally:
        fresh.unlink()
