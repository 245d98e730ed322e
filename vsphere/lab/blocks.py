"""Fixed-size blocks in files: maps that survive a killed process, and reads and writes that are never short."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

BLOCK_BYTES = 65536
ITEM_BYTES = {"B": 1, "I": 4}


class BlockArray:
    """One number per block in a memory-mapped file: `B` for flags, `I` for epochs."""

    def __init__(self, path: Path, typecode: str, blocks: int) -> None:
        size = ITEM_BYTES[typecode] * blocks
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, size)
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self.view = memoryview(self._map).cast("B").cast(typecode)  # type: ignore[call-overload]

    def first_set(self, limit: int) -> list[int]:
        """The first blocks whose flag is set."""
        found: list[int] = []
        position = self._map.find(b"\x01")
        while position >= 0 and len(found) < limit:
            found.append(position)
            position = self._map.find(b"\x01", position + 1)
        return found

    def count(self) -> int:
        return self._map[:].count(b"\x01")

    def close(self) -> None:
        self.view.release()
        self._map.close()


def data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a sparse file that are not holes, as (start, end)."""
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole is left.
            return
        position = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, position


def pread_exactly(fd: int, length: int, start: int) -> bytes:
    """Behind the end of the file are zeros: a delta file is only as long as its last block."""
    data = os.pread(fd, length, start)
    while len(data) < length:
        more = os.pread(fd, length - len(data), start + len(data))
        if not more:
            return data + bytes(length - len(data))
        data += more
    return data


def pwrite_fully(fd: int, data: bytes | bytearray | memoryview, start: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, start)
        view, start = view[written:], start + written
