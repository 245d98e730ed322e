"""Disks as files on datastores, over HTTPS: ranges are read; written areas are put as ranges where the server can do
that, else spooled and put as a whole."""

import http.client
import threading
from collections.abc import Callable, Iterator
from typing import Self

from pyVmomi import vim

from backups.errors import DiskUnreadable, PlatformError, RecoveryRefused
from backups.platform import DiskWriter
from vsphere.changes import switch_tracking
from vsphere.disks.folder import Answer, Body, File, FolderClient
from vsphere.disks.places import flat_file, idle_disk
from vsphere.disks.spool import SpooledWriter
from vsphere.faults import translating
from vsphere.inventory import disk_of
from vsphere.properties import read
from vsphere.session import Session

WRITTEN = (http.client.OK, http.client.CREATED, http.client.NO_CONTENT)
PIECE_BYTES = 2**20
"""What one request asks for; a longer read is several of them, in flight together."""


def open_for_writing(session: Session, folder: FolderClient, vm_ref: str, disk_key: int) -> DiskWriter:
    device = idle_disk(session, vm_ref, disk_key)
    if getattr(device.backing, "parent", None) is not None:
        # What is written into a base is hidden by the delta on top of it.
        raise RecoveryRefused("The VM's disks lie on one another; consolidate them in vCenter, or recover it as new.")
    file, capacity_bytes = flat_file(session, device), disk_of(device).capacity_bytes
    writer: DiskWriter
    if takes_ranges(folder, file, capacity_bytes):
        writer = RangeWriter(folder, file, capacity_bytes)
    else:
        writer = SpooledWriter(DatastoreReader(folder, file, capacity_bytes), lambda body: put(folder, file, body))
    tracked = "config.changeTrackingEnabled"
    if read(session, vim.VirtualMachine, vm_ref, tracked).get(tracked):
        return TrackedAnew(writer, lambda on: switch_tracking(session, vm_ref, on))
    return writer


class DatastoreReader:
    transport = "datastore"

    def __init__(self, folder: FolderClient, file: File, capacity_bytes: int) -> None:
        self._folder, self._file, self.capacity_bytes = folder, file, capacity_bytes
        self.transport_reason = ""

    def probe(self, reason: str) -> None:
        """One byte tells whether the server answers ranges, before anything rests on it."""
        if self.capacity_bytes:
            self.read(0, 1)
        self.transport_reason = reason

    def read(self, start: int, length: int) -> bytes:
        if start < 0 or length < 0 or start + length > self.capacity_bytes:
            raise DiskUnreadable(f"Bytes {start} to {start + length} lie outside the disk {self._file.path}.")
        if not length:
            return b""
        pieces = [(at, min(PIECE_BYTES, start + length - at)) for at in range(start, start + length, PIECE_BYTES)]
        if len(pieces) == 1:
            return self._read_piece(start, length)
        return b"".join(self._folder.lanes.map(lambda piece: self._read_piece(*piece), pieces))

    def _read_piece(self, start: int, length: int) -> bytes:
        answer = self._folder.read_range(self._file, start, length)
        if answer.status != http.client.PARTIAL_CONTENT or not self._fits(answer, start, length):
            raise DiskUnreadable(self._refusal(answer))
        return answer.body

    def _fits(self, answer: Answer, start: int, length: int) -> bool:
        told = answer.headers.get("Content-Range", "")
        return told.startswith(f"bytes {start}-{start + length - 1}/") and len(answer.body) == length

    def _refusal(self, answer: Answer) -> str:
        where = f"{self._file.path} on {self._file.datastore}"
        if answer.status == http.client.OK:
            return f"The datastore sends {where} as a whole only, not in ranges, so it cannot be read this way."
        if answer.status == http.client.NOT_FOUND:
            return f"The datastore has no file {where}; refresh the inventory and look at the VM's files."
        if answer.status == http.client.INTERNAL_SERVER_ERROR:
            return f"vCenter could not open {where}; another host may hold its lock. It is tried again later."
        return f"The datastore did not give the bytes asked for of {where} (HTTP {answer.status})."

    def close(self) -> None:
        """Connections belong to the session."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class RangeWriter:
    """Each area is durable at the server when `write` returns."""

    def __init__(self, folder: FolderClient, file: File, capacity_bytes: int) -> None:
        self._folder, self._file, self._capacity_bytes = folder, file, capacity_bytes

    def write(self, start: int, data: bytes) -> None:
        refuse_outside(start, len(data), self._capacity_bytes)
        for offset in range(0, len(data), PIECE_BYTES):
            piece = data[offset : offset + PIECE_BYTES]
            at = start + offset
            content_range = f"bytes {at}-{at + len(piece) - 1}/{self._capacity_bytes}"
            put(self._folder, self._file, bytes_body(piece), content_range)

    def close(self) -> None:
        """Nothing is held back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class TrackedAnew:
    """Change tracking sees what a VM writes, not what is put into its files. So it is switched off before the first
    write, and anew when all are done: the next backup finds other change ids and reads everything."""

    def __init__(self, writer: DiskWriter, switch: Callable[[bool], None]) -> None:
        self._writer, self._switch = writer, switch
        self._lock, self._off = threading.Lock(), False

    def write(self, start: int, data: bytes) -> None:
        with self._lock:
            if not self._off:
                self._switch_to(False)
                self._off = True
        self._writer.write(start, data)

    def _switch_to(self, on: bool) -> None:
        with translating():
            self._switch(on)

    def close(self) -> None:
        self._writer.close()
        self._on_again()

    def _on_again(self) -> None:
        if self._off:
            self._switch_to(True)
            self._off = False

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._writer.__exit__(*exc)
        self._on_again()


def takes_ranges(folder: FolderClient, file: File, capacity_bytes: int) -> bool:
    """Whether a PUT with Content-Range changes that range alone. vCenter's own would take the piece for the whole
    file, so it is never tried: only a server that says so itself is believed."""
    if not capacity_bytes:
        return False
    return folder.read_range(file, 0, 1).headers.get("X-Partial-Put") == "content-range"


def put(folder: FolderClient, file: File, body: Body, content_range: str | None = None) -> None:
    answer = folder.write(file, body, content_range)
    if answer.status not in WRITTEN:
        raise PlatformError(
            f"The datastore did not take {file.path} on {file.datastore} (HTTP {answer.status}); "
            "look whether it has room and whether the account may change files on it."
        )


def bytes_body(data: bytes) -> Body:
    def parts() -> Iterator[bytes]:
        yield data

    return Body(len(data), parts)


def refuse_outside(start: int, length: int, capacity_bytes: int) -> None:
    if start < 0 or start + length > capacity_bytes:
        raise PlatformError(f"Bytes {start} to {start + length} lie outside the disk of {capacity_bytes} bytes.")
