"""The NBD client against servers written by others, and against some that lie."""

import random
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backups.errors import DiskUnreadable
from backups.platform import Disk, Snapshot
from vsphere.disks import nbd, nbd_reader
from vsphere.disks.nbd import Address, Broken, Connection
from vsphere.disks.nbd_reader import NbdReader

MIB = 2**20
SIZE = 9 * MIB + 4096
NBDKIT = ("nbdkit", "--foreground", "--readonly", "--unix", "{socket}", "--exit-with-parent")
SERVERS = {
    "nbdkit": (*NBDKIT, "file", "{image}"),
    "nbdkit without structured replies": (*NBDKIT, "--no-sr", "file", "{image}"),
    "nbdkit with large blocks": (
        *NBDKIT, "--filter=blocksize-policy", "file", "{image}",
        "blocksize-minimum=4096", "blocksize-maximum=65536", "blocksize-error-policy=error",
    ),
    "nbdkit that is slow and answers in any order": (*NBDKIT, "--filter=delay", "file", "{image}", "rdelay=20ms"),
    "qemu-nbd": ("qemu-nbd", "--read-only", "--persistent", "--shared=0", "--format=raw", "-k", "{socket}", "-x", "",
                 "{image}"),
}  # fmt: skip


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Data, a hole of 4 MiB, data up to the end."""
    chance = random.Random(7)
    path = tmp_path / "disk.img"
    with path.open("wb") as out:
        out.write(chance.randbytes(3 * MIB))
        out.seek(7 * MIB)
        out.write(chance.randbytes(2 * MIB + 4096))
    return path


@contextmanager
def serving(command: tuple[str, ...], image: Path) -> Iterator[Address]:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    path = image.parent / "nbd.sock"
    path.unlink(missing_ok=True)
    filled = [part.format(socket=path, image=image) for part in command]
    server = subprocess.Popen(filled, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not path.exists():
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield Address("", unix=str(path))
    finally:
        server.kill()  # when asked to end, nbdkit waits for its clients
        server.wait(10)


@pytest.mark.parametrize("server", SERVERS)
def test_every_range_is_read_as_it_is(server: str, image: Path) -> None:
    wanted, chance = image.read_bytes(), random.Random(3)
    with serving(SERVERS[server], image) as address, NbdReader(address, SIZE, "") as disk:
        assert disk.read(0, SIZE) == wanted
        for _ in range(50):
            start = chance.randrange(SIZE)
            length = chance.randrange(min(SIZE - start, chance.choice((2, 5000, 2 * MIB))) + 1)
            assert disk.read(start, length) == wanted[start : start + length], (start, length)


def test_many_threads_share_one_connection(image: Path) -> None:
    wanted = image.read_bytes()
    with serving(SERVERS["nbdkit that is slow and answers in any order"], image) as address:
        with NbdReader(address, SIZE, "") as disk, ThreadPoolExecutor(8) as threads:
            starts = list(range(0, 8 * MIB, MIB // 4)) * 2
            parts = list(threads.map(lambda start: disk.read(start, MIB // 4), starts))
    assert all(part == wanted[start : start + MIB // 4] for start, part in zip(starts, parts, strict=True))


def test_an_error_of_the_servers_disk_is_told_and_the_connection_goes_on(image: Path) -> None:
    trigger = image.parent / "broken"
    command = (*NBDKIT, "--filter=error", "file", "{image}", "error-pread-rate=100%", f"error-file={trigger}")
    with serving(command, image) as address, NbdReader(address, SIZE, "") as disk:
        trigger.touch()
        with pytest.raises(DiskUnreadable, match="could not read"):
            disk.read(0, 100)
        trigger.unlink()
        assert disk.read(0, 100) == image.read_bytes()[:100]


def test_a_server_that_goes_away_and_comes_back_costs_only_time(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbd_reader, "PAUSE_S", 0.01)
    with serving(SERVERS["nbdkit"], image) as address:
        disk = NbdReader(address, SIZE, "")
    with pytest.raises(DiskUnreadable, match="cannot be reached"):
        disk.read(0, 100)
    with serving(SERVERS["nbdkit"], image), disk:
        assert disk.read(MIB, 100) == image.read_bytes()[MIB : MIB + 100]


def test_a_disk_of_another_size_is_not_the_disk(image: Path) -> None:
    with serving(SERVERS["nbdkit"], image) as address:
        with pytest.raises(DiskUnreadable, match="has 9441280 bytes"):
            NbdReader(address, SIZE + 512, "")


def test_an_export_that_is_not_there_is_told(image: Path) -> None:
    with serving(SERVERS["qemu-nbd"], image) as address:
        with pytest.raises(DiskUnreadable, match="no such export"):
            NbdReader(Address("other", unix=address.unix), SIZE, "")


def test_addresses_are_made_by_the_operators_template(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Address.parse("nbd://backup1:10810/vm-7%2F2000") == Address("vm-7/2000", "backup1", 10810)
    disk = Disk(key=2000, label="Hard disk 1", capacity_bytes=SIZE, datastore="ssd1", path="[ssd1] web/web.vmdk")
    snapshot = Snapshot(vm_ref="vm-7", ref="snapshot-9", name="ours", taken_at=datetime.now(UTC), quiesced=False)
    for wrong in ("http://{vm}", "nbd://{nonsense}", "nbd+unix:///x", "nbd:///x"):
        with pytest.raises(DiskUnreadable, match="HOTFIRST_NBD"):
            nbd_reader.open_disk(wrong, snapshot, disk, "")
    export = "vm-7 snapshot-9 2000 [ssd1] web/web.vmdk"
    command = ("qemu-nbd", "-r", "-t", "-e", "0", "-f", "raw", "-k", "{socket}", "-x", export, "{image}")
    with serving(command, image) as address:
        monkeypatch.setenv(nbd_reader.SETTING, "nbd+unix:///{vm}%20{snapshot}%20{disk}%20{path}?socket=" + address.unix)
        with nbd_reader.open_disk(nbd_reader.template(), snapshot, disk, "why") as opened:
            assert (opened.transport, opened.transport_reason) == ("nbd", "why")
            assert opened.read(0, 512) == image.read_bytes()[:512]


HELLO = struct.pack(">QQH", nbd.INIT_MAGIC, nbd.OPTION_MAGIC, 3)


def option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", nbd.REPLY_MAGIC, option, kind, len(data)) + data


@contextmanager
def liar(play: Callable[[socket.socket], None]) -> Iterator[Address]:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            play(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield Address("", *listener.getsockname())
    listener.close()
    thread.join(5)


def greet(connection: socket.socket, structured: bool) -> None:
    """Up to the first request, which is taken in."""
    connection.sendall(HELLO)
    connection.recv(4)
    connection.recv(1000)
    connection.sendall(option_reply(8, nbd.REP_ACK if structured else nbd.REP_ERR_UNSUP))
    connection.recv(1000)
    export = struct.pack(">HQH", nbd.INFO_EXPORT, SIZE, 1)
    connection.sendall(option_reply(7, nbd.REP_INFO, export) + option_reply(7, nbd.REP_ACK))
    connection.recv(28)


def chunk(kind: int, data: bytes, handle: int = 1, flags: int = nbd.DONE, length: int | None = None) -> bytes:
    length = len(data) if length is None else length
    return struct.pack(">IHHQI", nbd.STRUCTURED_MAGIC, flags, kind, handle, length) + data


LIES = {
    "another protocol": (False, b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "an answer to nothing": (False, struct.pack(">IIQ", nbd.SIMPLE_MAGIC, 0, 77)),
    "data from elsewhere": (True, chunk(nbd.CHUNK_DATA, struct.pack(">Q", MIB) + b"x" * 512)),
    "more than was asked for": (True, chunk(nbd.CHUNK_DATA, struct.pack(">Q", 0) + b"x" * 1024)),
    "a hole without end": (True, chunk(nbd.CHUNK_HOLE, struct.pack(">QI", 0, 2**32 - 1))),
    "done without data": (True, chunk(nbd.CHUNK_NONE, b"")),
    "an endless error": (True, chunk(nbd.CHUNK_ERROR + 1, b"", length=2**31)),
    "a connection that ends": (True, b""),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_gives_an_error_and_no_bytes(lie: str) -> None:
    structured, answer = LIES[lie]

    def play(connection: socket.socket) -> None:
        greet(connection, structured)
        connection.sendall(answer)
        if answer:
            connection.recv(28)

    with liar(play) as address:
        connection = Connection(address, timeout_s=2)
        with pytest.raises(Broken):
            connection.read(0, 512)
        connection.close()


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", b"", HELLO[:16] + b"\0\0"])
def test_another_kind_of_server_is_refused(greeting: bytes) -> None:
    with liar(lambda connection: connection.sendall(greeting)) as address:
        with pytest.raises((DiskUnreadable, Broken)):
            Connection(address, timeout_s=2)


def test_a_server_that_falls_silent_is_given_up() -> None:
    def play(connection: socket.socket) -> None:
        greet(connection, structured=True)
        connection.recv(28)

    with liar(play) as address:
        connection = Connection(address, timeout_s=0.3)
        with pytest.raises(Broken, match="does not answer"):
            connection.read(0, 512)
        connection.close()


def test_several_requests_are_under_way_before_the_first_is_answered() -> None:
    def play(connection: socket.socket) -> None:
        greet(connection, structured=False)
        raw = b""
        while len(raw) < 3 * 28:
            raw += connection.recv(28)
        for handle in (4, 2, 3, 1):
            connection.sendall(struct.pack(">IIQ", nbd.SIMPLE_MAGIC, 0, handle) + bytes([handle]) * nbd.PIECE_BYTES)
        connection.recv(28)

    with liar(play) as address:
        connection = Connection(address, timeout_s=5)
        data = connection.read(0, 4 * nbd.PIECE_BYTES)
        connection.close()
    assert [data[n * nbd.PIECE_BYTES] for n in range(4)] == [1, 2, 3, 4]


def test_a_server_without_options_is_read_too(image: Path) -> None:
    """It knows only the oldest way to name an export."""
    data = image.read_bytes()

    def play(connection: socket.socket) -> None:
        connection.sendall(HELLO)
        connection.recv(4)
        for option in (8, 7):
            connection.recv(1000)
            connection.sendall(option_reply(option, nbd.REP_ERR_UNSUP))
        connection.recv(1000)
        connection.sendall(struct.pack(">QH", SIZE, 1))
        while len(raw := connection.recv(28)) == 28:
            _, _, kind, handle, start, length = nbd.REQUEST.unpack(raw)
            if kind != nbd.CMD_READ:
                return
            connection.sendall(struct.pack(">IIQ", nbd.SIMPLE_MAGIC, 0, handle) + data[start : start + length])

    with liar(play) as address, NbdReader(address, SIZE, "") as disk:
        assert disk.read(2 * MIB - 5, 77) == data[2 * MIB - 5 : 2 * MIB + 72]
