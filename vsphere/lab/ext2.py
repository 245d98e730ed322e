"""A writer of small ext2 file systems: one block group, one level of indirection more than needed for a megabyte.

Only for machines without mke2fs. Linux mounts the result with its ext4 driver; e2fsck finds nothing to mend. Laid out
after "The Second Extended File System" (nongnu.org/ext2-doc), sections 3.1 to 3.6.
"""

import struct
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

BLOCK_BYTES = 4096
MOST_BLOCKS = BLOCK_BYTES * 8
INODE_BYTES = 128
INODES = 1024
ROOT, LOST_AND_FOUND, FIRST_FREE_INODE = 2, 11, 12
DIRECT_BLOCKS = 12
POINTERS = BLOCK_BYTES // 4
DIRECTORY, REGULAR = 0o040755, 0o100644
SUPERBLOCK_AT = 1024


class TooMuchData(Exception):
    """The files do not fit the file system."""


@dataclass
class Inode:
    mode: int
    size: int = 0
    links: int = 1
    pointers: list[int] = field(default_factory=list)
    blocks: int = 0
    """Data and pointer blocks."""


@dataclass
class _Directory:
    number: int
    parent: int
    entries: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Name to inode and file type."""


class _Image:
    def __init__(self, path: Path, size_bytes: int, label: str) -> None:
        self.file = path.open("r+b")
        self.blocks = min(size_bytes // BLOCK_BYTES, MOST_BLOCKS)
        self.label = label
        self.inodes: dict[int, Inode] = {}
        # Superblock, group descriptor, two bitmaps, inode table; then data.
        self.first_data = 4 + INODES * INODE_BYTES // BLOCK_BYTES
        self.next_block = self.first_data
        self.next_inode = FIRST_FREE_INODE

    def put(self, block: int, data: bytes) -> None:
        self.file.seek(block * BLOCK_BYTES)
        self.file.write(data)

    def take_block(self) -> int:
        if self.next_block >= self.blocks:
            raise TooMuchData(f"{self.blocks} blocks are not enough.")
        self.next_block += 1
        return self.next_block - 1

    def take_inode(self) -> int:
        self.next_inode += 1
        return self.next_inode - 1

    def store(self, inode: Inode, data: bytes) -> None:
        """Writes the data and points the inode to it."""
        numbers = []
        for start in range(0, len(data), BLOCK_BYTES):
            number = self.take_block()
            self.put(number, data[start : start + BLOCK_BYTES].ljust(BLOCK_BYTES, b"\0"))
            numbers.append(number)
        inode.size, inode.blocks = len(data), len(numbers)
        inode.pointers = numbers[:DIRECT_BLOCKS]
        rest = numbers[DIRECT_BLOCKS:]
        if rest:
            inode.pointers.append(self._pointer_block(inode, rest[:POINTERS]))
        if rest[POINTERS:]:
            tables = [
                self._pointer_block(inode, rest[first : first + POINTERS])
                for first in range(POINTERS, len(rest), POINTERS)
            ]
            inode.pointers.append(self._pointer_block(inode, tables))

    def _pointer_block(self, inode: Inode, numbers: list[int]) -> int:
        number = self.take_block()
        self.put(number, struct.pack(f"<{len(numbers)}I", *numbers).ljust(BLOCK_BYTES, b"\0"))
        inode.blocks += 1
        return number

    def finish(self, directories: int) -> None:
        self.put(2, _bitmap(self.next_block, self.blocks))
        self.put(3, _bitmap(self.next_inode - 1, INODES))
        for number, inode in self.inodes.items():
            self.file.seek(4 * BLOCK_BYTES + (number - 1) * INODE_BYTES)
            self.file.write(_packed(inode))
        free = self.blocks - self.next_block, INODES - self.next_inode + 1
        self.put(1, struct.pack("<IIIHHH", 2, 3, 4, *free, directories))
        self.file.seek(SUPERBLOCK_AT)
        self.file.write(self._superblock(*free))
        self.file.close()

    def _superblock(self, free_blocks: int, free_inodes: int) -> bytes:
        now = int(time.time())
        head = struct.pack(
            "<13I", INODES, self.blocks, 0, free_blocks, free_inodes, 0, 2, 2, MOST_BLOCKS, MOST_BLOCKS, INODES, 0, now
        )
        state = struct.pack("<HhHHHHIIIIHH", 0, -1, 0xEF53, 1, 1, 0, now, 0, 0, 1, 0, 0)
        # Revision 1 with file types in directories (incompat 2).
        extended = struct.pack("<IHHIII", FIRST_FREE_INODE - 1, INODE_BYTES, 0, 0, 2, 0)
        return (head + state + extended + uuid.uuid4().bytes + self.label.encode()[:16].ljust(16, b"\0")).ljust(
            1024, b"\0"
        )


def _bitmap(used: int, total: int) -> bytes:
    """Bits of what is used, and of what does not exist."""
    bits = (1 << used) - 1
    bits |= ((1 << BLOCK_BYTES * 8) - 1) ^ ((1 << total) - 1)
    return bits.to_bytes(BLOCK_BYTES, "little")


def _packed(inode: Inode) -> bytes:
    now = int(time.time())
    sectors = inode.blocks * (BLOCK_BYTES // 512)
    head = struct.pack("<HHIIIIIHHIII", inode.mode, 0, inode.size, now, now, now, 0, 0, inode.links, sectors, 0, 0)
    return (head + struct.pack("<15I", *inode.pointers, *([0] * (15 - len(inode.pointers))))).ljust(INODE_BYTES, b"\0")


def _entries(directory: _Directory) -> bytes:
    """Directory blocks; the last entry of each reaches to its end."""
    wanted = {".": (directory.number, 2), "..": (directory.parent, 2)} | directory.entries
    blocks: list[list[tuple[bytes, int, int]]] = [[]]
    used = 0
    for name, (number, kind) in wanted.items():
        need = 8 + (len(name.encode()) + 3) // 4 * 4
        if used + need > BLOCK_BYTES:
            blocks.append([])
            used = 0
        blocks[-1].append((name.encode(), number, kind))
        used += need
    return b"".join(_directory_block(block) for block in blocks)


def _directory_block(entries: list[tuple[bytes, int, int]]) -> bytes:
    data = b""
    for name, number, kind in entries:
        length = 8 + (len(name) + 3) // 4 * 4
        if name == entries[-1][0]:
            length = BLOCK_BYTES - len(data)
        data += (struct.pack("<IHBB", number, length, len(name), kind) + name).ljust(length, b"\0")
    return data


def write(flat: Path, size_bytes: int, label: str, files: dict[str, bytes]) -> None:
    """Raises TooMuchData."""
    image = _Image(flat, size_bytes, label)
    root = _Directory(ROOT, ROOT)
    found = {PurePosixPath("."): root, PurePosixPath("lost+found"): _Directory(LOST_AND_FOUND, ROOT)}
    root.entries["lost+found"] = (LOST_AND_FOUND, 2)
    for name, data in files.items():
        path = PurePosixPath(name)
        number = image.take_inode()
        image.inodes[number] = Inode(REGULAR)
        image.store(image.inodes[number], data)
        _directory(image, found, path.parent).entries[path.name] = (number, 1)
    for directory in found.values():
        below = sum(kind == 2 for _, kind in directory.entries.values())
        image.inodes[directory.number] = Inode(DIRECTORY, links=2 + below)
        image.store(image.inodes[directory.number], _entries(directory))
    image.finish(len(found))


def _directory(image: _Image, found: dict[PurePosixPath, _Directory], path: PurePosixPath) -> _Directory:
    if path not in found:
        parent = _directory(image, found, path.parent)
        found[path] = _Directory(image.take_inode(), parent.number)
        parent.entries[path.name] = (found[path].number, 2)
    return found[path]
