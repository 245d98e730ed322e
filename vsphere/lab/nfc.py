"""/nfc: a lease's disks over HTTPS, as stream-optimised VMDKs. GET carries them out, POST and PUT in; the ticket in the
address is all that a client has to show."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote

from backups.errors import DiskUnreadable
from vsphere.disks.streamoptimized import Encoder, grains, read_header
from vsphere.lab.leases import Lease, Slot

if TYPE_CHECKING:
    from vsphere.lab.http import Handler

PREFIX = "/nfc/"
VMDK = "application/x-vnd.vmware-streamVmdk"
READ_BYTES = 1 << 20


def get(handler: "Handler") -> None:
    found = _find(handler)
    if found is None:
        handler.reply(HTTPStatus.NOT_FOUND)
        return
    lease, slot = found
    handler.send_response(HTTPStatus.OK)
    handler.send_header("Content-Type", VMDK)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for part in _stream(handler, lease, slot):
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
    handler.wfile.write(b"0\r\n\r\n")
    handler.wfile.flush()


def _find(handler: "Handler") -> tuple[Lease, Slot] | None:
    ticket, _, name = unquote(handler.path).removeprefix(PREFIX).partition("/")
    lease = handler.lab.leases.get(ticket)
    slot = lease.slot(name) if lease else None
    return (lease, slot) if lease and slot else None


def _stream(handler: "Handler", lease: Lease, slot: Slot) -> Iterator[bytes]:
    encoder = Encoder(slot.disk.meta.capacity_bytes, slot.name)
    yield encoder.begin()
    stores, datastore = handler.lab.stores, slot.vm.datastore
    for start in range(0, slot.disk.meta.capacity_bytes, READ_BYTES):
        stores.wait(datastore)
        if lease.broken:
            raise ConnectionError("The lease has ended.")
        data = slot.disk.read(start, READ_BYTES, slot.snapshot)
        stores.count(datastore, read=len(data))
        yield from encoder.add(start, data)
    yield from encoder.end()


class _Body:
    """The pieces of a request's body, to be read by any length."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._held = pieces, bytearray()

    def read(self, length: int, /) -> bytes:
        while len(self._held) < length and (piece := next(self._pieces, b"")):
            self._held += piece
        taken = bytes(self._held[:length])
        del self._held[:length]
        return taken

    def drain(self) -> None:
        """A client that is still sending would not read the answer."""
        for _ in self._pieces:
            continue


def put(handler: "Handler") -> None:
    body = _Body(handler.body())
    found = _find(handler)
    if found is None or not found[0].importing:
        body.drain()
        handler.reply(HTTPStatus.NOT_FOUND)
        return
    try:
        _take(handler, body, *found)
    except DiskUnreadable as error:
        body.drain()
        handler.reply(HTTPStatus.INTERNAL_SERVER_ERROR, str(error).encode())
        return
    body.drain()
    handler.reply(HTTPStatus.CREATED)


def _take(handler: "Handler", body: _Body, lease: Lease, slot: Slot) -> None:
    header = read_header(body)
    if header.capacity_bytes != slot.disk.meta.capacity_bytes:
        raise DiskUnreadable(f"A disk of {header.capacity_bytes} bytes does not fit into {slot.name}.")
    stores, datastore = handler.lab.stores, slot.vm.datastore
    for start, data in grains(body, header):
        if lease.state != "ready":
            raise ConnectionError("The lease has ended.")
        slot.disk.write_sparse(start, data)
        stores.count(datastore, written=len(data))
