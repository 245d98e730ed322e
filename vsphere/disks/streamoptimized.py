"""Stream-optimised VMDKs: the form in which NFC carries whole disks. Grains of 64 KiB, deflated, those of zeros left
out, in ascending order, so a disk can be read and written without ever seeking.

After VMware's Virtual Disk Format 5.0, "Stream-Optimized Compressed Sparse Extents". Nothing that a stream claims is
believed before it is checked: a damaged one costs an error, and no memory to speak of.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from backups.errors import DiskUnreadable

SECTOR_BYTES = 512
GRAIN_BYTES = 65536
TABLE_GRAINS = 512
OVERHEAD_SECTORS = 128
HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
MAGIC, NEWLINES = b"KDMV", b"\n \r\n"
VERSION, DEFLATE = 3, 1
HAS_NEWLINES, COMPRESSED, MARKERS = 1, 1 << 16, 1 << 17
AT_END = 2**64 - 1
"""The grain directory's offset is in the footer."""
MARKER = struct.Struct("<QI")
GRAIN_MARKER_BYTES = MARKER.size
KIND = OFFSET = struct.Struct("<I")
END_OF_STREAM, GRAIN_TABLE, GRAIN_DIRECTORY, FOOTER = range(4)
GRAIN_LIMITS = range(8, 2049)
"""Sectors: from 4 KiB, the format's least, to 1 MiB."""
LONGEST_OVERHEAD_SECTORS = 2**21
PIECE_BYTES = 2**20
ZEROS = bytes(GRAIN_BYTES)
LEVEL, STORED = 1, 0
SAMPLE = slice(GRAIN_BYTES // 2, GRAIN_BYTES // 2 + 4096)
WORTH_IT = 0.9
"""Deflating what does not shrink takes ten times as long as all the rest, so a sample is tried first."""


class Stream(Protocol):
    def read(self, length: int, /) -> bytes:
        """Less than `length` only at the end."""


@dataclass(frozen=True)
class Header:
    capacity_bytes: int
    grain_bytes: int
    overhead_bytes: int
    tables_follow: bool
    """As in what vCenter sends; qemu, which can seek, puts them in front without telling so."""


def damaged(why: str) -> DiskUnreadable:
    return DiskUnreadable(f"The disk arrives as a damaged stream: {why}. It is tried again later.")


def read_header(stream: Stream) -> Header:
    """Reads up to the first grain. Raises DiskUnreadable."""
    raw = _exactly(stream, SECTOR_BYTES)
    fields = HEADER.unpack_from(raw)
    magic, version, flags, capacity, grain = fields[:5]
    overhead, compression = fields[10], fields[13]
    if magic != MAGIC:
        raise damaged("it is no virtual disk")
    if version > VERSION or not flags & COMPRESSED or not flags & MARKERS or compression != DEFLATE:
        raise damaged("it is a virtual disk, but not a stream-optimised one")
    if grain not in GRAIN_LIMITS or grain & (grain - 1) or not 1 <= overhead <= LONGEST_OVERHEAD_SECTORS:
        raise damaged("its header makes no sense")
    _skip(stream, (overhead - 1) * SECTOR_BYTES)
    return Header(capacity * SECTOR_BYTES, grain * SECTOR_BYTES, overhead * SECTOR_BYTES, fields[9] == AT_END)


def grains(stream: Stream, header: Header) -> Iterator[tuple[int, bytes]]:
    """(start, data) of each grain that is there, ascending; the last one is cut at the disk's end. Ends at the
    end-of-stream marker alone. Raises DiskUnreadable."""
    position = seen = listed = 0
    while True:
        raw = _exactly(stream, SECTOR_BYTES)
        number, size = MARKER.unpack_from(raw)
        if size:
            start = number * SECTOR_BYTES
            if start % header.grain_bytes or not position <= start < header.capacity_bytes:
                raise damaged(f"a grain for byte {start} comes out of its place")
            yield start, _grain(stream, raw, size, header, start)
            position, seen = start + header.grain_bytes, seen + 1
        elif (kind := KIND.unpack_from(raw, GRAIN_MARKER_BYTES)[0]) == END_OF_STREAM:
            if header.tables_follow and seen != listed:
                # A run of zeros looks like the end, too.
                raise damaged(f"its tables tell of {listed} grains, and {seen} came")
            return
        else:
            listed += _metadata(stream, header, kind, number)


def _grain(stream: Stream, first: bytes, size: int, header: Header, start: int) -> bytes:
    if size > 2 * header.grain_bytes:
        raise damaged(f"a grain for byte {start} claims {size} bytes")
    rest = max(0, _padded(GRAIN_MARKER_BYTES + size) - SECTOR_BYTES)
    raw = first[GRAIN_MARKER_BYTES:] + _exactly(stream, rest)
    wanted = min(header.grain_bytes, header.capacity_bytes - start)
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(raw[:size], header.grain_bytes)
    except zlib.error as error:
        raise damaged(f"the grain for byte {start} cannot be inflated") from error
    # Some writers fill the last grain up, some cut it.
    if inflater.unconsumed_tail or not inflater.eof or len(data) not in (wanted, header.grain_bytes):
        raise damaged(f"the grain for byte {start} has not the length of a grain")
    return data[:wanted]


def _metadata(stream: Stream, header: Header, kind: int, sectors: int) -> int:
    """The tables say where the grains are in the file, which a stream need not know; but how many. Answers with the
    grains that a table tells of: 0 is none, 1 one of zeros."""
    grain_count = -(-header.capacity_bytes // header.grain_bytes)
    most = 4 * (grain_count + 2 * TABLE_GRAINS) // SECTOR_BYTES + 1
    if kind not in (GRAIN_TABLE, GRAIN_DIRECTORY, FOOTER) or sectors > most:
        raise damaged(f"it has an unknown part (kind {kind}, {sectors} sectors)")
    if kind != GRAIN_TABLE:
        _skip(stream, sectors * SECTOR_BYTES)
        return 0
    table = _exactly(stream, sectors * SECTOR_BYTES)
    return sum(offset > 1 for (offset,) in OFFSET.iter_unpack(table))


def _exactly(stream: Stream, length: int) -> bytes:
    data = stream.read(length) if length else b""
    while len(data) < length:
        more = stream.read(length - len(data))
        if not more:
            raise damaged("it ends too early")
        data += more
    return data


def _skip(stream: Stream, length: int) -> None:
    while length:
        length -= len(_exactly(stream, min(length, PIECE_BYTES)))


def _padded(length: int) -> int:
    return -(-length // SECTOR_BYTES) * SECTOR_BYTES


class Encoder:
    """Turns areas, given in ascending order, into the stream: what the three methods give, one after another. What is
    never given is zeros. Raises ValueError for an area behind the last one or outside the disk."""

    def __init__(self, capacity_bytes: int, name: str = "disk.vmdk") -> None:
        if capacity_bytes % SECTOR_BYTES:
            raise ValueError(f"{capacity_bytes} bytes are no whole number of sectors.")
        self._capacity_bytes, self._name = capacity_bytes, name
        self._written = 0
        self._end = 0
        """Of the last area given."""
        self._held, self._held_grain = bytearray(GRAIN_BYTES), -1
        """The grain that more areas may fall into."""
        self._table, self._table_number = [0] * TABLE_GRAINS, 0
        self._directory: list[int] = []

    def begin(self) -> bytes:
        descriptor = _descriptor(self._capacity_bytes // SECTOR_BYTES, self._name)
        header = self._header(AT_END, _padded(len(descriptor)) // SECTOR_BYTES)
        return self._counted((header + descriptor).ljust(OVERHEAD_SECTORS * SECTOR_BYTES, b"\0"))

    def add(self, start: int, data: bytes | memoryview) -> Iterator[bytes]:
        if start < self._end or start + len(data) > self._capacity_bytes:
            raise ValueError(f"Bytes {start} to {start + len(data)} come too late or lie outside the disk.")
        self._end = start + len(data)
        view = memoryview(data)
        while view:
            grain, within = divmod(start, GRAIN_BYTES)
            piece = view[: GRAIN_BYTES - within]
            if grain != self._held_grain:
                yield from self._flush_grain()
                self._held_grain = grain
            self._held[within : within + len(piece)] = piece
            view, start = view[len(piece) :], start + len(piece)

    def end(self) -> Iterator[bytes]:
        yield from self._flush_grain()
        tables = -(-self._capacity_bytes // (GRAIN_BYTES * TABLE_GRAINS))
        while len(self._directory) < tables:
            yield from self._flush_table()
        directory = struct.pack(f"<{tables}I", *self._directory)
        yield self._marker(_padded(len(directory)), GRAIN_DIRECTORY)
        offset = self._written // SECTOR_BYTES
        yield self._counted(directory.ljust(_padded(len(directory)), b"\0"))
        yield self._marker(SECTOR_BYTES, FOOTER)
        yield self._counted(self._header(offset, 0))
        yield self._marker(0, END_OF_STREAM)

    def _flush_grain(self) -> Iterator[bytes]:
        grain, self._held_grain = self._held_grain, -1
        if grain < 0 or self._held == ZEROS:
            return
        while grain // TABLE_GRAINS > len(self._directory):
            yield from self._flush_table()
        self._table[grain % TABLE_GRAINS] = self._written // SECTOR_BYTES
        deflated = _deflated(self._held)
        self._held[:] = ZEROS
        raw = MARKER.pack(grain * (GRAIN_BYTES // SECTOR_BYTES), len(deflated)) + deflated
        yield self._counted(raw.ljust(_padded(len(raw)), b"\0"))

    def _flush_table(self) -> Iterator[bytes]:
        if not any(self._table):
            self._directory.append(0)
            return
        raw = struct.pack(f"<{TABLE_GRAINS}I", *self._table)
        self._table = [0] * TABLE_GRAINS
        yield self._marker(len(raw), GRAIN_TABLE)
        self._directory.append(self._written // SECTOR_BYTES)
        yield self._counted(raw)

    def _marker(self, length: int, kind: int) -> bytes:
        return self._counted(struct.pack("<QII", length // SECTOR_BYTES, 0, kind).ljust(SECTOR_BYTES, b"\0"))

    def _counted(self, part: bytes) -> bytes:
        self._written += len(part)
        return part

    def _header(self, directory: int, descriptor_sectors: int) -> bytes:
        return HEADER.pack(
            MAGIC,
            VERSION,
            HAS_NEWLINES | COMPRESSED | MARKERS,
            self._capacity_bytes // SECTOR_BYTES,
            GRAIN_BYTES // SECTOR_BYTES,
            1 if descriptor_sectors else 0,
            descriptor_sectors,
            TABLE_GRAINS,
            0,
            directory,
            OVERHEAD_SECTORS,
            0,
            NEWLINES,
            DEFLATE,
        ).ljust(SECTOR_BYTES, b"\0")


def _deflated(grain: bytearray) -> bytes:
    sample = grain[SAMPLE]
    shrinks = len(zlib.compress(sample, LEVEL)) < WORTH_IT * len(sample)
    return zlib.compress(grain, LEVEL if shrinks else STORED)


def _descriptor(sectors: int, name: str) -> bytes:
    cylinders = min(max(1, sectors // (255 * 63)), 65535)
    return (
        '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="streamOptimized"\n\n'
        f'RW {sectors} SPARSE "{name}"\n\n'
        'ddb.adapterType = "lsilogic"\nddb.virtualHWVersion = "19"\n'
        f'ddb.geometry.cylinders = "{cylinders}"\nddb.geometry.heads = "255"\nddb.geometry.sectors = "63"\n'
    ).encode()
