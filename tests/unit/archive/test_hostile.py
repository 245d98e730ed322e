"""Objects that were damaged, or made by somebody who means harm and can compute every hash: only our own errors, and
no more memory than an honest object takes."""

import json
import struct
import tracemalloc
from contextlib import contextmanager

import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from backups.archive import index, manifest, packs
from backups.archive.chunks import ChunkSource
from backups.archive.index import Index, IndexFile
from backups.archive.keys import TenantKeys
from backups.archive.layout import PackRef
from backups.archive.memory import MemoryStore
from backups.archive.packs import Kind
from backups.archive.reader import ArchiveReader
from backups.archive.refused import Refused
from backups.errors import ArchiveDamaged, HotfirstError
from tests.unit.archive.disks import MIB, Disk, archive, restored

ALICE = TenantKeys.generate("alice")
MEMORY_BYTES = 40 * MIB
FUZZED = settings(max_examples=200, deadline=None)


def written() -> MemoryStore:
    store, disk = MemoryStore(), Disk(2 * MIB)
    disk.scribble(0, MIB)
    disk.write(MIB, b"hotfirst" * 50_000)
    disk.scribble(2 * MIB - 10, 10)
    archive(store, ALICE, disk, "a1")
    return store


STORE = written()
OBJECTS = {stored.name: STORE.get(stored.name) for stored in STORE.list("tenants/")}


def one_of(folder: str) -> str:
    return next(name for name in OBJECTS if f"/{folder}/" in name)


def copy_with(name: str, content: bytes) -> MemoryStore:
    store = MemoryStore()
    for other, whole in OBJECTS.items():
        store.put(other, content if other == name else whole)
    return store


@contextmanager
def bounded_memory():
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES
    finally:
        tracemalloc.stop()


