"""The manifest makes an archive: FORMAT.md, section 7. It is complete, and it is written last."""

import json
import os
import struct
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from backups.archive import layout
from backups.archive.keys import NONCE_BYTES, TenantKeys, seal, unseal
from backups.archive.maps import CHUNK_BYTES, ID_BYTES, page_count
from backups.archive.store import ObjectMissing, ObjectStore
from backups.errors import ArchiveDamaged, ArchiveMissing

MAGIC, VERSION = b"HFARCHV\n", 1
HEADER = struct.Struct("<8sHxxII")
HASH_BYTES = 32
MAX_BYTES = 64 * 1024 * 1024
"""Of a manifest as it is stored, and of either part of it when it is opened."""
MAX_WINDOW_BYTES = 8 * 1024 * 1024
MAX_DISKS = 1024
MAX_CAPACITY_BYTES = 2**50


@dataclass(frozen=True, kw_only=True)
class DiskEntry:
    key: int
    label: str
    capacity_bytes: int
    change_id: str | None
    page_ids: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`sealed` holds configuration and extras, for the private key only."""

    archive_id: str
    backup_time: datetime
    disks: tuple[DiskEntry, ...]
    sealed: bytes

    def private_part(self, keys: TenantKeys) -> dict[str, Any]:
        """Raises KeyUnavailable, ArchiveDamaged."""
        what = f"The configuration of archive {self.archive_id}"
        opened = unseal(keys, self.sealed, _context(keys.tenant_id, self.archive_id), what)
        return _parsed(opened, what)


def seal_private_part(keys: TenantKeys, archive_id: str, config: dict[str, Any], extra: dict[str, Any]) -> bytes:
    plain = zstandard.compress(json.dumps({"config": config, "extra": extra}).encode())
    return seal(keys.public_key, plain, _context(keys.tenant_id, archive_id))


def encode(manifest: Manifest, keys: TenantKeys) -> bytes:
    plain = zstandard.compress(json.dumps(_public_part(manifest)).encode())
    nonce = os.urandom(NONCE_BYTES)
    binding = _context(keys.tenant_id, manifest.archive_id) + blake3(manifest.sealed).digest()
    public = nonce + AESGCM(keys.manifest_key).encrypt(nonce, plain, binding)
    body = HEADER.pack(MAGIC, VERSION, len(public), len(manifest.sealed)) + public + manifest.sealed
    return body + blake3(body).digest()


def load(store: ObjectStore, keys: TenantKeys, archive_id: str) -> Manifest:
    """Needs no private key. Raises ArchiveMissing, ArchiveDamaged."""
    name = layout.archive(keys.tenant_id, archive_id)
    try:
        return decode(read(store, name), keys, archive_id, name)
    except ObjectMissing as error:
        raise ArchiveMissing(
            f"Archive {archive_id} is not in the repository: it was deleted, or lies in another one."
        ) from error


def read(store: ObjectStore, name: str) -> bytes:
    """No more of it than a manifest may have. Raises ObjectMissing."""
    return store.get_range(name, 0, MAX_BYTES + 1)


def decode(data: bytes, keys: TenantKeys, archive_id: str, name: str) -> Manifest:
    public, sealed = split(data, name)
    binding = _context(keys.tenant_id, archive_id) + blake3(sealed).digest()
    try:
        plain = AESGCM(keys.manifest_key).decrypt(public[:NONCE_BYTES], public[NONCE_BYTES:], binding)
    except InvalidTag as error:
        raise ArchiveDamaged(f"Manifest {name} does not open with this tenant's write secret.") from error
    said = _parsed(plain, f"Manifest {name}")
    try:
        if len(said["disks"]) > MAX_DISKS:
            raise ValueError("an archive has more disks than a VM can have")
        return Manifest(
            archive_id=archive_id,
            backup_time=datetime.fromisoformat(said["backup_time"]),
            disks=tuple(_disk(disk) for disk in said["disks"]),
            sealed=sealed,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveDamaged(f"Manifest {name} says what no manifest says: {error}.") from error


def _parsed(packed: bytes, what: str) -> dict[str, Any]:
    """Whatever the frame says of itself, no more than a manifest may have is unpacked."""
    try:
        pieces, plain = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).read_to_iter(packed), bytearray()
        while len(plain) <= MAX_BYTES and (piece := next(pieces, b"")):
            plain += piece
        said = json.loads(plain) if len(plain) <= MAX_BYTES else None
    except (zstandard.ZstdError, ValueError, RecursionError) as error:
        raise ArchiveDamaged(f"{what} cannot be read: {error}.") from error
    if not isinstance(said, dict):
        raise ArchiveDamaged(f"{what} says what no manifest says.")
    return said


def split(data: bytes, name: str) -> tuple[bytes, bytes]:
    """The encrypted public part and the sealed one; checked by the hash of what is stored, without any key."""
    body, digest = data[:-HASH_BYTES], data[-HASH_BYTES:]
    if not HEADER.size <= len(body) < MAX_BYTES or blake3(body).digest() != digest:
        raise ArchiveDamaged(f"Manifest {name} is damaged.")
    magic, version, public_bytes, sealed_bytes = HEADER.unpack_from(body)
    if magic != MAGIC or HEADER.size + public_bytes + sealed_bytes != len(body):
        raise ArchiveDamaged(f"Manifest {name} is damaged.")
    if version != VERSION:
        raise ArchiveDamaged(f"Manifest {name} has version {version}, which this product does not know; update it.")
    return body[HEADER.size :][:public_bytes], body[HEADER.size + public_bytes :]


def _public_part(manifest: Manifest) -> dict[str, Any]:
    return {
        "backup_time": manifest.backup_time.isoformat(),
        "chunk_bytes": CHUNK_BYTES,
        "disks": [
            {
                "key": disk.key,
                "label": disk.label,
                "capacity_bytes": disk.capacity_bytes,
                "change_id": disk.change_id,
                "pages": b64encode(b"".join(disk.page_ids)).decode(),
            }
            for disk in manifest.disks
        ],
    }


def _disk(said: dict[str, Any]) -> DiskEntry:
    """Raises KeyError, TypeError or ValueError for what cannot be a disk."""
    key, label, capacity_bytes, change_id = (said[name] for name in ("key", "label", "capacity_bytes", "change_id"))
    pages = b64decode(said["pages"], validate=True)
    typed = isinstance(key, int) and isinstance(label, str) and isinstance(change_id, str | None)
    if not typed or not isinstance(capacity_bytes, int) or not 0 < capacity_bytes <= MAX_CAPACITY_BYTES:
        raise ValueError("a disk of that size or name cannot be")
    if len(pages) != page_count(capacity_bytes) * ID_BYTES:
        raise ValueError("a disk has more or fewer pages than its size needs")
    return DiskEntry(
        key=key,
        label=label,
        capacity_bytes=capacity_bytes,
        change_id=change_id,
        page_ids=tuple(pages[at : at + ID_BYTES] for at in range(0, len(pages), ID_BYTES)),
    )


def _context(tenant_id: str, archive_id: str) -> bytes:
    return f"hotfirst/1/archive/{tenant_id}/{archive_id}".encode()
