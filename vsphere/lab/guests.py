"""Files for the guests' file systems: some are the same on every VM, as an operating system's are, the rest is its own.
Half of every page is text, so that it compresses as such disks do."""

import random
from pathlib import Path

MIB = 2**20
PAGE_BYTES = 4096
SHARED_SHARE = 0.4
LARGEST_FILE_BYTES = MIB
WORDS = b"order customer invoice delivered pending address street amount currency updated payment archive ".split()


def page(generator: random.Random) -> bytes:
    text = b" ".join(generator.choices(WORDS, k=PAGE_BYTES // 2 // 5))[: PAGE_BYTES // 2]
    return text.ljust(PAGE_BYTES // 2) + generator.randbytes(PAGE_BYTES // 2)


class Pages:
    """File contents cut out of a pool of pages: making each page anew would take most of the time of a build."""

    def __init__(self, seed: int, pages: int = 512) -> None:
        self._random = random.Random(seed)
        self._pool = [page(self._random) for _ in range(pages)]

    def content(self, size: int) -> bytes:
        pages = [self._random.choice(self._pool) for _ in range(-(-size // PAGE_BYTES))]
        # A page of its own in each megabyte: no two files are alike by chance.
        for first in range(0, len(pages), MIB // PAGE_BYTES):
            pages[first] = page(self._random)
        return b"".join(pages)[:size]


def shared_files(total_bytes: int, seed: int) -> dict[str, bytes]:
    """The operating system: for one seed always the same, however many VMs have it."""
    return _files("usr/lib", "lib{:03d}.so", total_bytes, Pages(seed))


def own_files(vm_name: str, disk: int, total_bytes: int, seed: int) -> dict[str, bytes]:
    pages = Pages(hash_of(vm_name, disk, seed), 64)
    files = {"etc/hostname": f"{vm_name}\n".encode(), "etc/disk": f"{disk}\n".encode()}
    return files | _files("var/lib", "data{:03d}.bin", total_bytes, pages)


def hash_of(*parts: object) -> int:
    """As `hash`, but the same in every process."""
    return random.Random("/".join(map(str, parts))).getrandbits(48)


def _files(folder: str, pattern: str, total_bytes: int, pages: Pages) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    while total_bytes > 0:
        size = min(LARGEST_FILE_BYTES, total_bytes)
        files[f"{folder}/{pattern.format(len(files))}"] = pages.content(size)
        total_bytes -= size
    return files


def write_tree(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
