"""Stream-optimised disks: what is written is read back, by us and by qemu, and damage costs an error and no memory."""

import io
import random
import shutil
import struct
import subprocess
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import pytest

from backups.errors import DiskUnreadable
from vsphere.disks import streamoptimized
from vsphere.disks.streamoptimized import GRAIN_BYTES, MARKER, SECTOR_BYTES, Encoder, grains, read_header

needs_qemu = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")


def encoded(capacity_bytes: int, *areas: tuple[int, bytes]) -> bytes:
    encoder = Encoder(capacity_bytes)
    parts = [encoder.begin()]
    for start, data in areas:
        parts += encoder.add(start, data)
    return b"".join([*parts, *encoder.end()])


def decoded(raw: bytes) -> bytes:
    stream = io.BytesIO(raw)
    header = read_header(stream)
    disk = bytearray(header.capacity_bytes)
    for start, data in grains(stream, header):
        disk[start : start + len(data)] = data
    return bytes(disk)


def areas_of(chance: random.Random, capacity_bytes: int) -> list[tuple[int, bytes]]:
    """Ascending, of any alignment; some of zeros, some long."""
    found, at = [], 0
    while (start := at + chance.choice((0, 1, 700, 5 * GRAIN_BYTES, 600 * GRAIN_BYTES))) < capacity_bytes:
        length = min(chance.choice((1, 511, GRAIN_BYTES, 3 * GRAIN_BYTES + 7)), capacity_bytes - start)
        found.append((start, bytes(length) if chance.random() < 0.2 else chance.randbytes(length)))
        at = start + length
    return found


@pytest.mark.parametrize("seed", range(30))
def test_what_is_written_is_read_back(seed: int) -> None:
    chance = random.Random(seed)
    capacity = chance.choice((SECTOR_BYTES, GRAIN_BYTES, 3 * GRAIN_BYTES + SECTOR_BYTES, 70 * 2**20 + SECTOR_BYTES))
    areas = areas_of(chance, capacity)
    wanted = bytearray(capacity)
    for start, data in areas:
        wanted[start : start + len(data)] = data
    assert decoded(encoded(capacity, *areas)) == wanted


def test_an_empty_disk_is_short() -> None:
    raw = encoded(2**40)
    assert len(raw) < 300_000
    stream = io.BytesIO(raw)
    assert list(grains(stream, read_header(stream))) == []


def test_zeros_take_no_room() -> None:
    assert len(encoded(8 * 2**20, (0, bytes(8 * 2**20)))) == len(encoded(8 * 2**20))


def test_areas_must_come_in_order_and_inside_the_disk() -> None:
    encoder = Encoder(GRAIN_BYTES)
    list(encoder.add(100, b"x"))
    with pytest.raises(ValueError, match="too late"):
        list(encoder.add(100, b"y"))
    with pytest.raises(ValueError, match="outside"):
        list(encoder.add(GRAIN_BYTES - 1, b"yy"))


@needs_qemu
@pytest.mark.parametrize("capacity", [3 * 2**20, 70 * 2**20 + 512])
def test_qemu_reads_what_we_write_and_we_read_what_qemu_writes(tmp_path: Path, capacity: int) -> None:
    areas = areas_of(random.Random(capacity), capacity)
    raw, ours, back, theirs = (tmp_path / name for name in ("disk.raw", "ours.vmdk", "back.raw", "theirs.vmdk"))
    ours.write_bytes(encoded(capacity, *areas))
    qemu = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", str(ours), str(back)]
    subprocess.run(qemu, check=True, timeout=60)
    assert back.read_bytes() == decoded(ours.read_bytes())
    raw.write_bytes(back.read_bytes())
    qemu = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", str(raw), str(theirs)]
    subprocess.run(qemu, check=True, timeout=60)
    assert decoded(theirs.read_bytes()) == raw.read_bytes()


SAMPLE = encoded(4 * 2**20, (0, random.Random(1).randbytes(200_000)), (2**21, b"x" * 300_000))


