"""VMs brought in with their disks: ImportVApp, and each disk sent as a stream of what is not zero.

The VM is there from the beginning, but kept only once its lease is completed: when every disk was sent, or when
somebody wants to do anything else with it. Whatever then remains to be written goes to its files on the datastore.
"""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from pyVmomi import vim, vmodl

from backups.errors import PlatformError
from backups.platform import DiskWriter
from vsphere.disks.datastore import refuse_outside
from vsphere.disks.devices import address, connected, url_of
from vsphere.disks.leases import HeldLease
from vsphere.disks.streamoptimized import Encoder
from vsphere.faults import TRANSPORT_ERRORS, translating, unreachable
from vsphere.inventory import disk_of, disks_of
from vsphere.properties import read, read_many
from vsphere.session import Session

VMDK = "application/x-vnd.vmware-streamVmdk"
SENT = (http.client.OK, http.client.CREATED, http.client.NO_CONTENT)
BUFFER_BYTES = 2**18
GONE_TIMEOUT_S = 60
IMPORT_REFUSED = (
    vmodl.fault.NotSupported,
    vmodl.fault.MethodNotFound,
    vmodl.fault.InvalidRequest,
    vim.fault.NoPermission,
)
"""What says that this vCenter or account imports nothing, not that something is wrong with the VM."""
POLL_S = 0.1


class Upload:
    """One disk on its way. Chunked, as VMware's own samples send disks whose length is not known beforehand."""

    def __init__(self, session: Session, url: Any, capacity_bytes: int) -> None:
        there = address(session, url)
        self._connection = connected(there, session.timeout_s)
        self._encoder, self.capacity_bytes = Encoder(capacity_bytes), capacity_bytes
        self._held = bytearray()
        self.end = 0
        """Of what was written last: what comes before it can no longer be."""
        self._connection.putrequest("POST", there.path)
        headers = {"Content-Type": VMDK, "Transfer-Encoding": "chunked"}
        for name, value in (headers | ({"Cookie": there.cookie} if there.cookie else {})).items():
            self._connection.putheader(name, value)
        self._connection.endheaders()
        self._send([self._encoder.begin()])

    def write(self, start: int, data: bytes) -> None:
        self._send(self._encoder.add(start, data))
        self.end = start + len(data)

    def _send(self, parts: Iterator[bytes] | list[bytes]) -> None:
        for part in parts:
            self._held += part
            if len(self._held) >= BUFFER_BYTES:
                self._flush()

    def _flush(self) -> None:
        if self._held:
            self._connection.send(b"%x\r\n%b\r\n" % (len(self._held), bytes(self._held)))
            self._held.clear()

    def finish(self) -> None:
        """Raises PlatformError if the disk was not taken."""
        self._send(self._encoder.end())
        self._flush()
        self._connection.send(b"0\r\n\r\n")
        status = self._connection.getresponse().status
        self.close()
        if status not in SENT:
            raise PlatformError(
                f"The new VM's disk was not taken (HTTP {status}); look whether its datastore has room."
            )

    def close(self) -> None:
        self._connection.close()


