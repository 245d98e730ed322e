"""Keys of a tenant: FORMAT.md, section 3. Who holds only the public key and the write secret can write and
deduplicate, and can read neither disk data nor configuration."""

import hashlib
import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from backups.errors import ArchiveDamaged, KeyUnavailable

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
RECIPIENT_BYTES = 8


@dataclass(frozen=True)
class TenantKeys:
    tenant_id: str
    write_secret: bytes = field(repr=False)
    public_key: bytes
    private_key: bytes | None = field(default=None, repr=False)

    @classmethod
    def generate(cls, tenant_id: str) -> Self:
        return cls.of_secrets(tenant_id, os.urandom(KEY_BYTES), X25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def of_secrets(cls, tenant_id: str, write_secret: bytes, private_key: bytes) -> Self:
        return cls(tenant_id, write_secret, public_key_of(private_key), private_key)

    def without_private(self) -> Self:
        return replace(self, private_key=None)

    @cached_property
    def chunk_id_key(self) -> bytes:
        return self._derived("chunk id")

    @cached_property
    def page_id_key(self) -> bytes:
        return self._derived("page id")

    @cached_property
    def page_key(self) -> bytes:
        return self._derived("page")

    @cached_property
    def manifest_key(self) -> bytes:
        return self._derived("manifest")

    @cached_property
    def index_key(self) -> bytes:
        return self._derived("index")

    def _derived(self, purpose: str) -> bytes:
        return derived(self.write_secret, f"hotfirst/1/{purpose}/{self.tenant_id}")


def derived(secret: bytes, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=purpose.encode()).derive(secret)


def public_key_of(private_key: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def record_cipher(key: bytes, record_id: bytes) -> AESGCM:
    """A key for each record: nonces may be random without limit."""
    return AESGCM(blake3(record_id, key=key).digest())


def seal(public_key: bytes, secret: bytes, context: bytes) -> bytes:
    """Only the private key opens it, and only in the same context."""
    ephemeral = X25519PrivateKey.generate()
    ephemeral_public = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public_key))
    nonce = os.urandom(NONCE_BYTES)
    sealed = _box(shared, ephemeral_public, public_key).encrypt(nonce, secret, context)
    return _recipient(public_key) + ephemeral_public + nonce + sealed


def unseal(keys: TenantKeys, sealed: bytes, context: bytes, what: str) -> bytes:
    """`what` names the object in errors. Raises KeyUnavailable, ArchiveDamaged."""
    if keys.private_key is None:
        raise KeyUnavailable("Reading an archive needs the tenant's private key, which is not on this host.")
    if sealed[:RECIPIENT_BYTES] != _recipient(keys.public_key):
        raise KeyUnavailable(f"{what} was sealed for another key of this tenant; use the key it was written with.")
    body = sealed[RECIPIENT_BYTES:]
    ephemeral, nonce, secret = body[:KEY_BYTES], body[KEY_BYTES:][:NONCE_BYTES], body[KEY_BYTES + NONCE_BYTES :]
    shared = X25519PrivateKey.from_private_bytes(keys.private_key).exchange(
        X25519PublicKey.from_public_bytes(ephemeral)
    )
    try:
        return _box(shared, ephemeral, keys.public_key).decrypt(nonce, secret, context)
    except InvalidTag as error:
        raise ArchiveDamaged(f"{what} does not open with the tenant's key: it was altered.") from error


def _box(shared: bytes, ephemeral_public: bytes, public_key: bytes) -> AESGCM:
    salt = ephemeral_public + public_key
    return AESGCM(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=b"hotfirst/1/seal").derive(shared))


def _recipient(public_key: bytes) -> bytes:
    return hashlib.sha256(public_key).digest()[:RECIPIENT_BYTES]