@pytest.mark.parametrize("seed", range(200))
def test_a_damaged_stream_gives_an_error_of_ours_or_bytes_but_never_another(seed: int) -> None:
    """Flipped bits in a deflated block can stay unnoticed only if its checksum still fits, so nearly never."""
    chance = random.Random(seed)
    raw = bytearray(SAMPLE)
    for _ in range(chance.choice((1, 3, 20))):
        at = chance.randrange(len(raw))
        raw[at] ^= 1 << chance.randrange(8)
    if chance.random() < 0.3:
        del raw[chance.randrange(len(raw)) :]
    stream = io.BytesIO(bytes(raw))
    with suppress(DiskUnreadable):
        header = read_header(stream)
        for start, data in grains(stream, header):
            assert start + len(data) <= header.capacity_bytes


@pytest.mark.parametrize("length", [0, 100, 512, 65536, 70_000, len(SAMPLE) - 600])
def test_a_stream_that_ends_too_early_is_noticed(length: int) -> None:
    with pytest.raises(DiskUnreadable, match="ends too early"):
        decoded(SAMPLE[:length])


def test_a_grain_that_would_inflate_without_end_costs_no_memory() -> None:
    bomb = zlib.compress(bytes(200 * 2**20), 9)
    assert len(bomb) > 2 * GRAIN_BYTES, "it is refused for its length, before it is read"
    small = zlib.compress(bytes(60 * 2**20), 9)
    for payload in (bomb, small):
        raw = MARKER.pack(0, len(payload)) + payload
        stream = io.BytesIO(Encoder(2**30).begin() + raw.ljust(-(-len(raw) // 512) * 512, b"\0"))
        header = read_header(stream)
        tracemalloc.start()
        with pytest.raises(DiskUnreadable, match="damaged"):
            list(grains(stream, header))
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
        tracemalloc.stop()


class Endless:
    """A server that sends zeros for ever after what it begins with."""

    def __init__(self, begin: bytes) -> None:
        self._begin = io.BytesIO(begin)
        self.sent = 0

    def read(self, length: int, /) -> bytes:
        self.sent += length
        return self._begin.read(length).ljust(length, b"\0")


def test_lengths_that_cannot_be_are_refused_unread() -> None:
    for number, size, kind in ((0, 2**31, 0), (2**40, 0, streamoptimized.GRAIN_TABLE), (1, 0, 77)):
        marker = struct.pack("<QII", number, size, kind).ljust(512, b"\0")
        stream = Endless(Encoder(2**30).begin() + marker)
        with pytest.raises(DiskUnreadable):
            list(grains(stream, read_header(stream)))
        assert stream.sent < 2**20


def test_another_kind_of_disk_is_told_apart() -> None:
    with pytest.raises(DiskUnreadable, match="no virtual disk"):
        read_header(io.BytesIO(b"# Disk DescriptorFile\n".ljust(70_000)))
    plain = bytearray(SAMPLE)
    struct.pack_into("<I", plain, 8, 1)
    with pytest.raises(DiskUnreadable, match="not a stream-optimised one"):
        read_header(io.BytesIO(plain))


def test_zeros_in_the_middle_are_not_taken_for_the_end() -> None:
    """As a host that loses blocks sends them: half a disk would be archived as zeros."""
    raw = bytearray(encoded(64 * GRAIN_BYTES, (0, random.Random(1).randbytes(40 * GRAIN_BYTES))))
    middle = len(raw) // 2 // SECTOR_BYTES * SECTOR_BYTES
    while MARKER.unpack_from(raw, middle)[1] > 2 * GRAIN_BYTES or not _begins_a_grain(raw, middle):
        middle += SECTOR_BYTES
    raw[middle:] = bytes(len(raw) - middle)
    with pytest.raises(DiskUnreadable, match="damaged stream"):
        decoded(bytes(raw))


def _begins_a_grain(raw: bytearray, at: int) -> bool:
    number, size = MARKER.unpack_from(raw, at)
    return 0 < size <= 2 * GRAIN_BYTES and number % (GRAIN_BYTES // SECTOR_BYTES) == 0 and number < 64 * 128