@st.composite
def mutilated(draw, content: bytes) -> bytes:
    """Cut, lengthened, or with some numbers replaced, mostly where formats have their lengths: at both ends."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        edge = draw(st.integers(0, min(len(data), 200)))
        at = draw(st.sampled_from([edge, max(0, len(data) - edge)]))
        match draw(st.sampled_from(["cut", "grow", "replace", "number"])):
            case "cut":
                del data[at : at + draw(st.integers(1, 1000))]
            case "grow":
                data[at:at] = draw(st.binary(max_size=100))
            case "replace":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=8))
            case "number":
                data[at : at + 4] = draw(st.sampled_from([0, 1, 2**16, 2**31, 2**32 - 1])).to_bytes(4, "little")
    return bytes(data)


def survives(work, *expected) -> None:
    with bounded_memory():
        try:
            work()
        except HotfirstError:
            return
    assert not expected


@FUZZED
@given(data=st.data())
def test_a_mutilated_pack(data):
    name = one_of("packs")
    store = copy_with(name, data.draw(mutilated(OBJECTS[name])))
    survives(lambda: packs.read_table(store, name))
    survives(lambda: restored(store, ALICE, "a1"))
    survives(lambda: index.repair(store, ALICE))


@FUZZED
@given(data=st.data())
def test_a_mutilated_index(data):
    name = one_of("index")
    content = data.draw(mutilated(OBJECTS[name]))
    survives(lambda: list(IndexFile(name, memoryview(content), ALICE.index_key).rows()))
    survives(lambda: restored(copy_with(name, content), ALICE, "a1"))


@FUZZED
@given(data=st.data())
def test_a_mutilated_manifest_with_the_right_hash(data):
    name = one_of("archives")
    body = data.draw(mutilated(OBJECTS[name][:-32]))
    survives(lambda: restored(copy_with(name, body + blake3(body).digest()), ALICE, "a1"))


@FUZZED
@given(content=st.binary(max_size=500))
def test_anything_at_all(content):
    store = MemoryStore()
    store.put("tenants/alice/packs/00/x", content)
    survives(lambda: packs.read_table(store, "tenants/alice/packs/00/x"))
    survives(lambda: IndexFile("x", memoryview(content), ALICE.index_key))
    survives(lambda: manifest.decode(content, ALICE, "a1", "x"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


def signed_manifest(plain: bytes) -> bytes:
    """As only a host that holds the write secret can make it."""
    sealed, nonce = b"", bytes(12)
    binding = b"hotfirst/1/archive/alice/a1" + blake3(sealed).digest()
    public = nonce + AESGCM(ALICE.manifest_key).encrypt(nonce, plain, binding)
    body = struct.pack("<8sHxxII", b"HFARCHV\n", 1, len(public), len(sealed)) + public + sealed
    return body + blake3(body).digest()


honest = {"backup_time": "2026-10-25T00:30:00+00:00", "chunk_bytes": 262144, "disks": []}
disk_parts = {"key": json_values, "label": json_values, "capacity_bytes": json_values, "change_id": json_values}
disks = st.lists(st.fixed_dictionaries({**disk_parts, "pages": json_values}) | json_values, max_size=3) | json_values


@FUZZED
@given(said=json_values | disks.map(lambda disks: {**honest, "disks": disks}))
def test_a_manifest_that_says_anything_under_the_right_key(said):
    content = signed_manifest(zstandard.compress(json.dumps(said).encode()))
    survives(lambda: manifest.decode(content, ALICE, "a1", "x"))


def test_an_honest_manifest_is_believed():
    content = signed_manifest(zstandard.compress(json.dumps(honest).encode()))
    assert manifest.decode(content, ALICE, "a1", "x").disks == ()


@pytest.mark.parametrize("plain", [b"[" * 100_000, b"1" * 100_000, b"{}", b"\xff"])
def test_json_that_breaks_parsers(plain):
    with bounded_memory(), pytest.raises(ArchiveDamaged):
        manifest.decode(signed_manifest(zstandard.compress(plain)), ALICE, "a1", "x")


def test_a_manifest_that_unpacks_to_gigabytes_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(manifest, "MAX_BYTES", 4 * MIB)
    compressor = zstandard.ZstdCompressor().compressobj()
    bomb = b"".join(compressor.compress(bytes(16 * MIB)) for _ in range(64)) + compressor.flush()
    with bounded_memory(), pytest.raises(ArchiveDamaged):
        manifest.decode(signed_manifest(bomb), ALICE, "a1", "x")


def stored_record(packed: bytes, raw_bytes: int) -> ChunkSource:
    """A page, because everybody who writes has its key, in a pack that says whatever is wanted."""
    store, record_id = MemoryStore(), bytes(31) + b"\1"
    pack = packs.PackWriter(store, "alice", PackRef("ab" * 16, 0), Kind.PAGES, ALICE.page_key, b"")
    pack.add(record_id, packed, raw_bytes, bytearray(len(packed) + 100))
    pack.finish()
    name = index.write_file(store, ALICE, index.rows_of([pack]))
    return ChunkSource(store, ALICE, Index([index.open_file(store, ALICE, name)], Refused()))


@pytest.mark.parametrize("raw_bytes", [0, 1, 1000, 262_144, 262_145, 2**32 - 1])
def test_a_record_that_unpacks_to_more_than_it_says(raw_bytes):
    source = stored_record(zstandard.compress(bytes(100 * MIB)), raw_bytes)
    with bounded_memory(), pytest.raises(ArchiveDamaged):
        source.load(bytes(31) + b"\1")


def test_a_table_of_millions_of_records_is_not_read(monkeypatch):
    store, name = MemoryStore(), "tenants/alice/packs/ab/x"
    table = bytes(60) * 200_000
    whole = OBJECTS[one_of("packs")]
    header = whole[: packs.read_header(STORE, one_of("packs")).size_bytes]
    numbers = struct.pack("<II", 200_000, len(header))
    store.put(name, header + table + numbers + blake3(header + table + numbers).digest() + b"HFPKEND\n")
    with bounded_memory(), pytest.raises(ArchiveDamaged):
        packs.read_table(store, name)


def test_a_disk_whose_pages_belong_to_another_size_is_damaged():
    content = OBJECTS[one_of("archives")]
    made = manifest.decode(content, ALICE, "a1", "x")
    smaller = manifest.DiskEntry(**{**vars(made.disks[0]), "capacity_bytes": MIB})
    forged = manifest.encode(manifest.Manifest(**{**vars(made), "disks": (smaller,)}), ALICE)
    with pytest.raises(ArchiveDamaged, match="another length"):
        restored(copy_with(one_of("archives"), forged), ALICE, "a1")


def test_a_chunk_in_a_place_of_another_length_is_damaged():
    content = OBJECTS[one_of("archives")]
    made = manifest.decode(content, ALICE, "a1", "x")
    shorter = manifest.DiskEntry(**{**vars(made.disks[0]), "capacity_bytes": 2 * MIB - 1})
    forged = manifest.encode(manifest.Manifest(**{**vars(made), "disks": (shorter,)}), ALICE)
    store = copy_with(one_of("archives"), forged)
    reader = ArchiveReader(store, ALICE, "a1")
    with pytest.raises(ArchiveDamaged, match="another length"):
        reader.read(2000, 0, 2 * MIB)
