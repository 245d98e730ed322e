"""The disk images of the archive benchmark, and the same images with 2 % of their data changed."""

import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

MIB = 1024 * 1024
BLOCK_BYTES = 64 * 1024
CHANGED_SHARE = 0.02
PAGE_BYTES = 8192
WORDS = 4096
SYSTEM_FOLDERS = ("/usr", "/etc", "/var/lib")

Extent = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    root_capacity: int
    root_data: int
    database: int
    noise: int
    sparse_capacity: int
    sparse_data: int


FULL = Sizes(
    root_capacity=3072 * MIB,
    root_data=1400 * MIB,
    database=768 * MIB,
    noise=384 * MIB,
    sparse_capacity=8192 * MIB,
    sparse_data=300 * MIB,
)
QUICK = Sizes(
    root_capacity=512 * MIB,
    root_data=250 * MIB,
    database=128 * MIB,
    noise=64 * MIB,
    sparse_capacity=1024 * MIB,
    sparse_data=50 * MIB,
)


@dataclass(frozen=True)
class Images:
    """`before` and `after` hold files of the same names; `changes` lists what differs, as change tracking would."""

    folder: Path

    @property
    def before(self) -> list[Path]:
        return sorted((self.folder / "before").iterdir())

    @property
    def after(self) -> list[Path]:
        return sorted((self.folder / "after").iterdir())

    @property
    def changes(self) -> dict[str, list[Extent]]:
        said = json.loads((self.folder / "changes.json").read_text())
        return {name: [(start, length) for start, length in extents] for name, extents in said.items()}

    def before_named(self, name: str) -> Path:
        return self.folder / "before" / name


