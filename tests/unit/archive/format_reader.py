"""A second reader of archives, written from FORMAT.md alone: it imports nothing of the product."""

import base64
import hashlib
import json
import struct
import unicodedata
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

CHUNK_BYTES, ZERO_ID = 262_144, bytes(32)


def hkdf(secret: bytes, salt: bytes, info: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info.encode()).derive(secret)


class FormatReader:
    def __init__(self, root: Path, tenant: str, write_secret: bytes, private_key: bytes) -> None:
        assert json.loads((root / "repository.json").read_text())["version"] == 1
        self.folder, self.tenant = root / "tenants" / tenant, tenant
        self.write_secret, self.private = write_secret, X25519PrivateKey.from_private_bytes(private_key)
        self.where = self._read_indexes()

    def key(self, purpose: str) -> bytes:
        return hkdf(self.write_secret, b"", f"hotfirst/1/{purpose}/{self.tenant}")

    def unseal(self, sealed: bytes, context: str) -> bytes:
        public = self.private.public_key().public_bytes_raw()
        recipient, ephemeral, nonce, box = sealed[:8], sealed[8:40], sealed[40:52], sealed[52:]
        assert recipient == hashlib.sha256(public).digest()[:8]
        shared = self.private.exchange(X25519PublicKey.from_public_bytes(ephemeral))
        return AESGCM(hkdf(shared, ephemeral + public, "hotfirst/1/seal")).decrypt(nonce, box, context.encode())

    def manifest(self, archive: str) -> tuple[dict[str, Any], dict[str, Any]]:
        data = (self.folder / "archives" / archive).read_bytes()
        assert blake3(data[:-32]).digest() == data[-32:]
        magic, version, public_length, sealed_length = struct.unpack_from("<8sHxxII", data)
        assert (magic, version) == (b"HFARCHV\n", 1)
        public, sealed = data[20 : 20 + public_length], data[20 + public_length :][:sealed_length]
        context = f"hotfirst/1/archive/{self.tenant}/{archive}"
        opened = AESGCM(self.key("manifest")).decrypt(
            public[:12], public[12:], context.encode() + blake3(sealed).digest()
        )
        secret = self.unseal(sealed, context)
        return json.loads(zstandard.decompress(opened)), json.loads(zstandard.decompress(secret))

    def disk(self, archive: str, number: int = 0) -> bytes:
        disk = self.manifest(archive)[0]["disks"][number]
        content = bytearray(disk["capacity_bytes"])
        page_ids = base64.b64decode(disk["pages"])
        for page in range(len(page_ids) // 32):
            ids = self.record(page_ids[page * 32 :][:32], "page id") or b""
            for slot in range(len(ids) // 32):
                at = (page * 1024 + slot) * CHUNK_BYTES
                chunk = self.record(ids[slot * 32 :][:32], "chunk id")
                if chunk:
                    content[at : at + len(chunk)] = chunk
        assert len(content) == disk["capacity_bytes"]
        return bytes(content)

    def record(self, record_id: bytes, id_purpose: str) -> bytes | None:
        if record_id == ZERO_ID:
            return None
        session, number, offset, stored_length, raw_length = self.where[record_id]
        pack = (self.folder / "packs" / session[:2] / f"{session}-{number:08x}").read_bytes()
        stored = pack[offset : offset + stored_length]
        key = blake3(record_id, key=self._pack_key(pack, session, number)).digest()
        packed = AESGCM(key).decrypt(stored[:12], stored[12:], record_id)
        data = packed if len(packed) == raw_length else zstandard.ZstdDecompressor().decompress(packed)
        assert len(data) == raw_length
        assert blake3(data, key=self.key(id_purpose)).digest() == record_id
        return data

    def _pack_key(self, pack: bytes, session: str, number: int) -> bytes:
        magic, version, kind, named, session_bytes, length = struct.unpack_from("<8sHBxI16sI", pack)
        assert (magic, version, named, session_bytes.hex()) == (b"HFPACK\r\n", 1, number, session)
        assert blake3(pack[: 36 + length]).digest(16) == pack[36 + length : 52 + length]
        if kind == 2:
            return self.key("page")
        return self.unseal(pack[36 : 36 + length], f"hotfirst/1/session/{self.tenant}/{session}")

    def _read_indexes(self) -> dict[bytes, tuple[str, int, int, int, int]]:
        where = {}
        for path in (self.folder / "index").iterdir():
            data = path.read_bytes()
            assert blake3(data[:-32]).digest() == data[-32:]
            magic, version, block, entries, packs = struct.unpack_from("<8sHxxIII", data, len(data) - 88)
            assert (magic, version) == (b"HFINDEX\n", 1)
            assert blake3(data[entries * 48 : -64], key=self.key("index")).digest() == data[-64:-32]
            named = list(struct.iter_unpack("<16sIB3x", data[entries * 48 :][: packs * 24]))
            macs = data[entries * 48 + packs * 24 :]
            for number, start in enumerate(range(0, entries, block)):
                content = data[start * 48 : min(entries, start + block) * 48]
                assert blake3(content, key=self.key("index")).digest(16) == macs[number * 16 :][:16]
            for record_id, pack, *place in struct.iter_unpack("<32sIIII", data[: entries * 48]):
                where[record_id] = (named[pack][0].hex(), named[pack][1], *place)
        return where


def small_object(data: bytes) -> dict[str, Any]:
    text, tail = data[:-66], data[-66:]
    assert tail == b"\n" + blake3(text).hexdigest().encode() + b"\n"
    said = json.loads(text)
    assert said["version"] == 1
    return said


def open_key(data: bytes, passphrase: str | None = None, master_keys: dict[str, bytes] | None = None) -> bytes:
    """Of a key object: write secret and private key, or the write secret alone."""
    said = small_object(data)
    assert said["format"] == "hotfirst-key"
    if said["by"] == "passphrase":
        assert said["kdf"] == "argon2id"
        kdf = Argon2id(
            salt=bytes.fromhex(said["salt"]),
            length=32,
            iterations=said["passes"],
            lanes=said["lanes"],
            memory_cost=said["memory_kib"],
        )
        wrapping = kdf.derive(unicodedata.normalize("NFC", passphrase or "").encode())
    else:
        wrapping = hkdf((master_keys or {})[said["master_key"]], b"", f"hotfirst/1/master/{said['tenant']}")
    sealed = bytes.fromhex(said["sealed"])
    context = f"hotfirst/1/key/{said['by']}/{said['tenant']}/{said['public_key']}"
    return AESGCM(wrapping).decrypt(sealed[:12], sealed[12:], context.encode())


def read_sheet(text: str) -> tuple[str, bytes]:
    """Of the numbered lines of a recovery sheet: the tenant, and write secret and private key."""
    letters = ""
    for line in text.splitlines():
        number, *groups = line.split()
        check, content = groups.pop(), "".join(groups)
        assert base64.b32encode(blake3(f"{number} {content}".encode()).digest(5))[:2] == check.encode()
        letters += content
    data = base64.b32decode(letters + "=" * (-len(letters) % 8))
    assert blake3(data[:-4]).digest(4) == data[-4:]
    assert data[0] == 1
    return data[2 : 2 + data[1]].decode(), data[2 + data[1] : -4]


def check_marker(root: Path) -> None:
    said = json.loads((root / "repository.json").read_text())
    assert said["check"] == blake3(b"hotfirst-repository/1/" + said["id"].encode()).hexdigest()


def condemned(root: Path, tenant: str) -> tuple[set[tuple[str, int]], set[str]]:
    """Packs and indexes."""
    said = [small_object(path.read_bytes()) for path in (root / "tenants" / tenant / "condemned").iterdir()]
    packs = {(session, number) for one in said for session, number in one["packs"]}
    return packs, {name for one in said for name in one["indexes"]}


def damaged(root: Path, tenant: str) -> dict[tuple[str, int], list[str]]:
    marks = {}
    for path in (root / "tenants" / tenant / "damaged").iterdir():
        session, number, _ = path.name.split("-")
        said = small_object(path.read_bytes())
        assert said["pack"] == [session, int(number, 16)]
        marks[session, int(number, 16)] = said["chunks"]
    return marks


def locked_until(root: Path, tenant: str, archive: str) -> int:
    return max(int(path.name) for path in (root / "tenants" / tenant / "locks" / archive).iterdir())


def scrub_pack(path: Path) -> int:
    """Without any key: the number of records, all of which are as they were stored."""
    data = path.read_bytes()
    count, table_at, digest, magic = struct.unpack_from("<II32s8s", data, len(data) - 48)
    assert magic == b"HFPKEND\n"
    header_length = struct.unpack_from("<I", data, 32)[0] + 52
    table = data[table_at : table_at + count * 60]
    assert table_at + count * 60 + 48 == len(data)
    assert blake3(data[:header_length] + table + data[-48:-40]).digest() == digest
    at = header_length
    for _, offset, stored_length, _, check in struct.iter_unpack("<32sIII16s", table):
        assert offset == at
        assert blake3(data[at : at + stored_length]).digest(16) == check
        at += stored_length
    assert at == table_at
    return count
