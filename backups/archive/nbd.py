"""Serves the disks of an archive as read-only network block devices, so that any system can mount them: the NBD
protocol, fixed newstyle, with structured replies and `base:allocation`, as its specification says
(github.com/NetworkBlockDevice/nbd, doc/proto.md)."""

import contextlib
import logging
import socket
import socketserver
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock

from backups.archive.maps import CHUNK_BYTES, ZERO_ID
from backups.archive.reader import ArchivedDisk, ArchiveReader
from backups.errors import HotfirstError

MAGIC, OPTION_MAGIC, REPLY_MAGIC = b"NBDMAGIC", b"IHAVEOPT", 0x3E889045565A9
REQUEST_MAGIC, SIMPLE_MAGIC, STRUCTURED_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
EXPORT_NAME, ABORT, LIST, INFO, GO, STRUCTURED, LIST_CONTEXTS, SET_CONTEXT = 1, 2, 3, 6, 7, 8, 9, 10
ACK, SERVER, INFORMATION, CONTEXT = 1, 2, 3, 4
UNSUPPORTED, INVALID, UNKNOWN, TOO_BIG = 2**31 + 1, 2**31 + 3, 2**31 + 6, 2**31 + 9
EXPORT_FLAGS = 1 | 2 | 256
"""Has flags, read only, safe over several connections."""
READ, WRITE, DISCONNECT, FLUSH, BLOCK_STATUS = 0, 1, 2, 3, 7
DONE, OFFSET_DATA, STATUS_DATA, ERROR_DATA = 1, 1, 5, 32769
EPERM, EIO, EINVAL = 1, 5, 22
HOLE_AND_ZERO = 3
REQUEST_ONE_EXTENT = 8
CONTEXT_ID, CONTEXT_NAME = 1, b"base:allocation"
MAX_OPTION_BYTES = 64 * 1024
MAX_READ_BYTES = 32 * 1024 * 1024
MAX_EXTENTS = 4096
CACHED_CHUNKS = 64

log = logging.getLogger(__name__)


