"""A client of NBD, the network block device protocol: ranges of a disk from any server that the operator runs beside
vCenter, one export a disk. Newstyle handshake, structured replies where the server has them, several requests in
flight on one connection. After doc/proto.md of github.com/NetworkBlockDevice/nbd.
"""

import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import parse_qs, unquote, urlsplit

from backups.errors import DiskUnreadable

PORT = 10809
INIT_MAGIC, OPTION_MAGIC, REPLY_MAGIC = 0x4E42444D41474943, 0x49484156454F5054, 0x3E889045565A9
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
OPT_EXPORT_NAME, OPT_GO, OPT_STRUCTURED_REPLY = 1, 7, 8
REP_ACK, REP_INFO, REP_ERROR, REP_ERR_UNSUP = 1, 3, 1 << 31, (1 << 31) + 1
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
CMD_READ, CMD_DISCONNECT = 0, 2
REQUEST = struct.Struct(">IHHQQI")
REQUEST_MAGIC, SIMPLE_MAGIC, STRUCTURED_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
SIMPLE, STRUCTURED = struct.Struct(">IQ"), struct.Struct(">HHQI")
DONE = 1
CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_ERROR = 0, 1, 2, 1 << 15
LONGEST_TOLD = 65536
"""What a server may say in one reply of the handshake, or of an error."""
PIECE_BYTES = 2**20
IN_FLIGHT = 8
ALIGNMENT = 512


class Broken(Exception):
    """The connection, not the disk: it may be made again."""


@dataclass(frozen=True)
class Address:
    """`unix`: the path of a socket; else host and port."""

    export: str
    host: str = ""
    port: int = PORT
    unix: str = ""

    @classmethod
    def parse(cls, uri: str) -> "Address":
        """`nbd://host[:port]/export` or `nbd+unix:///export?socket=/path`. Raises ValueError."""
        parts = urlsplit(uri)
        export = unquote(parts.path).removeprefix("/")
        if parts.scheme == "nbd" and parts.hostname:
            return cls(export, parts.hostname, parts.port or PORT)
        if parts.scheme == "nbd+unix" and (path := parse_qs(parts.query).get("socket")):
            return cls(export, unix=path[0])
        raise ValueError(f"{uri} is no address of an NBD export.")

    def connect(self, timeout_s: float) -> socket.socket:
        if not self.unix:
            return socket.create_connection((self.host, self.port), timeout_s)
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(timeout_s)
        try:
            made.connect(self.unix)
        except OSError:
            made.close()
            raise
        return made


@dataclass
class _Wanted:
    """A request that is not answered yet."""

    start: int
    into: memoryview
    left: int
    done: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None


