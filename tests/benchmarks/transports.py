"""How fast disks are read by each way, against reading the lab's file plainly, in one run on one machine: only the
ratios count, and the lab, in a process of its own, is on the same machine. Prints one JSON object.

    python -m tests.benchmarks.transports [--mib 256]
"""

import argparse
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backups.platform import Connection, DiskReader, Quiesce, Snapshot, SnapshotOrder, Target
from tests.contract.worlds import vm_named, with_disks
from vsphere.disks.streamoptimized import Encoder, grains, read_header
from vsphere.lab.server import Endpoint
from vsphere.platform import VSpherePlatform, connect

MIB = 2**20
READ_BYTES = 4 * MIB
EMPTY_SHARE = 4
"""One part in so many of the disk is a hole."""


@contextmanager
def lab(folder: Path) -> Iterator[Connection]:
    command = [sys.executable, "-m", "vsphere.lab", "--state", str(folder), "--spec", "small", "--load-scale", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert server.stdout
        server.stdout.readline()
        there = Endpoint(**json.loads((folder / "endpoint.json").read_text()))
        yield Connection(
            host=there.host,
            port=there.port,
            username=there.username,
            password=there.password,
            certificate_pem=there.certificate_pem,
        )
    finally:
        server.terminate()
        server.wait(20)


def make_vm(platform: VSpherePlatform, mib: int) -> str:
    like = platform.describe(vm_named(platform, "stray").ref)
    target = Target(host_ref=platform.inventory().hosts[0].ref, datastore="ssd1")
    return platform.create_vm(with_disks(like, (mib * MIB,)), "measured", "measured", target)


def fill(platform: VSpherePlatform, ref: str, mib: int) -> float:
    """Half of the data shrinks well, as that of guests does. Returns the seconds."""
    chance = random.Random(1)
    began = time.monotonic()
    with platform.open_disk_for_writing(ref, 2000) as writer:
        for start in range(0, mib * MIB, MIB):
            if start // MIB % EMPTY_SHARE:
                writer.write(start, chance.randbytes(MIB // 2) + b"text of a guest " * (MIB // 32))
    return time.monotonic() - began


def read_all(disk: DiskReader) -> None:
    for start in range(0, disk.capacity_bytes, READ_BYTES):
        disk.read(start, min(READ_BYTES, disk.capacity_bytes - start))


def plainly(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(READ_BYTES):
            continue


def seconds(work: Callable[[], Any]) -> float:
    """The best of three: the machine is shared."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        work()
        took.append(time.monotonic() - began)
    return min(took)


@contextmanager
def nbd(flat: Path, folder: Path) -> Iterator[None]:
    path = folder / "nbd.sock"
    server = subprocess.Popen(["nbdkit", "-f", "-r", "-U", str(path), "file", str(flat)])
    try:
        while not path.exists():
            time.sleep(0.02)
        os.environ["HOTFIRST_NBD"] = f"nbd+unix:///?socket={path}"
        yield
    finally:
        del os.environ["HOTFIRST_NBD"]
        server.kill()
        server.wait()


def measure(mib: int, folder: Path) -> dict[str, Any]:
    with lab(folder / "lab") as there:
        platform = connect(there)
        ref = make_vm(platform, mib)
        writing_s = fill(platform, ref, mib)
        order = SnapshotOrder(vm_ref=ref, name="hotfirst-measured")
        snapshot = platform.create_snapshots([order], quiesce=Quiesce.NO)[ref]
        assert isinstance(snapshot, Snapshot)
        flat = next((folder / "lab" / "datastores").rglob("measured-flat.vmdk"))
        took = {"plain": seconds(lambda: plainly(flat)), "datastore": once(platform, snapshot, "datastore")}
        (folder / "lab" / "faults.json").write_text(json.dumps({"folder_status": {"*": 500}}))
        took["nfc"] = once(platform, snapshot, "nfc")
        if shutil.which("nbdkit"):
            with nbd(flat, folder):
                took["nbd"] = once(platform, snapshot, "nbd")
        platform.close()
        took["nfc stream alone"] = decoding(flat)
    took["writing"] = writing_s
    rates = {way: round(mib / s, 1) for way, s in took.items()}
    return {
        "mib": mib,
        "mib_per_s": rates,
        "share_of_plain": {way: round(took["plain"] / s, 3) for way, s in took.items() if way != "plain"},
    }


def decoding(flat: Path) -> float:
    """What NFC costs here without the lab, which makes the stream on the same cores."""
    encoder = Encoder(flat.stat().st_size)
    raw = io.BytesIO(b"".join([encoder.begin(), *encoder.add(0, flat.read_bytes()), *encoder.end()]))

    def work() -> None:
        raw.seek(0)
        for _ in grains(raw, read_header(raw)):
            continue

    return seconds(work)


def once(platform: VSpherePlatform, snapshot: Snapshot, way: str) -> float:
    disk = platform.snapshot_disks(snapshot)[0].disk

    def work() -> None:
        with platform.open_disk(snapshot, disk) as opened:
            assert opened.transport == way, opened.transport_reason
            read_all(opened)

    return seconds(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hotfirst-transports-") as folder:
        print(json.dumps(measure(options.mib, Path(folder)), indent=2))


if __name__ == "__main__":
    main()