def prepared(folder: Path, sizes: Sizes) -> Images:
    images = Images(folder)
    if not (folder / "changes.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "before").mkdir(parents=True)
        (folder / "after").mkdir()
        _make_all(images, sizes)
        _change_all(images)
    return images


def _make_all(images: Images, sizes: Sizes) -> None:
    _make_roots(images, sizes)
    _write_at(images.before_named("database.img"), [(0, sizes.database)], _database_pages(1), sizes.database)
    _write_at(images.before_named("noise.img"), [(0, sizes.noise)], _noise(), sizes.noise)
    chance = random.Random(3)
    places = sorted(chance.sample(range(sizes.sparse_capacity // MIB), sizes.sparse_data // MIB))
    pieces = [(place * MIB, MIB) for place in places]
    _write_at(images.before_named("sparse.img"), pieces, _database_pages(4), sizes.sparse_capacity)


def _make_roots(images: Images, sizes: Sizes) -> None:
    """The sibling is a clone in which a tenth of the files' data was replaced by other files."""
    staging = images.folder / "staging"
    files = _system_files()
    kept = list(_of_size(files, sizes.root_data))
    newer = list(_of_size(files, sizes.root_data // 10))
    for file in kept:
        target = staging / file.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)
    root, sibling = images.before_named("root.img"), images.before_named("sibling.img")
    # Without lazy initialisation, as a used file system has no such blocks left.
    options = ["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d", str(staging)]
    subprocess.run(["mke2fs", *options, str(root), f"{sizes.root_capacity // MIB}M"], check=True)
    shutil.rmtree(staging)
    copy_sparse(root, sibling)
    _replace_files(sibling, kept, newer)


def _system_files() -> Iterator[Path]:
    for top in SYSTEM_FOLDERS:
        for folder, folders, names in os.walk(top):
            folders.sort()
            for file in (Path(folder, name) for name in sorted(names) if '"' not in name):
                if file.is_file() and not file.is_symlink() and os.access(file, os.R_OK):
                    yield file


def _of_size(files: Iterable[Path], wanted_bytes: int) -> Iterator[Path]:
    taken = 0
    for file in files:
        yield file
        taken += file.stat().st_size
        if taken >= wanted_bytes:
            return


def _replace_files(image: Path, kept: list[Path], newer: list[Path]) -> None:
    room = sum(file.stat().st_size for file in newer)
    removed = list(_of_size(random.Random(2).sample(kept, len(kept)), room))
    commands = [f'rm "{file}"' for file in removed] + ["mkdir /newer"]
    commands += [f'write "{file}" /newer/{number}' for number, file in enumerate(newer)]
    script = image.with_suffix(".debugfs")
    script.write_text("\n".join(commands))
    subprocess.run(["debugfs", "-w", "-f", str(script), str(image)], check=True, capture_output=True)
    script.unlink()


def copy_sparse(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(source), str(target)], check=True)


def _write_at(path: Path, extents: Iterable[Extent], content: Iterator[bytes], capacity_bytes: int) -> None:
    with path.open("wb") as file:
        for start, length in extents:
            file.seek(start)
            for _ in range(length // MIB):
                file.write(next(content))
        file.truncate(capacity_bytes)


def _noise() -> Iterator[bytes]:
    return (os.urandom(MIB) for _ in count())


def _database_pages(seed: int) -> Iterator[bytes]:
    """A MiB at a time: pages of a heap with a header, rows of an order table, and some free space at the end."""
    chance = random.Random(seed)
    words = [chance.randbytes(chance.randint(2, 6)).hex().encode() for _ in range(WORDS)]
    rows = _rows(chance, words)
    for number in count():
        yield b"".join(_page(chance, rows, number * (MIB // PAGE_BYTES) + at) for at in range(MIB // PAGE_BYTES))


def _page(chance: random.Random, rows: Iterator[bytes], number: int) -> bytes:
    header = number.to_bytes(8, "little") + chance.randbytes(8) + bytes(8)
    used = chance.randint(PAGE_BYTES * 8 // 10, PAGE_BYTES)
    content, size = [header], len(header)
    while size < used:
        row = next(rows)
        content.append(row)
        size += len(row)
    return b"".join(content)[:used].ljust(PAGE_BYTES, b"\0")


def _rows(chance: random.Random, words: list[bytes]) -> Iterator[bytes]:
    for number in count(1):
        bits = chance.getrandbits(96)
        yield b"%08x|%s|%s|2026-%02d-%02d %02d:%02d|%d.%02d|%s %s %s|%s\n" % (
            number,
            (bits >> 32).to_bytes(8, "big"),
            words[bits & 4095],
            (bits >> 12) % 12 + 1,
            (bits >> 16) % 28 + 1,
            (bits >> 20) % 24,
            (bits >> 26) % 60,
            (bits >> 40) % 9000,
            (bits >> 53) % 100,
            words[bits >> 60 & 63],
            words[bits >> 66 & 255],
            words[bits >> 74 & 4095],
            (b"paid", b"sent", b"open", b"returned")[bits >> 86 & 3],
        )


def extents(path: Path) -> list[Extent]:
    """Where the file holds data, as its file system says."""
    found, at = list[Extent](), 0
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while at < end:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, at - start))
    return found


def _change_all(images: Images) -> None:
    changes = {}
    for number, image in enumerate(images.before):
        target = images.folder / "after" / image.name
        copy_sparse(image, target)
        changes[image.name] = list(_changed(image, random.Random(number)))
        content = _noise() if image.name == "noise.img" else _database_pages(100 + number)
        with target.open("r+b") as file:
            for start, length in changes[image.name]:
                file.seek(start)
                file.write(b"".join(next(content) for _ in range(-(-length // MIB)))[:length])
    (images.folder / "changes.json").write_text(json.dumps(changes))


def _changed(image: Path, chance: random.Random) -> Iterator[Extent]:
    """Clusters of 1 to 4 MiB, in blocks of 64 KiB, in places that hold data: what a guest writes lies together."""
    areas = extents(image)
    left = int(sum(length for _, length in areas) * CHANGED_SHARE)
    taken: set[int] = set()
    weights = [length for _, length in areas]
    while left > 0:
        start, length = chance.choices(areas, weights)[0]
        first = (start + chance.randrange(length)) // BLOCK_BYTES
        last = min((start + length) // BLOCK_BYTES, first + chance.randint(16, 64))
        blocks = [block for block in range(first, last) if block not in taken]
        taken.update(blocks)
        left -= len(blocks) * BLOCK_BYTES
    yield from _runs(sorted(taken))


def _runs(blocks: list[int]) -> Iterator[Extent]:
    start = None
    for before, block in zip([None, *blocks], [*blocks, None], strict=True):
        if before is None or block != before + 1:
            if start is not None and before is not None:
                yield start * BLOCK_BYTES, (before + 1 - start) * BLOCK_BYTES
            start = block
