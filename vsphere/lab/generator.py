"""The guests' work: it really writes to the disks of running VMs and really reads from them.

Each VM writes at its own steady rate, spread evenly over time, so that a measurement over some seconds ranks the VMs
reliably. Writes go to the last quarter of each disk, which no file system covers: a raw database, as it were. Nearly
all hit its hot first part, so a second incremental backup is small.
"""

import heapq
import logging
import random
import threading
import time

from vsphere.lab.disk import LabDisk
from vsphere.lab.entities import Lab
from vsphere.lab.perf import Meter
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


class Generator:
    def __init__(self, lab: Lab, meter: Meter, seed: int, load_scale: float) -> None:
        self.lab, self.meter, self.load_scale = lab, meter, load_scale
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._due: list[tuple[float, str]] = []
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
            self.meter.sample(list(self.lab.vms.values()))
            due = max(due + self.meter.sample_s, time.monotonic())

    def _write(self) -> None:
        while not self._stop.is_set():
            self._take_on_new_vms()
            now = time.monotonic()
            while self._due and self._due[0][0] <= now and not self._stop.is_set():
                self._turn(*heapq.heappop(self._due))
            left = self._due[0][0] - time.monotonic() if self._due else LONGEST_SLEEP_S
            self._stop.wait(min(max(left, 0.001), LONGEST_SLEEP_S))

    def _take_on_new_vms(self) -> None:
        for moid, vm in list(self.lab.vms.items()):
            if moid not in self._known and vm.profile.write_kbps * self.load_scale > 0:
                self._known.add(moid)
                heapq.heappush(self._due, (time.monotonic(), moid))

    def _turn(self, due: float, moid: str) -> None:
        vm = self.lab.vms.get(moid)
        if vm is None:
            self._known.discard(moid)
            return
        kbps = vm.profile.write_kbps * self.load_scale
        size = write_size(kbps)
        if vm.running:
            try:
                self._access(vm, size)
            except (OSError, ValueError):
                # Its disk is being removed or resized under it; the next turn sees the new one.
                log.debug("%s lost a disk while it wrote", vm.name, exc_info=True)
        due = max(due + size / 1024 / kbps, time.monotonic() - MOST_BEHIND_S)
        heapq.heappush(self._due, (due, moid))

    def _access(self, vm: VirtualMachine, size: int) -> None:
        disks = vm.disks()
        if not disks:
            return
        device, disk = disks[self._random.randrange(len(disks))]
        offset = self._offset(disk, size)
        data = self._random.randbytes(size // 4) * 4
        began = time.monotonic()
        disk.write(offset, data)
        self.meter.count(vm, device.key, written=size, took_s=time.monotonic() - began)
        if self._random.random() * vm.profile.write_kbps < vm.profile.read_kbps:
            began = time.monotonic()
            disk.read(self._offset(disk, size), size)
            self.meter.count(vm, device.key, read=size, took_s=time.monotonic() - began)

    def _offset(self, disk: LabDisk, size: int) -> int:
        start, length = region(disk.meta.capacity_bytes)
        if self._random.random() < HOT_SHARE:
            length = max(length // HOT_PART, size)
        return start + self._random.randrange(max(1, (length - size) // SMALLEST_BYTES + 1)) * SMALLEST_BYTES
