"""What goes over each datastore, by guests and by backups, and the latency that comes of it.

A datastore is one queue: the busier it is, the longer each access takes, idle latency ÷ (1 - utilisation). Trouble that
is scripted comes on top of it.
"""

import threading
import time
from dataclasses import dataclass, field

from vsphere.lab.faults import Faults

IDLE_LATENCY_MS = 1.0
DATASTORE_MB_PER_S = 400.0
BUSIEST = 0.98


@dataclass
class Traffic:
    reads: int = 0
    writes: int = 0
    bytes_read: int = 0
    bytes_written: int = 0


@dataclass
class Stores:
    faults: Faults
    mb_per_s: float = DATASTORE_MB_PER_S
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _traffic: dict[str, Traffic] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)
    _latency_ms: dict[str, float] = field(default_factory=dict)

    def count(self, datastore: str, *, written: int = 0, read: int = 0) -> None:
        with self._lock:
            traffic = self._traffic.setdefault(datastore, Traffic())
            if written:
                traffic.writes, traffic.bytes_written = traffic.writes + 1, traffic.bytes_written + written
            if read:
                traffic.reads, traffic.bytes_read = traffic.reads + 1, traffic.bytes_read + read

    def sample(self) -> tuple[float, dict[str, Traffic]]:
        """Seconds since the last sample, and what went over each datastore since."""
        with self._lock:
            traffic, self._traffic = self._traffic, {}
            now = time.monotonic()
            elapsed_s, self._since = max(now - self._since, 0.001), now
            self._latency_ms = {name: self._queued_ms(each, elapsed_s) for name, each in traffic.items()}
        return elapsed_s, traffic

    def _queued_ms(self, traffic: Traffic, elapsed_s: float) -> float:
        used = (traffic.bytes_read + traffic.bytes_written) / 1e6 / elapsed_s / self.mb_per_s
        return IDLE_LATENCY_MS / (1 - min(used, BUSIEST))

    def latency_ms(self, datastore: str) -> float:
        """Of an access now: by the last sample's traffic, and as scripted."""
        return self._latency_ms.get(datastore, 0.0) + self.faults.latency_ms(datastore)

    def wait(self, datastore: str) -> None:
        """Before an access of a backup."""
        if (latency_ms := self.latency_ms(datastore)) > IDLE_LATENCY_MS:
            time.sleep(latency_ms / 1000)
