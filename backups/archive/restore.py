"""Writes a disk of an archive into a file or a block device."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backups.archive.chunks import Record
from backups.archive.maps import CHUNK_BYTES
from backups.archive.reader import ArchiveReader
from backups.errors import InvalidRequest, RecoveryRefused

HOLE_BYTES = 64 * 1024
"""Zeros of this length and alignment are left out: a hole in a file, and trimmed space under it."""
ZEROS = bytes(CHUNK_BYTES)


def _never() -> None:
    return None


def restore_to_file(
    reader: ArchiveReader, key: int, target: Path, *, threads: int | None = None, check: Callable[[], None] = _never
) -> int:
    """Makes `target`, which must not exist, and keeps holes. Returns the bytes written; all is durable then."""
    capacity_bytes = reader.capacity_bytes(key)
    with _opened(target, os.O_RDWR | os.O_CREAT | os.O_EXCL) as descriptor:
        os.ftruncate(descriptor, capacity_bytes)
        return _written(reader, key, lambda start, data: _write_data(descriptor, start, data), threads, check)


def restore_in_place(
    reader: ArchiveReader, key: int, target: Path, *, threads: int | None = None, check: Callable[[], None] = _never
) -> int:
    """Brings a file or block device of the disk's size back to what was archived: all of it is compared, and only
    chunks that differ are written. Returns the bytes written."""
    with _opened(target, os.O_RDWR) as descriptor:
        _check_size(descriptor, target, reader.capacity_bytes(key))
        holes = sum(_clear(descriptor, start, end) for start, end in reader.holes(key))
        return holes + _written(reader, key, lambda at, data: _write_differing(descriptor, at, data), threads, check)


def _written(
    reader: ArchiveReader, key: int, write: Callable[[int, Record], int], threads: int | None, check: Callable[[], None]
) -> int:
    written = 0
    for count in reader.deliver(key, write, threads=threads):
        check()
        written += count
    return written


@contextmanager
def _opened(target: Path, flags: int) -> Iterator[int]:
    try:
        descriptor = os.open(target, flags, 0o600)
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except FileExistsError as error:
        raise InvalidRequest(f"{target} exists already; name another file, or recover it in place.") from error
    except OSError as error:
        raise RecoveryRefused(f"{target} could not be written: {error.strerror}.") from error


def _check_size(descriptor: int, target: Path, capacity_bytes: int) -> None:
    if os.lseek(descriptor, 0, os.SEEK_END) != capacity_bytes:
        raise InvalidRequest(f"{target} has another size than the archived disk, which has {capacity_bytes} bytes.")


def _write_data(descriptor: int, start: int, data: Record) -> int:
    """Leaves out blocks of zeros."""
    view, written, begin = memoryview(data), 0, 0
    for at in range(0, len(view), HOLE_BYTES):
        block = view[at : at + HOLE_BYTES]
        # The first byte decides almost always; views are compared much slower than bytes.
        if not block[0] and bytes(block) == ZEROS[: len(block)]:
            written += _write_all(descriptor, view[begin:at], start + begin)
            begin = at + len(block)
    return written + _write_all(descriptor, view[begin:], start + begin)


def _write_all(descriptor: int, data: memoryview, start: int) -> int:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], start + done)
    return done


def _write_differing(descriptor: int, start: int, data: Record) -> int:
    if os.pread(descriptor, len(data), start) == bytes(data):
        return 0
    return _write_all(descriptor, memoryview(data), start)


def _clear(descriptor: int, start: int, end: int) -> int:
    """What is a hole in the file already is not read."""
    written = 0
    while start < end:
        start = _next_data(descriptor, start, end)
        length = min(CHUNK_BYTES, end - start)
        written += _write_differing(descriptor, start, ZEROS[:length])
        start += length
    return written


def _next_data(descriptor: int, start: int, end: int) -> int:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return start
    try:
        return min(end, os.lseek(descriptor, start, os.SEEK_DATA))
    except OSError:
        return end
