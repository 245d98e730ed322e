"""Small objects: JSON with the hash of what is stored behind it. FORMAT.md, section 9."""

import json
import secrets
from typing import Any

from blake3 import blake3

from backups.archive.store import ObjectStore
from backups.errors import ArchiveDamaged

VERSION = 1
MAX_BYTES = 64 * 1024 * 1024
"""A longer one is not read to its end: nobody writes such."""
HASH_LINE_BYTES = 66


def encode(said: dict[str, Any]) -> bytes:
    text = json.dumps({"version": VERSION, **said}).encode()
    return text + b"\n" + blake3(text).hexdigest().encode() + b"\n"


def decode(data: bytes, name: str) -> dict[str, Any]:
    """Raises ArchiveDamaged if it is not, byte for byte, what `encode` gave."""
    text, tail = data[:-HASH_LINE_BYTES], data[-HASH_LINE_BYTES:]
    if len(data) > MAX_BYTES or tail != f"\n{blake3(text).hexdigest()}\n".encode():
        raise ArchiveDamaged(f"{name} is damaged.")
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArchiveDamaged(f"{name} is damaged.") from error
    if not isinstance(said, dict) or said.get("version") != VERSION:
        raise ArchiveDamaged(f"{name} has a version that this product does not know; update it.")
    return said


def read(store: ObjectStore, name: str) -> dict[str, Any]:
    """Raises ArchiveDamaged, ObjectMissing."""
    return decode(read_bytes(store, name), name)


def read_bytes(store: ObjectStore, name: str) -> bytes:
    """As much of it as `decode` takes, and one more. Raises ObjectMissing."""
    return store.get_range(name, 0, MAX_BYTES + 1)


def write(store: ObjectStore, folder: str, said: dict[str, Any], label: str = "") -> str:
    """Under a name of its own in the folder, which ends in `/`. Returns the name."""
    name = f"{folder}{label}{secrets.token_hex(16)}"
    store.put(name, encode(said))
    return name
