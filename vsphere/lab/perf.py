"""What the guests really read and wrote, sampled, and QueryPerf over it."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pyVmomi import vim, vmodl

from vsphere.lab import hardware, wire
from vsphere.lab.entities import Host, Lab
from vsphere.lab.registry import Managed
from vsphere.lab.sessions import Call
from vsphere.lab.shelf import split
from vsphere.lab.stores import Stores, Traffic
from vsphere.lab.vm import VirtualMachine

SAMPLES_KEPT = 180
COUNTERS = {
    175: ("virtualDisk", "numberReadAveraged", "number"),
    176: ("virtualDisk", "numberWriteAveraged", "number"),
    178: ("virtualDisk", "read", "kiloBytesPerSecond"),
    179: ("virtualDisk", "write", "kiloBytesPerSecond"),
    180: ("virtualDisk", "totalReadLatency", "millisecond"),
    181: ("virtualDisk", "totalWriteLatency", "millisecond"),
    260: ("datastore", "numberReadAveraged", "number"),
    261: ("datastore", "numberWriteAveraged", "number"),
    262: ("datastore", "read", "kiloBytesPerSecond"),
    263: ("datastore", "write", "kiloBytesPerSecond"),
    264: ("datastore", "totalReadLatency", "millisecond"),
    265: ("datastore", "totalWriteLatency", "millisecond"),
}
Series = dict[tuple[int, str], int]
"""(counter, instance) to its mean over one sample; an instance is `scsi0:1`, or a datastore's uuid on a host."""


@dataclass
class Io:
    """One disk's accesses by its guest since the last sample."""

    reads: int = 0
    writes: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    read_s: float = 0.0
    write_s: float = 0.0

    def series(self, instance: str, elapsed_s: float) -> Series:
        means = {
            175: self.reads / elapsed_s,
            176: self.writes / elapsed_s,
            178: self.bytes_read / 1024 / elapsed_s,
            179: self.bytes_written / 1024 / elapsed_s,
            180: 1000 * self.read_s / self.reads if self.reads else 0,
            181: 1000 * self.write_s / self.writes if self.writes else 0,
        }
        return {(counter, instance): round(mean) for counter, mean in means.items()}


@dataclass
class Meter:
    """Counts the accesses of each VM and to each datastore, and turns them into samples."""

    sample_s: float
    stores: Stores
    lock: threading.Lock = field(default_factory=threading.Lock)
    _io: dict[tuple[str, int], Io] = field(default_factory=dict)
    _samples: dict[str, "deque[tuple[datetime, Series]]"] = field(default_factory=dict)
    _sampled_at: float = field(default_factory=time.monotonic)

    def count(self, vm: VirtualMachine, device: Any, *, written: int = 0, read: int = 0, took_s: float) -> None:
        self.stores.count(split(device.backing.fileName)[0], written=written, read=read)
        with self.lock:
            io = self._io.setdefault((vm.moid, device.key), Io())
            if written:
                io.writes, io.bytes_written, io.write_s = io.writes + 1, io.bytes_written + written, io.write_s + took_s
            if read:
                io.reads, io.bytes_read, io.read_s = io.reads + 1, io.bytes_read + read, io.read_s + took_s

    def sample(self, lab: Lab) -> None:
        """A VM that is off gets no sample."""
        now, elapsed_s = wire.now(), max(time.monotonic() - self._sampled_at, 0.001)
        seen_by_hosts = self._datastores(lab)
        with self.lock:
            io, self._io = self._io, {}
            self._sampled_at = time.monotonic()
            for host in lab.of_type(Host):
                self._keep(host.moid, now, seen_by_hosts)
            for vm in tuple(lab.vms.values()):
                if vm.running:
                    row: Series = {}
                    for device in hardware.disks(vm.config.info):
                        row |= io.get((vm.moid, device.key), Io()).series(_instance(device), elapsed_s)
                    self._keep(vm.moid, now, row)

    def _keep(self, moid: str, now: datetime, row: Series) -> None:
        self._samples.setdefault(moid, deque(maxlen=SAMPLES_KEPT)).append((now, row))

    def _datastores(self, lab: Lab) -> Series:
        """Every host sees every datastore, and all of them the same."""
        elapsed_s, traffic = self.stores.sample()
        row: Series = {}
        for store in lab.datastores.values():
            each, latency_ms = traffic.get(store.name, Traffic()), round(self.stores.latency_ms(store.name))
            means = {
                260: each.reads / elapsed_s,
                261: each.writes / elapsed_s,
                262: each.bytes_read / 1024 / elapsed_s,
                263: each.bytes_written / 1024 / elapsed_s,
                264: latency_ms,
                265: latency_ms,
            }
            row |= {(counter, store.uuid): round(mean) for counter, mean in means.items()}
        return row

    def samples(self, moid: str) -> list[tuple[datetime, Series]]:
        with self.lock:
            return list(self._samples.get(moid, ()))


