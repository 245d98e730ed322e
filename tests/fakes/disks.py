"""Disks in memory, with the change tracking that vSphere has: blocks carry the epoch of their last write."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from backups.errors import DiskUnreadable, PlatformError
from backups.platform import Area, Disk

BLOCK_BYTES = 65536


@dataclass
class MemoryDisk:
    disk: Disk
    data: bytearray
    epochs: dict[int, int] = field(default_factory=dict)
    """Block number to the epoch of its last write."""

    @classmethod
    def empty(cls, disk: Disk) -> "MemoryDisk":
        return cls(disk, bytearray(disk.capacity_bytes))

    def write(self, start: int, data: bytes, epoch: int) -> None:
        if start < 0 or start + len(data) > len(self.data):
            raise PlatformError("These bytes lie outside the disk.")
        self.data[start : start + len(data)] = data
        for block in range(start // BLOCK_BYTES, (start + max(len(data), 1) - 1) // BLOCK_BYTES + 1):
            self.epochs[block] = epoch


def areas_since(epochs: dict[int, int], since: int, capacity_bytes: int) -> list[Area]:
    areas: list[Area] = []
    for block in sorted(block for block, epoch in epochs.items() if epoch > since):
        start = block * BLOCK_BYTES
        length = min(BLOCK_BYTES, capacity_bytes - start)
        if areas and areas[-1].end == start:
            start, length = areas[-1].start, areas.pop().length + length
        areas.append(Area(start=start, length=length))
    return areas


def changed_bytes(disk: MemoryDisk, since: int) -> int:
    return sum(area.length for area in areas_since(disk.epochs, since, len(disk.data)))


class MemoryReader:
    transport = "memory"
    transport_reason = "the fake keeps disks in memory"

    def __init__(self, data: bytes, is_there: Callable[[], bool]) -> None:
        self._data, self.capacity_bytes, self._is_there = data, len(data), is_there

    def read(self, start: int, length: int) -> bytes:
        if start < 0 or length < 0 or start + length > self.capacity_bytes:
            raise DiskUnreadable("These bytes lie outside the disk.")
        if not self._is_there():
            raise DiskUnreadable("The snapshot that was being read has gone.")
        return self._data[start : start + length]

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class MemoryWriter:
    def __init__(self, write: Callable[[int, bytes], None]) -> None:
        self.write = write

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
