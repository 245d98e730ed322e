"""Labs full of VMs whose loads come from a trace, or from a distribution of the same shape."""

import csv
import gzip
import io
import math
import random
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from vsphere.lab.content import LabSpec, VmSpec
from vsphere.lab.loads import heavy_tailed

MIB, GIB = 2**20, 2**30
GZIP_MAGIC = b"\x1f\x8b"
MEDIAN_DISK_GIB, DISK_SIGMA = 40.0, 1.0
SMALLEST_DISK_BYTES = MIB
VAPP_OF = 10
STORES, HOSTS = 4, 4
ROOM = 1.5
"""Capacity of the datastores over the sum of the disks."""

# What a public trace of a hosting provider looks like: half of the VMs write less than 7 KB/s, a hundredth of them
# does a third of all the writing; reads are rarer still, and up to twice as fast.
MEDIAN_WRITE_KBPS, WRITE_SIGMA, MOST_WRITE_KBPS = 7.0, 2.4, 8_000.0
MEDIAN_READ_KBPS, READ_SIGMA, MOST_READ_KBPS = 0.3, 3.9, 16_000.0
HOURLY_SIGMA = 0.5
HOURS = 24
CORES = (1,) * 50 + (2,) * 20 + (4,) * 20 + (8,) * 10
MEMORY_MIB = (512, 1024, 2048, 4096, 8192, 16384)


@dataclass
class Traced:
    """A VM of a trace."""

    cores: int = 1
    memory_mib: int = 1024
    write_kbps: dict[int, float] = field(default_factory=dict)
    """By hour."""
    read_kbps: dict[int, float] = field(default_factory=dict)


def read_trace(path: Path) -> dict[str, Traced]:
    """Columns vm, cores, memory_mb, hour, read_kbps, write_kbps; gzipped or not, whatever its name says."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if raw.startswith(GZIP_MAGIC) else raw).decode()
    vms: dict[str, Traced] = defaultdict(Traced)
    for row in csv.DictReader(io.StringIO(text)):
        vm, hour = vms[row["vm"]], int(row["hour"])
        vm.cores, vm.memory_mib = max(1, int(row["cores"])), max(4, round(float(row["memory_mb"])))
        vm.write_kbps[hour], vm.read_kbps[hour] = float(row["write_kbps"]), float(row["read_kbps"])
    return dict(vms)


def of_trace(path: Path, *, vms: int | None = None, scale: float = 1.0, seed: int = 1) -> LabSpec:
    """`vms`: how many of them, drawn at random; None: all. `scale` multiplies disk sizes and rates. A trace knows no
    disk sizes; they are drawn."""
    traced = read_trace(path)
    chosen = sorted(traced) if vms is None else random.Random(seed).sample(sorted(traced), min(vms, len(traced)))
    hours = 1 + max(hour for vm in traced.values() for hour in vm.write_kbps)
    sizes = _disk_sizes(len(chosen), scale, seed)
    return _lab(
        [
            VmSpec(
                name=f"vm-{name}",
                vapp=_vapp(index),
                cpus=traced[name].cores,
                memory_mib=traced[name].memory_mib,
                disk_bytes=(size,),
                filesystem=False,
                write_kbps=_by_hour(traced[name].write_kbps, hours, scale),
                read_kbps=_by_hour(traced[name].read_kbps, hours, scale),
            )
            for index, (name, size) in enumerate(zip(chosen, sizes, strict=True))
        ]
    )


def _by_hour(kbps: dict[int, float], hours: int, scale: float) -> tuple[float, ...]:
    """An hour that the trace leaves out is an idle one."""
    return tuple(kbps.get(hour, 0.0) * scale for hour in range(hours))


def drawn(count: int, *, scale: float = 1.0, seed: int = 1) -> LabSpec:
    """Many idle VMs, a few very busy ones, and a day's ups and downs; the same for the same seed."""
    chance = random.Random(seed)
    writes = heavy_tailed(count, MEDIAN_WRITE_KBPS, WRITE_SIGMA, seed)
    reads = heavy_tailed(count, MEDIAN_READ_KBPS, READ_SIGMA, seed + 1)
    sizes = _disk_sizes(count, scale, seed)
    return _lab(
        [
            VmSpec(
                name=f"vm-{index:04d}",
                vapp=_vapp(index),
                cpus=chance.choice(CORES),
                memory_mib=chance.choice(MEMORY_MIB),
                disk_bytes=(size,),
                filesystem=False,
                write_kbps=_day(chance, min(write, MOST_WRITE_KBPS) * scale),
                read_kbps=_day(chance, min(read, MOST_READ_KBPS) * scale),
            )
            for index, (write, read, size) in enumerate(zip(writes, reads, sizes, strict=True))
        ]
    )


def _day(chance: random.Random, mean_kbps: float) -> tuple[float, ...]:
    hours = [math.exp(chance.gauss(0, HOURLY_SIGMA)) for _ in range(HOURS)]
    return tuple(mean_kbps * hour * HOURS / sum(hours) for hour in hours)


def _disk_sizes(count: int, scale: float, seed: int) -> list[int]:
    sizes = heavy_tailed(count, MEDIAN_DISK_GIB * GIB * scale, DISK_SIGMA, seed + 2)
    return [max(1, round(size / SMALLEST_DISK_BYTES)) * SMALLEST_DISK_BYTES for size in sizes]


def _vapp(index: int) -> str:
    return f"fleet-{index // VAPP_OF + 1:03d}"


def _lab(vms: list[VmSpec]) -> LabSpec:
    total = sum(size for vm in vms for size in vm.disk_bytes)
    return LabSpec(
        vms=tuple(vms),
        hosts=tuple(f"esx{number}.lab" for number in range(1, HOSTS + 1)),
        datastores=tuple(f"store{number}" for number in range(1, STORES + 1)),
        datastore_bytes=max(GIB, round(total * ROOM / STORES)),
    )