def _instance(device: Any) -> str:
    return f"scsi{device.controllerKey - 1000}:{device.unitNumber}"


class PerformanceManager(Managed):
    """Real-time counters only. Their interval is the lab's own, so that a demo needs not wait 20 s for a sample."""

    wsdl = vim.PerformanceManager
    kind: Any = vim.PerformanceManager

    def __init__(self, lab: Lab, meter: Meter) -> None:
        self.lab, self.meter = lab, meter
        self.interval_s = max(1, round(meter.sample_s))
        super().__init__(lab.registry, "PerfMgr")

    def p_perfCounter(self) -> list[Any]:
        return [self._counter(key) for key in COUNTERS]

    def _counter(self, key: int) -> Any:
        def described(text: str) -> Any:
            return vim.ElementDescription(key=text, label=text, summary=text)

        group, name, unit = COUNTERS[key]
        return self.kind.CounterInfo(
            key=key,
            groupInfo=described(group),
            nameInfo=described(name),
            unitInfo=described(unit),
            rollupType="average",
            statsType="absolute" if unit == "millisecond" else "rate",
            level=2,
            perDeviceLevel=3,
        )

    def QueryPerfCounter(self, call: Call, counterId: list[int]) -> list[Any]:
        for key in counterId:
            if key not in COUNTERS:
                raise vmodl.fault.InvalidArgument(invalidProperty="counterId", msg=f"There is no counter {key}.")
        return [self._counter(key) for key in counterId]

    def QueryPerfProviderSummary(self, call: Call, entity: Any) -> Any:
        self.registry.find(entity)
        current = isinstance(entity, vim.VirtualMachine | vim.HostSystem)
        return self.kind.ProviderSummary(
            entity=entity, currentSupported=current, summarySupported=False, refreshRate=self.interval_s
        )

    def QueryAvailablePerfMetric(
        self, call: Call, entity: Any, beginTime: Any = None, endTime: Any = None, intervalId: int | None = None
    ) -> list[Any]:
        rows = self.meter.samples(self.registry.find(entity).moid)
        found = sorted({key for _, row in rows for key in row})
        return [self.kind.MetricId(counterId=counter, instance=instance) for counter, instance in found]

    def QueryPerf(self, call: Call, querySpec: list[Any]) -> list[Any]:
        return [answer for spec in querySpec if (answer := self._query(spec)) is not None]

    def _query(self, spec: Any) -> Any:
        """None for an entity without samples: vCenter leaves it out."""
        rows = [
            row
            for row in self.meter.samples(self.registry.find(spec.entity).moid)
            if (spec.startTime is None or row[0] > spec.startTime) and (spec.endTime is None or row[0] <= spec.endTime)
        ]
        if spec.maxSample:
            rows = rows[-spec.maxSample :]
        if not rows:
            return None
        wanted = {(metric.counterId, metric.instance) for metric in spec.metricId}
        series = sorted(key for key in rows[-1][1] if not wanted or _matches(key, wanted))
        return self._as_csv(spec, rows, series) if spec.format == "csv" else self._as_xml(spec, rows, series)

    def _as_csv(self, spec: Any, rows: list[tuple[datetime, Series]], series: list[tuple[int, str]]) -> Any:
        return self.kind.EntityMetricCSV(
            entity=spec.entity,
            sampleInfoCSV=",".join(f"{self.interval_s},{at:%Y-%m-%dT%H:%M:%SZ}" for at, _ in rows),
            value=[
                self.kind.MetricSeriesCSV(
                    id=self.kind.MetricId(counterId=key[0], instance=key[1]),
                    value=",".join(str(row.get(key, 0)) for _, row in rows),
                )
                for key in series
            ],
        )

    def _as_xml(self, spec: Any, rows: list[tuple[datetime, Series]], series: list[tuple[int, str]]) -> Any:
        return self.kind.EntityMetric(
            entity=spec.entity,
            sampleInfo=[self.kind.SampleInfo(timestamp=at, interval=self.interval_s) for at, _ in rows],
            value=[
                self.kind.IntSeries(
                    id=self.kind.MetricId(counterId=key[0], instance=key[1]),
                    value=[row.get(key, 0) for _, row in rows],
                )
                for key in series
            ],
        )


def _matches(key: tuple[int, str], wanted: set[tuple[int, str]]) -> bool:
    return key in wanted or (key[0], "*") in wanted
