"""What the guests do, hour by hour."""

import math
import random
import time
from dataclasses import dataclass, field
from statistics import NormalDist

from vsphere.lab.state import Record

HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a guest writes and reads while it runs, in each hour of the lab; after the last it begins anew."""

    write_kbps: tuple[float, ...] = (0.0,)
    read_kbps: tuple[float, ...] = (0.0,)

    @classmethod
    def steady(cls, write_kbps: float, read_kbps: float) -> "Profile":
        return cls(write_kbps=(write_kbps,), read_kbps=(read_kbps,))

    def at(self, hour: int) -> tuple[float, float]:
        return self.write_kbps[hour % len(self.write_kbps)], self.read_kbps[hour % len(self.read_kbps)]

    @property
    def idle(self) -> bool:
        return not any(self.write_kbps) and not any(self.read_kbps)

    def record(self) -> Record:
        return {"write_kbps": self.write_kbps, "read_kbps": self.read_kbps}

    @classmethod
    def of(cls, record: Record) -> "Profile":
        return cls(write_kbps=_hours(record["write_kbps"]), read_kbps=_hours(record["read_kbps"]))


IDLE = Profile()


def _hours(recorded: list[float] | float) -> tuple[float, ...]:
    """Older labs recorded one steady rate."""
    return tuple(recorded) if isinstance(recorded, list) else (recorded,)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The lab's hours since its first start. `hour_s`: how long one takes."""

    began: float = field(default_factory=time.time)
    hour_s: float = HOUR_S

    def hour(self) -> int:
        return int((time.time() - self.began) // self.hour_s)

    def left_s(self) -> float:
        """Of this hour."""
        return self.hour_s - (time.time() - self.began) % self.hour_s


def heavy_tailed(count: int, median: float, sigma: float, seed: int) -> list[float]:
    """Log-normal quantiles in random order: a few are far above the rest, and no two alike, so that the ranking is
    plain."""
    bell = NormalDist(0, sigma)
    drawn = [median * math.exp(bell.inv_cdf((i + 0.5) / count)) for i in range(count)]
    random.Random(seed).shuffle(drawn)
    return drawn
