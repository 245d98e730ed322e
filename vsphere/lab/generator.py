"""The guests' work: it really writes to the disks of running VMs and really reads from them.

Each VM writes and reads at the rates of its profile, spread evenly over time, so that a measurement over some seconds
ranks the VMs reliably. Writes go to the last quarter of each disk, which no file system covers: a raw database, as it
were. Nearly all hit its hot first part, so a second incremental backup is small.
"""

import heapq
import itertools
import logging
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from pyVmomi import vmodl

from vsphere.lab.disk import LabDisk
from vsphere.lab.entities import Lab
from vsphere.lab.loads import Clock
from vsphere.lab.perf import Meter
from vsphere.lab.questions import ask_for_space
from vsphere.lab.shelf import split
from vsphere.lab.vm import VirtualMachine

SMALLEST_BYTES, LARGEST_BYTES = 4096, 65536
AIMED_INTERVAL_S = 0.05
HOT_SHARE = 0.99
HOT_PART = 128
LONGEST_SLEEP_S = 0.2
MOST_BEHIND_S = 0.5
log = logging.getLogger(__name__)


def write_size(kbps: float) -> int:
    """A power of two that makes the rate up of writes not too rare and not too many."""
    wanted = kbps * 1024 * AIMED_INTERVAL_S
    size = SMALLEST_BYTES
    while size * 2 <= min(wanted, LARGEST_BYTES):
        size *= 2
    return size


def region(capacity_bytes: int) -> tuple[int, int]:
    """Start and length of the last quarter, in whole blocks of the file system."""
    start = capacity_bytes * 3 // 4 // SMALLEST_BYTES * SMALLEST_BYTES
    return start, capacity_bytes - start


@dataclass
class Stream:
    """A guest's writes, or its reads."""

    vm: VirtualMachine
    writes: bool
    seen_at: float
    owed_bytes: float
    _config: Any = None
    _disks: list[tuple[Any, LabDisk]] = field(default_factory=list)

    def disks(self) -> list[tuple[Any, LabDisk]]:
        """Looked up anew when the VM's hardware has changed."""
        if self._config is not self.vm.config:
            self._config, self._disks = self.vm.config, self.vm.disks()
        return self._disks

    def kbps(self, hour: int) -> float:
        write_kbps, read_kbps = self.vm.profile.at(hour)
        return write_kbps if self.writes else read_kbps


class Generator:
    def __init__(self, lab: Lab, meter: Meter, clock: Clock, seed: int, load_scale: float) -> None:
        self.lab, self.meter, self.clock, self.load_scale = lab, meter, clock, load_scale
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._due: list[tuple[float, int, Stream]] = []
        self._turns = itertools.count()
        self._known: set[str] = set()
        self._threads = [
            threading.Thread(target=self._write, daemon=True, name="lab-load"),
            threading.Thread(target=self._sample, daemon=True, name="lab-samples"),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5)

    def _sample(self) -> None:
        due = time.monotonic() + self.meter.sample_s
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            self.meter.sample(self.lab)
            due = max(due + self.meter.sample_s, time.monotonic())

    def _write(self) -> None:
        while not self._stop.is_set():
            self._take_on_new_vms()
            now = time.monotonic()
            while self._due and self._due[0][0] <= now and not self._stop.is_set():
                self._turn(heapq.heappop(self._due)[2])
            left = self._due[0][0] - time.monotonic() if self._due else LONGEST_SLEEP_S
            self._stop.wait(min(max(left, 0.001), LONGEST_SLEEP_S))

    def _take_on_new_vms(self) -> None:
        for moid, vm in list(self.lab.vms.items()):
            if moid not in self._known and self.load_scale > 0 and not vm.profile.idle:
                self._known.add(moid)
                for writes in (True, False):
                    stream = Stream(vm, writes, time.monotonic(), self._random.random() * SMALLEST_BYTES)
                    self._queue(stream, time.monotonic())

    def _queue(self, stream: Stream, due: float) -> None:
        heapq.heappush(self._due, (due, next(self._turns), stream))

    def _turn(self, stream: Stream) -> None:
        if stream.vm.moid not in self.lab.vms:
            self._known.discard(stream.vm.moid)
            return
        now, bytes_per_s = time.monotonic(), stream.kbps(self.clock.hour()) * self.load_scale * 1024
        size = write_size(bytes_per_s / 1024)
        most_bytes = max(size, MOST_BEHIND_S * bytes_per_s)
        stream.owed_bytes = min(stream.owed_bytes + (now - stream.seen_at) * bytes_per_s, most_bytes)
        stream.seen_at = now
        if stream.owed_bytes >= size:
            stream.owed_bytes -= size
            self._access(stream, size)
        left_s = self.clock.left_s()
        wait_s = min((size - stream.owed_bytes) / bytes_per_s, left_s) if bytes_per_s else left_s
        self._queue(stream, now + max(0.0, wait_s))

    def _access(self, stream: Stream, size: int) -> None:
        vm = stream.vm
        if vm.standing_still:
            return
        try:
            device, disk = self._random.choice(stream.disks())
            datastore = split(device.backing.fileName)[0]
            if stream.writes and self.lab.datastores[datastore].is_full():
                ask_for_space(vm, datastore)
                return
            self._do(stream, device, disk, size)
        except (OSError, ValueError, IndexError, vmodl.MethodFault):
            # Its disk is being removed or resized under it; the next turn sees the new one.
            log.debug("%s lost a disk while it was at work", vm.name, exc_info=True)

    def _do(self, stream: Stream, device: Any, disk: LabDisk, size: int) -> None:
        offset, began = self._offset(disk, size), time.monotonic()
        if stream.writes:
            disk.write(offset, self._random.randbytes(size // 4) * 4)
            self.meter.count(stream.vm, device, written=size, took_s=time.monotonic() - began)
        else:
            disk.read(offset, size)
            self.meter.count(stream.vm, device, read=size, took_s=time.monotonic() - began)

    def _offset(self, disk: LabDisk, size: int) -> int:
        start, length = region(disk.meta.capacity_bytes)
        if self._random.random() < HOT_SHARE:
            length = max(length // HOT_PART, size)
        return start + self._random.randrange(max(1, (length - size) // SMALLEST_BYTES + 1)) * SMALLEST_BYTES
