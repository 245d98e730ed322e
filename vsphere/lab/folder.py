"""/folder: the files of the datastores over HTTPS.

`/folder/<path>?dcPath=<datacenter>&dsName=<datastore>`, GET and HEAD with Range, PUT of a whole file. What a real
vCenter does not have: a PUT with Content-Range writes only these bytes into the flat file of a disk. Every answer
about such a file says so in the header X-Partial-Put, which a client must see before it tries: a server that ignores
Content-Range would replace the whole file by the piece.

What is put is not tracked as a change: the file is written past the VM's own way to its disk.

A scripted `folder_status` of 200 makes the server one that knows no ranges; any other is the answer itself.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from pyVmomi import vim

from vsphere.lab import descriptors, hardware
from vsphere.lab.blocks import BLOCK_BYTES
from vsphere.lab.disk import LabDisk
from vsphere.lab.entities import Lab
from vsphere.lab.inventory import Datacenter
from vsphere.lab.vm import VirtualMachine

if TYPE_CHECKING:
    from vsphere.lab.http import Handler

FLAT = "-flat.vmdk"
HIDDEN = re.compile(r"(-ctk(-\d+)?\.vmdk|\.map|\.disk\.json|\.new)$")
READ_ONLY = re.compile(rf"{HIDDEN.pattern}|-\d{{6}}(-delta)?\.vmdk$")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
PARTIAL_PUT = {"X-Partial-Put": "content-range"}
READ_BYTES = 1 << 20


class Refusal(Exception):
    def __init__(self, status: HTTPStatus, why: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(why)
        self.status, self.headers = status, headers


@dataclass
class Target:
    datastore: str
    path: Path
    disk: LabDisk | None
    """If it is the flat file of a disk."""
    owner: VirtualMachine | None
    without_ranges: bool = False

    @property
    def headers(self) -> dict[str, str]:
        return {"Accept-Ranges": "bytes"} | (PARTIAL_PUT if self.disk else {})


def get(handler: "Handler") -> None:
    try:
        target = _target(handler)
        if (text := _descriptor(handler.lab, target.path)) is not None:
            handler.reply(HTTPStatus.OK, text if handler.command == "GET" else b"", headers=target.headers)
            return
        _refuse_written_delta(handler.lab, target.path)
        if not target.path.is_file() or HIDDEN.search(target.path.name):
            raise Refusal(HTTPStatus.NOT_FOUND, "There is no such file.")
        if target.owner and target.owner.running and target.disk and not target.disk.meta.layers:
            raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "The file is locked: the VM writes to it.")
        size = target.path.stat().st_size
        wanted = None if target.without_ranges else _range(handler.headers.get("Range"), size)
    except Refusal as refusal:
        _refuse(handler, refusal)
        return
    start, stop = wanted or (0, size)
    partial = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"} if wanted else {}
    status = HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK
    handler.head(status, stop - start, "application/octet-stream", target.headers | partial)
    if handler.command == "GET":
        handler.wfile.flush()
        handler.lab.stores.count(target.datastore, read=stop - start)
        _send(handler, target.path, start, stop)


def put(handler: "Handler") -> None:
    pieces = handler.body()
    try:
        target = _target(handler)
        created = not target.path.exists()
        if target.disk:
            _write_disk(handler, target, target.disk, pieces)
        else:
            _write_file(handler, target, pieces)
    except Refusal as refusal:
        for _ in pieces:
            """A client that is still sending would not read the answer."""
        _refuse(handler, refusal)
        return
    handler.reply(HTTPStatus.CREATED if created else HTTPStatus.OK, headers=target.headers)


def _refuse(handler: "Handler", refusal: Refusal) -> None:
    body = b"" if handler.command == "HEAD" else str(refusal).encode()
    handler.reply(refusal.status, body, headers=refusal.headers)


def _target(handler: "Handler") -> Target:
    if handler.session() is None:
        raise Refusal(HTTPStatus.UNAUTHORIZED, "Log in first.", {"WWW-Authenticate": "Basic"})
    url = urlsplit(handler.path)
    query = parse_qs(url.query)
    datastore, relative = query.get("dsName", [""])[0], unquote(url.path).removeprefix("/folder").strip("/")
    status = handler.lab.faults.folder_status(f"{datastore}/{relative}")
    if status not in (None, HTTPStatus.OK):
        raise Refusal(HTTPStatus(status), "The lab was told to fail here.")
    handler.lab.stores.wait(datastore)
    _check_datacenter(handler.lab, query.get("dcPath", [""])[0])
    try:
        path = handler.lab.shelf.path(datastore, relative)
    except vim.fault.InvalidDatastorePath as fault:
        raise Refusal(HTTPStatus.NOT_FOUND, f"There is no datastore path {fault.datastorePath}.") from fault
    disk = None
    if path.name.endswith(FLAT):
        disk = handler.lab.shelf.of_stem(path.with_name(path.name.removesuffix(FLAT)))
    return Target(datastore, path, disk, _owner(handler.lab, disk) if disk else None, status is not None)


def _descriptor(lab: Lab, path: Path) -> bytes | None:
    stem = descriptors.stem_of(path)
    disk = lab.shelf.of_stem(stem) if stem else None
    return descriptors.text(disk, path.name) if disk else None


def _refuse_written_delta(lab: Lab, path: Path) -> None:
    stem = descriptors.stem_of(path)
    disk = lab.shelf.of_stem(stem) if stem else None
    owner = _owner(lab, disk) if disk else None
    if disk and owner and owner.running and descriptors.is_written(disk, path):
        raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "The file is locked: the VM writes to it.")


def _check_datacenter(lab: Lab, path: str) -> None:
    name = path.strip("/").rpartition("/")[2]
    if name and name not in {datacenter.name for datacenter in lab.of_type(Datacenter)}:
        raise Refusal(HTTPStatus.NOT_FOUND, f"There is no datacenter '{path}'.")


def _owner(lab: Lab, disk: LabDisk) -> VirtualMachine | None:
    stem = lab.shelf.file_name(disk)
    for vm in tuple(lab.vms.values()):
        if any(device.backing.fileName == stem for device in hardware.disks(vm.config.info)):
            return vm
    return None


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """(start, stop) of the first range; None for the whole file."""
    match = RANGE.match(header or "")
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if start >= stop:
        raise Refusal(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "Nothing there.", {"Content-Range": f"bytes */{size}"}
        )
    return start, stop


def _send(handler: "Handler", path: Path, start: int, stop: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        while start < stop:
            data = os.pread(fd, min(READ_BYTES, stop - start), start)
            if not data:
                raise ConnectionError("The file became shorter while it was sent.")
            handler.wfile.write(data)
            start += len(data)
        handler.wfile.flush()
    finally:
        os.close(fd)


def _write_disk(handler: "Handler", target: Target, disk: LabDisk, pieces: Iterator[bytes]) -> None:
    if target.owner and target.owner.running:
        raise Refusal(HTTPStatus.CONFLICT, "The VM is powered on.")
    if disk.meta.layers:
        raise Refusal(HTTPStatus.CONFLICT, "The disk has snapshots.")
    start, stop = _written_range(handler.headers.get("Content-Range"), disk.meta.capacity_bytes)
    position = start
    for data in _aligned(pieces, start):
        if position + len(data) > stop:
            raise Refusal(HTTPStatus.BAD_REQUEST, "The body is longer than its place.")
        disk.write_sparse(position, data, tracked=False)
        handler.lab.stores.count(target.datastore, written=len(data))
        position += len(data)
    if position != stop:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"The body has {position - start} bytes, {stop - start} were expected.")


def _written_range(header: str | None, capacity_bytes: int) -> tuple[int, int]:
    if header is None:
        return 0, capacity_bytes
    match = CONTENT_RANGE.fullmatch(header)
    if match is None or int(match[2]) >= capacity_bytes or match[3] not in ("*", str(capacity_bytes)):
        raise Refusal(HTTPStatus.BAD_REQUEST, "The Content-Range does not fit the disk.")
    return int(match[1]), int(match[2]) + 1


def _aligned(pieces: Iterator[bytes], start: int) -> Iterator[bytes]:
    """The body in pieces that end at block borders, however it was chunked, so that runs of zeros are seen."""
    held = bytearray()
    for piece in pieces:
        held += piece
        whole = (start + len(held)) // BLOCK_BYTES * BLOCK_BYTES - start
        if whole > 0:
            yield bytes(held[:whole])
            del held[:whole]
            start += whole
    if held:
        yield bytes(held)


def _write_file(handler: "Handler", target: Target, pieces: Iterator[bytes]) -> None:
    if READ_ONLY.search(target.path.name):
        raise Refusal(HTTPStatus.FORBIDDEN, "This file is the lab's own.")
    if handler.headers.get("Content-Range"):
        raise Refusal(HTTPStatus.BAD_REQUEST, "Only the flat file of a disk can be written in parts.")
    if not target.path.parent.is_dir():
        raise Refusal(HTTPStatus.NOT_FOUND, "There is no such folder.")
    temporary = target.path.with_name(target.path.name + ".new")
    with temporary.open("wb") as out:
        for piece in pieces:
            out.write(piece)
    temporary.replace(target.path)
