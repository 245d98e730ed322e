"""NFC export: a whole disk of a snapshot as a stream, read once from its beginning. It resolves chains of snapshots
and reads disks that have no flat file, so it is the way for whatever cannot be read in ranges.

Reads that ascend are answered as the stream goes by. What has gone by is kept in a bounded spool for those that do
not; a read further back begins a new stream.
"""

import io
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any, Self

from backups.errors import DiskUnreadable, PlatformUnreachable
from vsphere.disks.devices import Address, address, connected, url_of
from vsphere.disks.leases import HeldLease
from vsphere.disks.streamoptimized import damaged, grains, read_header
from vsphere.faults import TRANSPORT_ERRORS, translating
from vsphere.session import Session

SPOOL_BYTES = 4 * 2**30
BUFFER_BYTES = 2**20
TRIES = 4
"""Streams in a row that break without getting any further."""
PAUSE_S = 0.2


class Export:
    """One pass over a disk. Iterating gives (start, data), ascending, where `data` is a grain or the last part of one;
    what is left out is zeros. Close it."""

    def __init__(
        self, session: Session, request: Callable[[Any], Any], hardware: Any, disk_key: int, size: int
    ) -> None:
        """Raises DiskUnreadable, vSphere's faults, and the network's errors."""
        self._lease = HeldLease(session, request)
        self._connection: Any = None
        self.ended = False
        try:
            there = address(session, url_of(self._lease.info.deviceUrl, hardware, disk_key))
            stream = self._open(there, session.timeout_s)
            header = read_header(stream)
            if header.capacity_bytes != size:
                raise damaged(f"it has {header.capacity_bytes} bytes, the disk {size}")
        except BaseException:
            self.close()
            raise
        self.grain_bytes, self._size = header.grain_bytes, size
        self._grains = grains(stream, header)

    def _open(self, there: Address, timeout_s: float) -> io.BufferedReader:
        self._connection = connected(there, timeout_s)
        self._connection.request("GET", there.path, headers={"Cookie": there.cookie} if there.cookie else {})
        response = self._connection.getresponse()
        if response.status != 200:
            raise DiskUnreadable(
                f"vCenter does not give the disk out (HTTP {response.status}); it is tried again later."
            )
        return io.BufferedReader(response, BUFFER_BYTES)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for start, data in self._grains:
            self._lease.percent = start * 100 // self._size
            yield start, data
        self.ended = True
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._lease.close(completed=self.ended)


class Spool:
    """The last grains that went by, in a ring on disk."""

    def __init__(self, limit_bytes: int, grain_bytes: int) -> None:
        self._grain_bytes, self._slots = grain_bytes, max(1, limit_bytes // grain_bytes)
        self._file = tempfile.TemporaryFile(prefix="hotfirst-nfc-")  # noqa: SIM115 - closed in close()
        self._slot_of: dict[int, int] = {}
        self._grain_in: dict[int, int] = {}
        self._next = count()
        self.complete_from = 0
        """The first byte from which on nothing was dropped."""

    def put(self, start: int, data: bytes) -> None:
        slot = next(self._next) % self._slots
        dropped = self._grain_in.get(slot)
        if dropped is not None:
            del self._slot_of[dropped]
            self.complete_from = dropped + self._grain_bytes
        self._grain_in[slot], self._slot_of[start] = start, slot
        os.pwrite(self._file.fileno(), data, slot * self._grain_bytes)

    def read(self, start: int, end: int) -> bytes:
        parts = []
        while start < end:
            grain = start - start % self._grain_bytes
            length = min(end, grain + self._grain_bytes) - start
            slot = self._slot_of.get(grain)
            at = (slot or 0) * self._grain_bytes + start - grain
            parts.append(bytes(length) if slot is None else os.pread(self._file.fileno(), length, at))
            start += length
        return b"".join(parts)

    def close(self) -> None:
        self._file.close()


class NfcReader:
    transport = "nfc"

    def __init__(
        self, export: Callable[[], Export], capacity_bytes: int, reason: str, spool_bytes: int = SPOOL_BYTES
    ) -> None:
        """`export` begins a pass. The first one is begun here, so that what cannot be read is known at once. Raises
        PlatformError."""
        self._begin, self._spool_bytes = export, spool_bytes
        self.capacity_bytes, self.transport_reason = capacity_bytes, reason
        self._lock = threading.Lock()
        self._known = 0
        """Everything before it has gone by."""
        self._grains: Iterator[tuple[int, bytes]] | None = None
        try:
            self._resume()
        except TRANSPORT_ERRORS as error:
            raise _broken(error) from error
        try:
            self._spool = Spool(spool_bytes, self._export.grain_bytes)
        except OSError as error:
            # Else the lease would be kept alive, and the VM held, until this process ends.
            self._export.close()
            raise DiskUnreadable(f"There is no room to spool the disk ({error}); free some on this host.") from error

    def _resume(self) -> None:
        """A new pass, in which the grains that have gone by already are passed over."""
        with translating():
            self._export = self._begin()
        known = self._known
        self._grains = ((start, data) for start, data in self._export if start >= known)

    def read(self, start: int, length: int) -> bytes:
        end = start + length
        if start < 0 or length < 0 or end > self.capacity_bytes:
            raise DiskUnreadable(f"Bytes {start} to {end} lie outside the disk.")
        with self._lock:
            if length and start < self._spool.complete_from:
                self._start_over()
            while self._known < end:
                self._advance()
            if length and start < self._spool.complete_from:
                raise DiskUnreadable(f"{length} bytes at once are more than the spool for exported disks holds.")
            return self._spool.read(start, end)

    def _start_over(self) -> None:
        self._let_go()
        self._spool.close()
        self._spool, self._known = Spool(self._spool_bytes, self._export.grain_bytes), 0

    def _let_go(self) -> None:
        self._export.close()
        self._grains = None

    def _advance(self) -> None:
        """By one grain, over as many broken streams as it takes."""
        failures = 0
        while True:
            try:
                start, data = self._next_grain()
                break
            except (DiskUnreadable, PlatformUnreachable, *TRANSPORT_ERRORS) as error:
                self._let_go()
                failures += 1
                if failures == TRIES:
                    raise _broken(error) from error
                time.sleep(PAUSE_S * failures)
        if data:
            self._spool.put(start, data)
        self._known = min(self.capacity_bytes, start + self._export.grain_bytes)
        if self._known == self.capacity_bytes:
            self._finish()

    def _finish(self) -> None:
        """After the last grain only the end of the stream is to come; with it the VM is let go."""
        with suppress(DiskUnreadable, *TRANSPORT_ERRORS):
            next(self._grains or iter(()), None)
        self._let_go()

    def _next_grain(self) -> tuple[int, bytes]:
        if self._grains is None:
            self._resume()
        found = next(self._grains or iter(()), None)
        if found is None and not self._export.ended:  # an error that went to somebody else
            raise damaged("it broke off")
        return found or (self.capacity_bytes, b"")

    def close(self) -> None:
        self._export.close()
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _broken(error: Exception) -> DiskUnreadable:
    if isinstance(error, DiskUnreadable):
        return error
    told = error if str(error) else type(error).__name__
    return DiskUnreadable(f"The stream of the disk keeps breaking ({told}); it is tried again later.")