class Import:
    """One VM that is coming in. Thread-safe."""

    def __init__(self, session: Session, request: Callable[[Any], Any], kept: Callable[[str], None]) -> None:
        """`request` asks for the lease; `kept` is told the VM's ref once it is there to stay. Raises vSphere's faults
        and PlatformError."""
        self._session, self._kept = session, kept
        self._lease = HeldLease(session, request)
        self.vm_ref: str = self._lease.info.entity._moId
        self.open = True
        self._lock = threading.RLock()
        try:
            path = "config.hardware.device"
            self._hardware = read(session, vim.VirtualMachine, self.vm_ref, path)[path]
        except BaseException:
            self._lease.close(completed=False)
            raise
        self.sizes = {disk_of(each).key: disk_of(each).capacity_bytes for each in disks_of(self._hardware)}
        self._unsent = set(self.sizes)
        self._sent_bytes = 0
        """The sizes of the disks that were sent whole."""

    def may_stream(self, disk_key: int) -> bool:
        return self.open and disk_key in self._unsent

    def begin_upload(self, disk_key: int) -> Upload:
        with self._lock, self._or_lost():
            self._unsent.discard(disk_key)
            url = url_of(self._lease.info.deviceUrl, self._hardware, disk_key)
            return Upload(self._session, url, self.sizes[disk_key])

    def end_upload(self, upload: Upload) -> None:
        with self._lock:
            with self._or_lost():
                upload.finish()
            self._sent_bytes += upload.capacity_bytes
            if not self._unsent:
                self.finish()

    def send(self, upload: Upload, start: int, data: bytes) -> None:
        with self._or_lost():
            upload.write(start, data)
        self._lease.percent = (self._sent_bytes + start) * 100 // sum(self.sizes.values())

    @contextmanager
    def _or_lost(self) -> Iterator[None]:
        """What breaks in an import cannot be gone on with: nobody would send again what was sent."""
        try:
            yield
        except TRANSPORT_ERRORS as error:
            self.abandon()
            raise unreachable(error, self._session.address) from error
        except PlatformError:
            self.abandon()
            raise

    def finish(self) -> None:
        """Disks that were not sent are left as they are: empty. The VM stays."""
        with self._lock:
            if not self.open:
                return
            self.open = False
            with self._or_lost(), translating():
                self._lease.complete()
                self._kept(self.vm_ref)

    def abandon(self) -> None:
        """Nothing of the VM is left when it returns, as far as vCenter can be reached."""
        with self._lock:
            if not self.open:
                return
            self.open = False
            self._lease.close(completed=False)
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while read_many(self._session, vim.VirtualMachine, [self.vm_ref], "name") and time.monotonic() < deadline:
            time.sleep(POLL_S)


class ImportWriter:
    """Streams what comes in ascending order. What does not is written to the VM's files, once it is there to stay."""

    def __init__(self, importing: Import, disk_key: int, then: Callable[[], DiskWriter]) -> None:
        self._import, self._capacity_bytes, self._then = importing, importing.sizes[disk_key], then
        self._lock = threading.Lock()
        self._upload: Upload | None = importing.begin_upload(disk_key)
        self._after: DiskWriter | None = None

    def write(self, start: int, data: bytes) -> None:
        refuse_outside(start, len(data), self._capacity_bytes)
        with self._lock:
            if self._upload is not None and start >= self._upload.end:
                self._import.send(self._upload, start, data)
                return
            self._end_upload()
            self._import.finish()
            self._after = self._after or self._then()
            self._after.write(start, data)

    def _end_upload(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            self._import.end_upload(upload)

    def close(self) -> None:
        with self._lock:
            self._end_upload()
            if self._after is not None:
                self._after.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if exc[0] is not None and self._upload is not None:
            self._upload.close()
            self._upload = None
            self._import.abandon()  # half a disk is not worth keeping
        self.close()


@dataclass
class Imports:
    """Those that one platform object has begun."""

    _of_vm: dict[str, Import] = field(default_factory=dict)
    _of_marker: dict[str, Import] = field(default_factory=dict)

    def add(self, marker: str, importing: Import) -> None:
        self._of_vm[importing.vm_ref] = self._of_marker[marker] = importing

    def marked(self, marker: str) -> str | None:
        found = self._of_marker.get(marker)
        return found.vm_ref if found and found.open else None

    def writer(self, vm_ref: str, disk_key: int, then: Callable[[], DiskWriter]) -> DiskWriter:
        found = self._of_vm.get(vm_ref)
        if found and found.may_stream(disk_key):
            return ImportWriter(found, disk_key, then)
        self.finish(vm_ref)
        return then()

    def finish(self, *vm_refs: str) -> None:
        for ref in vm_refs:
            if ref in self._of_vm:
                self._of_vm[ref].finish()

    def abandon(self, vm_ref: str) -> None:
        if vm_ref in self._of_vm:
            self._of_vm[vm_ref].abandon()

    def close(self) -> None:
        for each in self._of_vm.values():
            each.abandon()