class Connection:
    """Thread-safe. Raises Broken once the connection is, and DiskUnreadable for what the server says of the disk."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._alignment, self._longest = ALIGNMENT, PIECE_BYTES
        self._structured = False
        try:
            self._socket = address.connect(timeout_s)
        except OSError as error:
            raise Broken(f"{error}") from error
        try:
            self.size = self._handshake(address.export)
        except OSError as error:
            self._socket.close()
            raise Broken(f"{error}") from error
        except BaseException:
            self._socket.close()
            raise
        self._socket.settimeout(None)
        self._send_lock, self._lock = threading.Lock(), threading.Lock()
        self._handles, self._wanted = count(1), dict[int, _Wanted]()
        self._slots = threading.BoundedSemaphore(IN_FLIGHT)
        self._broken: Exception | None = None
        threading.Thread(target=self._receive, name=f"nbd {address.export}", daemon=True).start()

    # The handshake.

    def _handshake(self, export: str) -> int:
        magic, option, flags = struct.unpack(">QQH", self._take(18))
        if magic != INIT_MAGIC or option != OPTION_MAGIC or not flags & FIXED_NEWSTYLE:
            raise DiskUnreadable("what listens at the address for NBD is no newstyle NBD server")
        no_zeroes = flags & NO_ZEROES
        self._socket.sendall(struct.pack(">I", FIXED_NEWSTYLE | no_zeroes))
        self._structured = self._ask(OPT_STRUCTURED_REPLY, b"") == REP_ACK
        name = export.encode()
        ended = self._ask(OPT_GO, struct.pack(">I", len(name)) + name + struct.pack(">HH", 1, INFO_BLOCK_SIZE))
        if ended == REP_ACK:
            return self._told_size
        if ended != REP_ERR_UNSUP:
            raise DiskUnreadable(f"the NBD server has no such export ({self._told or ended})")
        self._option(OPT_EXPORT_NAME, name)
        raw = self._take(10 if no_zeroes else 134)
        return int(struct.unpack_from(">Q", raw)[0])

    def _option(self, option: int, data: bytes) -> None:
        self._socket.sendall(struct.pack(">QII", OPTION_MAGIC, option, len(data)) + data)

    def _ask(self, option: int, data: bytes) -> int:
        """The kind of the reply that ends the answer."""
        self._told, self._told_size = "", 0
        self._option(option, data)
        while True:
            magic, _, kind, length = struct.unpack(">QIII", self._take(20))
            if magic != REPLY_MAGIC or length > LONGEST_TOLD:
                raise Broken("the NBD server does not speak the protocol")
            told = self._take(length)
            if kind != REP_INFO:
                self._told = told.decode(errors="replace") if kind & REP_ERROR else ""
                return int(kind)
            self._learn(told)

    def _learn(self, told: bytes) -> None:
        kind = struct.unpack_from(">H", told)[0] if len(told) >= 2 else -1
        if kind == INFO_EXPORT and len(told) == 12:
            self._told_size = struct.unpack_from(">Q", told, 2)[0]
        elif kind == INFO_BLOCK_SIZE and len(told) == 14:
            least, _, most = struct.unpack_from(">III", told, 2)
            self._alignment = max(ALIGNMENT, least)
            self._longest = max(self._alignment, min(PIECE_BYTES, most))

    # Reading.

    def read(self, start: int, length: int) -> bytes:
        """Reads outside the alignment are widened to it, which the server's disk may be too short for."""
        first = start - start % self._alignment
        end = min(self.size, -(-(start + length) // self._alignment) * self._alignment)
        data = bytearray(end - first)
        wanted = [self._request(first + at, piece) for at, piece in self._pieces(memoryview(data))]
        for each in wanted:
            if not each.done.wait(self._timeout_s):
                self._break(TimeoutError("the NBD server does not answer"))
            if each.error:
                raise each.error
        return bytes(data) if len(data) == length else bytes(memoryview(data)[start - first : start - first + length])

    def _pieces(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        for at in range(0, len(data), self._longest):
            yield at, data[at : at + self._longest]

    def _request(self, start: int, into: memoryview) -> _Wanted:
        if not self._slots.acquire(timeout=self._timeout_s):
            self._break(TimeoutError("the NBD server does not answer"))
        wanted, handle = _Wanted(start, into, len(into)), next(self._handles)
        with self._lock:
            if self._broken:
                self._slots.release()
                raise Broken(str(self._broken))
            self._wanted[handle] = wanted
        try:
            with self._send_lock:
                self._socket.sendall(REQUEST.pack(REQUEST_MAGIC, 0, CMD_READ, handle, start, len(into)))
        except OSError as error:
            self._break(error)
        return wanted

    # The other thread.

    def _receive(self) -> None:
        try:
            while True:
                (magic,) = struct.unpack(">I", self._take(4))
                if magic == STRUCTURED_MAGIC and self._structured:
                    self._structured_reply()
                elif magic == SIMPLE_MAGIC:
                    self._simple_reply()
                else:
                    raise Broken("the NBD server does not speak the protocol")
        except (OSError, Broken) as error:
            self._break(error)

    def _simple_reply(self) -> None:
        error, handle = SIMPLE.unpack(self._take(SIMPLE.size))
        wanted = self._of(handle)
        if not error:
            self._take_into(wanted.into)
            wanted.left = 0
        self._end(handle, _refusal(error) if error else None)

    def _structured_reply(self) -> None:
        flags, kind, handle, length = STRUCTURED.unpack(self._take(STRUCTURED.size))
        wanted = self._of(handle)
        if kind == CHUNK_DATA and length > 8:
            (start,) = struct.unpack(">Q", self._take(8))
            self._take_into(self._part(wanted, start, length - 8))
        elif kind == CHUNK_HOLE and length == 12:
            start, hole = struct.unpack(">QI", self._take(12))
            self._part(wanted, start, hole)[:] = bytes(hole)
        elif length > LONGEST_TOLD:
            raise Broken("the NBD server does not speak the protocol")
        else:
            told = self._take(length)
            if kind & CHUNK_ERROR and length >= 6:
                wanted.error = wanted.error or _refusal(*struct.unpack_from(">I", told))
        if flags & DONE:
            self._end(handle, wanted.error)

    def _part(self, wanted: _Wanted, start: int, length: int) -> memoryview:
        at = start - wanted.start
        if at < 0 or at + length > len(wanted.into):
            raise Broken("the NBD server sends what it was not asked for")
        wanted.left -= length
        return wanted.into[at : at + length]

    def _of(self, handle: int) -> _Wanted:
        with self._lock:
            wanted = self._wanted.get(handle)
        if wanted is None:
            raise Broken("the NBD server answers what it was not asked")
        return wanted

    def _end(self, handle: int, error: Exception | None) -> None:
        with self._lock:
            wanted = self._wanted.pop(handle)
        if wanted.left and not error:
            error = Broken("the NBD server sent less than it was asked for")
        wanted.error = error
        wanted.done.set()
        self._slots.release()

    def _break(self, error: Exception) -> None:
        with self._lock:
            self._broken = self._broken or error
            lost, self._wanted = self._wanted, {}
        for wanted in lost.values():
            wanted.error = Broken(str(self._broken))
            wanted.done.set()
            self._slots.release()
        self._hang_up()

    def _hang_up(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # it was closed already
            return

    def _take(self, length: int) -> bytes:
        data = bytearray(length)
        self._take_into(memoryview(data))
        return bytes(data)

    def _take_into(self, view: memoryview) -> None:
        while view:
            got = self._socket.recv_into(view)
            if not got:
                raise Broken("the NBD server has hung up")
            view = view[got:]

    def close(self) -> None:
        try:
            with self._send_lock:
                self._socket.sendall(REQUEST.pack(REQUEST_MAGIC, 0, CMD_DISCONNECT, 0, 0, 0))
        except OSError as error:
            self._break(error)
        self._break(Broken("closed"))
        self._socket.close()


def _refusal(errno: int) -> DiskUnreadable:
    return DiskUnreadable(f"The NBD server could not read the disk (error {errno}); it is tried again later.")
