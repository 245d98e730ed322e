"""Writing a disk where only whole files can be put: areas are kept in a sparse temporary file, what was not written
is fetched from the disk, and all of it is put at once on close."""

import tempfile
import threading
from bisect import insort
from collections.abc import Callable, Iterator
from typing import Self

from backups.errors import PlatformError
from backups.platform import Area, DiskReader
from vsphere.disks.folder import Body

PIECE_BYTES = 4 * 2**20


class SpooledWriter:
    def __init__(self, current: DiskReader, put: Callable[[Body], None]) -> None:
        self._current, self._put = current, put
        self._file = tempfile.TemporaryFile(prefix="hotfirst-disk-")  # noqa: SIM115 - closed in close()
        self._file.truncate(current.capacity_bytes)
        self._written: list[Area] = []
        self._lock = threading.Lock()

    def write(self, start: int, data: bytes) -> None:
        if start < 0 or start + len(data) > self._current.capacity_bytes:
            raise PlatformError(f"Bytes {start} to {start + len(data)} lie outside the disk.")
        if not data:
            return
        with self._lock:
            self._file.seek(start)
            self._file.write(data)
            insort(self._written, Area(start=start, length=len(data)))

    def close(self) -> None:
        """A writer that was given nothing leaves the disk alone."""
        if self._file.closed:
            return
        try:
            if self._written:
                self._fetch_rest()
                self._put(Body(self._current.capacity_bytes, self._pieces))
        finally:
            self._file.close()

    def _fetch_rest(self) -> None:
        at = 0
        for area in [*self._written, Area(start=self._current.capacity_bytes, length=0)]:
            for start in range(at, area.start, PIECE_BYTES):
                data = self._current.read(start, min(PIECE_BYTES, area.start - start))
                if data.strip(b"\0"):
                    self._file.seek(start)
                    self._file.write(data)
            at = max(at, area.end)

    def _pieces(self) -> Iterator[bytes]:
        self._file.seek(0)
        while piece := self._file.read(PIECE_BYTES):
            yield piece

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if exc[0] is not None:
            self._file.close()  # half a disk is not worth a PUT of all of it
        self.close()