class ServedDisk:
    """Safe for several threads. Keeps the chunks it read last, since file systems read in small pieces."""

    def __init__(self, reader: ArchiveReader, disk: ArchivedDisk) -> None:
        self.name, self.label, self.size_bytes = str(disk.key), disk.label, disk.capacity_bytes
        self._reader, self._key, self._map = reader, disk.key, reader.disk_map(disk.key)
        self._chunks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = Lock()

    def read(self, start: int, length: int) -> bytes:
        end = start + length
        pieces = []
        while start < end:
            chunk, offset = divmod(start, CHUNK_BYTES)
            piece = self._chunk(chunk)[offset : offset + end - start]
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)

    def extents(self, start: int, length: int) -> Iterator[tuple[int, bool]]:
        """Lengths, alternately of holes (True) and of data."""
        end, begun, hole = start + length, start, self._is_hole(start // CHUNK_BYTES)
        at = start
        while at < end:
            now = self._is_hole(at // CHUNK_BYTES)
            if now != hole:
                yield at - begun, hole
                begun, hole = at, now
            at = (at // CHUNK_BYTES + 1) * CHUNK_BYTES
        yield end - begun, hole

    def _is_hole(self, chunk: int) -> bool:
        with self._lock:
            return self._map.chunk_id(chunk) == ZERO_ID

    def _chunk(self, chunk: int) -> bytes:
        with self._lock:
            if chunk in self._chunks:
                self._chunks.move_to_end(chunk)
                return self._chunks[chunk]
        data = self._reader.read(self._key, chunk * CHUNK_BYTES, CHUNK_BYTES)
        with self._lock:
            self._chunks[chunk] = data
            if len(self._chunks) > CACHED_CHUNKS:
                self._chunks.popitem(last=False)
        return data


class _Closed(Exception):
    """The client is done, or does not speak NBD."""


class _Connection:
    def __init__(self, connection: socket.socket, disks: Sequence[ServedDisk]) -> None:
        self._socket, self._disks = connection, disks
        self._structured = False
        self._contexts = False

    def serve(self) -> None:
        disk = self._negotiated()
        while True:
            self._answer(disk, *struct.unpack(">IHHQQI", self._receive(28)))

    def _negotiated(self) -> ServedDisk:
        self._send(MAGIC + OPTION_MAGIC + struct.pack(">H", FIXED_NEWSTYLE | NO_ZEROES))
        (client_flags,) = struct.unpack(">I", self._receive(4))
        while True:
            magic, option, length = struct.unpack(">8sII", self._receive(16))
            if magic != OPTION_MAGIC or length > MAX_OPTION_BYTES:
                raise _Closed
            data = self._receive(length)
            if option == EXPORT_NAME:
                return self._exported(data, client_flags)
            if disk := self._option(option, data):
                return disk

    def _exported(self, name: bytes, client_flags: int) -> ServedDisk:
        """The old way, which has no words for errors."""
        disk = self._named(name)
        if disk is None:
            raise _Closed
        padding = b"" if client_flags & NO_ZEROES else bytes(124)
        self._send(struct.pack(">QH", disk.size_bytes, EXPORT_FLAGS) + padding)
        return disk

    def _option(self, option: int, data: bytes) -> ServedDisk | None:
        """The disk, if transmission begins."""
        if option == ABORT:
            self._reply(option, ACK)
            raise _Closed
        try:
            if option in (INFO, GO):
                return self._go(option, data)
            if option == LIST:
                self._list()
            elif option == STRUCTURED:
                self._structured = True
                self._reply(option, ACK)
            elif option in (LIST_CONTEXTS, SET_CONTEXT):
                self._context(option, data)
            else:
                self._reply(option, UNSUPPORTED)
        except struct.error:
            self._reply(option, INVALID)
        return None

    def _list(self) -> None:
        for disk in self._disks:
            name = disk.name.encode()
            self._reply(LIST, SERVER, struct.pack(">I", len(name)) + name + disk.label.encode())
        self._reply(LIST, ACK)

    def _go(self, option: int, data: bytes) -> ServedDisk | None:
        (length,) = struct.unpack_from(">I", data)
        disk = self._named(data[4 : 4 + length])
        if disk is None:
            self._reply(option, UNKNOWN, b"There is no such disk; its name is its key, such as 2000.")
            return None
        self._reply(option, INFORMATION, struct.pack(">HQH", 0, disk.size_bytes, EXPORT_FLAGS))
        self._reply(option, INFORMATION, struct.pack(">HIII", 3, 1, CHUNK_BYTES, MAX_READ_BYTES))
        self._reply(option, ACK)
        return disk if option == GO else None

    def _context(self, option: int, data: bytes) -> None:
        (name_length,) = struct.unpack_from(">I", data)
        (count,) = struct.unpack_from(">I", data, 4 + name_length)
        at, asked = 8 + name_length, list[bytes]()
        for _ in range(count):
            (length,) = struct.unpack_from(">I", data, at)
            asked.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        wanted = CONTEXT_NAME in asked or (option == LIST_CONTEXTS and (not asked or b"base:" in asked))
        if wanted:
            self._reply(option, CONTEXT, struct.pack(">I", CONTEXT_ID) + CONTEXT_NAME)
        self._contexts = self._contexts or (wanted and option == SET_CONTEXT and self._structured)
        self._reply(option, ACK)

    def _named(self, name: bytes) -> ServedDisk | None:
        if not name and self._disks:
            return self._disks[0]
        return next((disk for disk in self._disks if disk.name.encode() == name), None)

    def _answer(
        self, disk: ServedDisk, magic: int, flags: int, command: int, handle: int, start: int, length: int
    ) -> None:
        if magic != REQUEST_MAGIC or command == DISCONNECT:
            raise _Closed
        try:
            if command == READ and self._inside(disk, start, length) and length <= MAX_READ_BYTES:
                self._data(handle, start, disk.read(start, length))
            elif command == BLOCK_STATUS and self._contexts and self._inside(disk, start, length):
                self._status(handle, disk, start, length, bool(flags & REQUEST_ONE_EXTENT))
            elif command == FLUSH:
                self._send(struct.pack(">IIQ", SIMPLE_MAGIC, 0, handle))
            else:
                self._refuse(handle, command, length)
        except HotfirstError as error:
            log.error("%s at byte %d: %s", disk.label, start, error)
            self._error(handle, EIO)

    def _inside(self, disk: ServedDisk, start: int, length: int) -> bool:
        return length > 0 and start + length <= disk.size_bytes

    def _refuse(self, handle: int, command: int, length: int) -> None:
        if command == WRITE:
            for at in range(0, length, MAX_READ_BYTES):
                self._receive(min(MAX_READ_BYTES, length - at))
        self._error(handle, EINVAL if command in (READ, BLOCK_STATUS) else EPERM)

    def _data(self, handle: int, start: int, data: bytes) -> None:
        if self._structured:
            self._chunk(handle, OFFSET_DATA, struct.pack(">Q", start) + data)
        else:
            self._send(struct.pack(">IIQ", SIMPLE_MAGIC, 0, handle) + data)

    def _status(self, handle: int, disk: ServedDisk, start: int, length: int, one: bool) -> None:
        payload = struct.pack(">I", CONTEXT_ID)
        for count, (extent_bytes, hole) in enumerate(disk.extents(start, length), 1):
            payload += struct.pack(">II", extent_bytes, HOLE_AND_ZERO if hole else 0)
            if one or count == MAX_EXTENTS:
                break
        self._chunk(handle, STATUS_DATA, payload)

    def _error(self, handle: int, code: int) -> None:
        if self._structured:
            self._chunk(handle, ERROR_DATA, struct.pack(">IH", code, 0))
        else:
            self._send(struct.pack(">IIQ", SIMPLE_MAGIC, code, handle))

    def _chunk(self, handle: int, kind: int, payload: bytes) -> None:
        self._send(struct.pack(">IHHQI", STRUCTURED_MAGIC, DONE, kind, handle, len(payload)) + payload)

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self._send(struct.pack(">QIII", REPLY_MAGIC, option, kind, len(data)) + data)

    def _send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _receive(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self._socket.recv(length - len(data))
            if not piece:
                raise _Closed
            data += piece
        return bytes(data)


class _Handler(socketserver.BaseRequestHandler):
    server: "NbdServer"

    def handle(self) -> None:
        with contextlib.suppress(_Closed, ConnectionError):
            _Connection(self.request, self.server.disks).serve()


class NbdServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """On a socket that only its owner may open: whoever connects reads the disks."""

    daemon_threads = True

    def __init__(self, path: Path, disks: Sequence[ServedDisk]) -> None:
        self.disks, self._path = disks, path
        super().__init__(str(path), _Handler)
        path.chmod(0o600)

    def server_close(self) -> None:
        super().server_close()
        self._path.unlink(missing_ok=True)
