"""Whatever lies there, or is typed, gives an error of ours or an answer, and nothing else."""

import json

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from backups.archive import documents, key_objects, layout, locks, recovery_sheet, refused, verify
from backups.archive.gc import collect
from backups.archive.key_objects import MasterRing
from backups.archive.keys import TenantKeys
from backups.archive.memory import MemoryStore
from backups.errors import HotfirstError
from tests.unit.archive.disks import archive, restored
from tests.unit.archive.test_key_objects import OLD, QUICK, RING

KEYS = TenantKeys.generate("alice")
SEALED = key_objects.seal_by_passphrase(KEYS, OLD, QUICK)
SHEET = recovery_sheet.text(KEYS)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
SAID = {name: value for name, value in documents.decode(SEALED, "key").items() if name != "version"}


def signed(said: object) -> bytes:
    """As somebody writes it who knows the format, and no key."""
    text = json.dumps(said).encode()
    return text + b"\n" + blake3(text).hexdigest().encode() + b"\n"


def try_all(data: bytes) -> None:
    for work in (
        lambda: documents.decode(data, "x"),
        lambda: key_objects.open_by_passphrase(data, OLD),
        lambda: key_objects.open_by_master(data, RING),
    ):
        try:
            work()
        except HotfirstError as error:
            assert str(error)  # noqa: PT017


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400) | values.map(signed))
def test_any_small_object(data):
    try_all(data)


@settings(max_examples=200, deadline=None)
@given(field=st.sampled_from(sorted(SAID)), value=values, drop=st.booleans())
def test_a_key_with_anything_in_any_field(field, value, drop):
    said = {"version": 1, **SAID}
    if drop:
        said.pop(field)
    else:
        said[field] = value
    try_all(signed(said))


@settings(max_examples=100, deadline=None)
@given(
    folder=st.sampled_from(["condemned", "damaged"]),
    said=values | st.fixed_dictionaries({"version": st.just(1), "packs": values, "indexes": values, "chunks": values}),
)
def test_any_condemned_list_and_any_mark(folder, said):
    store = MemoryStore()
    store.put(f"tenants/alice/{folder}/{'ab' * 16}-00000001-{'cd' * 16}", signed(said))
    for found in refused.load_condemned(store, "alice"):
        assert all(layout.SESSION.fullmatch(ref.session) for ref in found.packs), "they become paths that are deleted"
        assert all(layout.is_index("alice", name) for name in found.indexes)
    refused.load(store, "alice")
    verify.scrub(store, "alice")


@pytest.mark.parametrize("evil", ["tenants/alice/index/../../bob/archives/b1", "tenants/bob/index/x", "/etc/passwd"])
def test_a_condemned_list_names_no_path_outside(evil):
    store = MemoryStore()
    store.put("tenants/alice/condemned/one", signed({"version": 1, "packs": [], "indexes": [evil]}))
    store.put("tenants/alice/condemned/two", signed({"version": 1, "packs": [["../../x", 1]], "indexes": []}))
    assert [found.readable for found in refused.load_condemned(store, "alice")] == [False, False]


def test_files_that_are_not_ours_disturb_nothing(store, disk):
    archive(store, KEYS, disk, "a1")
    for name in ("packs/ab/.DS_Store", "packs/Thumbs.db", "damaged/readme.txt"):
        store.put(f"tenants/alice/{name}", b"x")
    for _ in range(4):
        collect(store, "alice", KEYS, grace_s=0)
    assert len(verify.scrub(store, "alice").damages) == 3
    assert restored(store, KEYS, "a1") == disk.content


@settings(max_examples=100, deadline=None)
@given(name=st.text("0123456789abc-²٣", min_size=1, max_size=12))
def test_any_name_of_a_mark_or_a_lock(name):
    store = MemoryStore()
    store.put(f"tenants/alice/damaged/{name}", signed({"version": 1, "pack": [], "chunks": []}))
    store.put(f"tenants/alice/locks/a1/{name}", b"")
    refused.load(store, "alice")
    locks.locked_until(store, "alice", "a1")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300) | st.text("ABCDEFGH234567 \n", max_size=300) | st.text("0123456789 \n", max_size=60))
def test_anything_typed_as_a_sheet(typed):
    for text in (typed, f"HOTFIRST-KEY/1/{typed}"):
        recovery_sheet.looks_like_one(text)
        with pytest.raises(HotfirstError):
            recovery_sheet.parse(text)


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, len(SHEET) - 1), letter=st.characters())
def test_a_sheet_with_one_wrong_letter(at, letter):
    try:
        assert recovery_sheet.parse(SHEET[:at] + letter + SHEET[at + 1 :]) == KEYS
    except HotfirstError as error:
        assert str(error)  # noqa: PT017


@settings(max_examples=100, deadline=None)
@given(values | st.fixed_dictionaries({"current": values, "keys": values}))
def test_any_ring(said):
    with pytest.raises(HotfirstError):
        MasterRing.parse(json.dumps(said))
