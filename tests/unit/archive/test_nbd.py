import contextlib
import json
import shutil
import socket
import struct
import subprocess
from threading import Thread

import pytest

from backups.archive.nbd import NbdServer, ServedDisk
from backups.archive.reader import ArchiveReader
from tests.unit.archive.disks import MIB, Disk, archive
from tests.unit.archive.test_damage import data_pack, flip

needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


@pytest.fixture
def sparse() -> Disk:
    """9 MiB: data, a long hole, data in the middle of a chunk, a hole at the end."""
    disk = Disk(9 * MIB + 512)
    disk.scribble(0, MIB)
    disk.scribble(6 * MIB + 300_000, 100_000)
    return disk


@pytest.fixture
def served(store, alice, sparse, tmp_path):
    archive(store, alice, sparse, "a1")
    reader = ArchiveReader(store, alice, "a1")
    server = NbdServer(tmp_path / "nbd", [ServedDisk(reader, disk) for disk in reader.disks])
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield tmp_path / "nbd"
    server.shutdown()
    server.server_close()


class Client:
    """As little of the protocol as an old client speaks."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        assert self.receive(18)[:16] == b"NBDMAGICIHAVEOPT"
        self.socket.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 1, 4) + b"2000")
        self.size_bytes, self.flags = struct.unpack(">QH", self.receive(10))

    def ask(self, command: int, start: int, length: int, payload: bytes = b"") -> tuple[int, bytes]:
        self.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, 7, start, length) + payload)
        magic, error, handle = struct.unpack(">IIQ", self.receive(16))
        assert (magic, handle) == (0x67446698, 7)
        return error, self.receive(length) if command == 0 and not error else b""

    def receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            assert piece
            data += piece
        return data


def test_any_piece_of_a_disk_can_be_read(served, sparse):
    client = Client(served)
    assert client.size_bytes == len(sparse.content)
    for start, length in [(0, 512), (MIB - 7, 4096), (6 * MIB, 2 * MIB), (9 * MIB, 512), (262_143, 2)]:
        assert client.ask(0, start, length) == (0, bytes(sparse.content[start : start + length]))


def test_nothing_can_be_written_and_the_connection_goes_on(served, sparse):
    client = Client(served)
    assert client.flags & 2
    assert client.ask(1, 0, 4, b"evil") == (1, b"")
    assert client.ask(0, 0, 16) == (0, bytes(sparse.content[:16]))


def test_what_lies_beyond_the_end_is_refused(served, sparse):
    client = Client(served)
    assert client.ask(0, len(sparse.content) - 1, 2) == (22, b"")
    assert client.ask(0, 2**63, 1) == (22, b"")
    assert client.ask(0, 0, 2**32 - 1) == (22, b"")


def test_rubbish_ends_only_its_own_connection(served, sparse):
    for rubbish in (b"GET / HTTP/1.0\r\n\r\n" * 9, struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, 2**31)):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(served))
            client.sendall(rubbish)
            with contextlib.suppress(ConnectionResetError):
                while client.recv(1000):
                    continue
    assert Client(served).ask(0, 0, 16) == (0, bytes(sparse.content[:16]))


def test_damage_is_an_error_and_never_wrong_data(served, sparse, store):
    flip(store, data_pack(store), 2000)
    client = Client(served)
    answers = [client.ask(0, at, 512) for at in range(0, MIB, 262_144)]
    assert sorted(error for error, _ in answers) == [0, 0, 0, 5]


def test_only_its_owner_may_connect(served):
    assert served.stat().st_mode & 0o777 == 0o600


@needs_qemu
def test_qemu_reads_the_disk_and_its_holes(served, sparse, tmp_path):
    address = f"nbd+unix:///2000?socket={served}"
    subprocess.run(["qemu-img", "convert", "-O", "raw", address, tmp_path / "disk.raw"], check=True, timeout=30)
    assert (tmp_path / "disk.raw").read_bytes()[: len(sparse.content)] == sparse.content
    found = subprocess.run(
        ["qemu-img", "map", "--output", "json", address], check=True, capture_output=True, timeout=30
    )
    extents = json.loads(found.stdout)
    assert [(e["start"], e["length"], e["data"]) for e in extents][:3] == [
        (0, MIB, True),
        (MIB, 5 * MIB + 262_144, False),
        (6 * MIB + 262_144, 262_144, True),
    ]
