"""How fast and how small archives are, against a plain copy and whatever peers are installed, in one run on one
machine: only the ratios count. Prints one JSON object.

    python -m tests.benchmarks.archive [--mib 512]
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from backups.archive import verify
from backups.archive.keys import TenantKeys
from backups.archive.maps import CHUNK_BYTES
from backups.archive.reader import ArchiveReader
from backups.archive.store import FolderStore
from backups.archive.writer import ArchiveWriter, Stats
from backups.platform import Area

MIB = 1024 * 1024
CHANGED_SHARE = 0.02
CHANGE_BYTES = 64 * 1024
KEY = 2000


@dataclass(frozen=True, kw_only=True)
class Bench:
    root: Path
    keys: TenantKeys

    @property
    def image(self) -> Path:
        return self.root / "disk.img"

    @property
    def store(self) -> FolderStore:
        return FolderStore.create(self.root / "repository")


@dataclass(frozen=True, kw_only=True)
class Measured:
    seconds: float
    peak_mib: float
    stats: dict[str, int]


def make_image(bench: Bench, mib: int) -> None:
    """Like a database: pages of rows that compress two to three times, a tenth of noise, a quarter of holes."""
    chance = random.Random(1)
    words = [chance.randbytes(chance.randint(3, 12)) for _ in range(4096)]
    with bench.image.open("wb") as file:
        for at in range(mib):
            kind = chance.random()
            if kind >= 0.25:
                file.seek(at * MIB)
                file.write(chance.randbytes(MIB) if kind < 0.35 else b"".join(chance.choices(words, k=MIB // 6))[:MIB])
        file.truncate(mib * MIB)


def change_image(bench: Bench) -> list[Area]:
    chance = random.Random(2)
    size = bench.image.stat().st_size
    areas = []
    with bench.image.open("r+b") as file:
        for _ in range(int(size * CHANGED_SHARE / CHANGE_BYTES)):
            start = chance.randrange(size // CHANGE_BYTES) * CHANGE_BYTES
            file.seek(start)
            file.write(chance.randbytes(CHANGE_BYTES))
            areas.append(Area(start=start, length=CHANGE_BYTES))
    return areas


@contextmanager
def open_image(path: Path) -> Iterator[Callable[[int, int], bytes]]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield lambda start, length: os.pread(descriptor, length, start)
    finally:
        os.close(descriptor)


def archive(bench: Bench, archive_id: str, areas: list[Area] | None = None, since: str | None = None) -> Stats:
    base = ArchiveReader(bench.store, bench.keys, since).disk_map(KEY) if since else None
    with open_image(bench.image) as read, ArchiveWriter(bench.store, bench.keys) as writer:
        writer.write_disk(
            key=KEY,
            label="disk",
            capacity_bytes=bench.image.stat().st_size,
            read=read,
            areas=areas,
            base=base,
            change_id=None,
        )
        return writer.commit(archive_id=archive_id, backup_time=datetime.now(UTC), config={}, extra={})


def restore(bench: Bench, archive_id: str) -> None:
    with (bench.root / "restored.img").open("wb") as file:
        for start, data in ArchiveReader(bench.store, bench.keys, archive_id).runs(KEY):
            file.seek(start)
            file.write(data)
        file.truncate(bench.image.stat().st_size)
        os.fsync(file.fileno())


def check(bench: Bench, archive_id: str) -> None:
    verify.check(bench.store, bench.keys, archive_id)


def scrub(bench: Bench) -> None:
    verify.scrub(bench.store, bench.keys.tenant_id)


def copy(bench: Bench) -> None:
    shutil.copyfile(bench.image, bench.root / "copy.img")
    with (bench.root / "copy.img").open("rb+") as file:
        os.fsync(file.fileno())


def compress_with_qemu(bench: Bench) -> None:
    target = str(bench.root / "copy.qcow2")
    options = ["-c", "-o", "compression_type=zstd", "-O", "qcow2"]
    subprocess.run(["qemu-img", "convert", *options, str(bench.image), target], check=True)


def back_up_with_restic(bench: Bench) -> None:
    environment = {**os.environ, "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": str(bench.root / "restic")}
    for command in (["init"], ["backup", str(bench.image)]):
        subprocess.run(["restic", "-q", *command], check=True, env=environment)


def measure(work: Callable[..., Any], *arguments: object) -> Measured:
    """In a process of its own, whose peak memory is then its."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measured, work, arguments).result()


def _measured(work: Callable[..., Any], arguments: tuple[object, ...]) -> Measured:
    began = time.perf_counter()
    result = work(*arguments)
    seconds = time.perf_counter() - began
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Measured(seconds=seconds, peak_mib=peak_mib, stats=asdict(result) if isinstance(result, Stats) else {})


def run(bench: Bench, mib: int) -> dict[str, Any]:
    make_image(bench, mib)
    peers = {"copy": measure(copy, bench)}
    if shutil.which("qemu-img"):
        peers["qemu-img"] = measure(compress_with_qemu, bench)
    if shutil.which("restic"):
        peers["restic"] = measure(back_up_with_restic, bench)
    ours = {"full": measure(archive, bench, "a1"), "unchanged": measure(archive, bench, "a2")}
    areas = change_image(bench)
    ours["changed"] = measure(archive, bench, "a3", areas, "a1")
    ours["restore"] = measure(restore, bench, "a3")
    ours["check"] = measure(check, bench, "a3")
    ours["scrub"] = measure(scrub, bench)
    if bench.image.read_bytes() != (bench.root / "restored.img").read_bytes():
        raise SystemExit("The restored disk differs from the archived one.")
    return report(ours, peers, mib)


def report(ours: dict[str, Measured], peers: dict[str, Measured], mib: int) -> dict[str, Any]:
    full, changed = ours["full"].stats, ours["changed"].stats
    bytes_changed = mib * MIB * CHANGED_SHARE
    return {
        "disk_mib": mib,
        "chunk_bytes": CHUNK_BYTES,
        "seconds": {name: round(one.seconds, 3) for name, one in {**ours, **peers}.items()},
        "peak_mib": {name: round(one.peak_mib) for name, one in ours.items()},
        "full_mib_per_s": round(mib / ours["full"].seconds),
        "full_seconds_per_peer_second": {n: round(ours["full"].seconds / p.seconds, 2) for n, p in peers.items()},
        "full_seconds_per_changed_second": round(ours["full"].seconds / ours["changed"].seconds, 1),
        "restore_seconds_per_copy_second": round(ours["restore"].seconds / peers["copy"].seconds, 2),
        "stored_bytes_per_data_byte": round(full["bytes_stored"] / (full["bytes_read"] - full["bytes_zero"]), 3),
        "read_bytes_per_changed_byte": round(changed["bytes_read"] / bytes_changed, 2),
        "stored_bytes_per_changed_byte": round(changed["bytes_stored"] / bytes_changed, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="size of the disk")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hotfirst-benchmark-") as folder:
        bench = Bench(root=Path(folder), keys=TenantKeys.generate("benchmark"))
        print(json.dumps(run(bench, arguments.mib), indent=2))


if __name__ == "__main__":
    main()
