"""How long an archive will take: what it will read, at the rate that was measured, and a part that every VM costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from statistics import median

MIN_BYTES = 8 * 2**20
"""An archive that reads less says what a VM costs in any case, and little of the rate."""
WRITTEN_AGAIN = 0.5
"""The share of a VM's writes that fall where it has written since its last archive already."""
DOUBT = 2
"""As many archives that took just what was expected are counted along before a run corrects the rest."""


@dataclass(frozen=True, kw_only=True)
class Past:
    """An archive that was made: the bytes read, and the seconds until its snapshot was gone."""

    bytes_read: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Pace:
    bytes_per_s: float
    fixed_s: float

    def seconds(self, bytes_expected: float) -> float:
        return self.fixed_s + bytes_expected / self.bytes_per_s


ASSUMED = Pace(bytes_per_s=50_000_000, fixed_s=2.0)


@dataclass(frozen=True, kw_only=True)
class Last:
    """A VM's last archive: the bytes it read, whether those were all there are, and how long ago it was."""

    bytes_read: int
    full: bool
    age_s: float


def expected_bytes(capacity_bytes: int, last: Last | None, write_kbps: float) -> int:
    """Everything, the first time; then what was changed the last time. After a full archive nothing is known of the
    changes but what the VM writes."""
    if last is None:
        return capacity_bytes
    if not last.full:
        return last.bytes_read
    return min(last.bytes_read, round(write_kbps * 1024 * last.age_s * (1 - WRITTEN_AGAIN)))


def pace(own: Sequence[Past], repository: Sequence[Past]) -> Pace:
    """By the VM's own last archives; what these do not tell, by those of the repository; else as assumed."""
    return _measured(own, _measured(repository, ASSUMED))


def _measured(pasts: Sequence[Past], otherwise: Pace) -> Pace:
    """The rate by the archives that read much; the fixed part is what it does not explain of them all: so an archive
    like the last ones is expected to take as long as they did. Medians: one that stalled says little."""
    if not pasts:
        return otherwise
    small = [past.seconds for past in pasts if past.bytes_read < MIN_BYTES]
    at_least_s = median(small) if small else otherwise.fixed_s
    rates = [
        past.bytes_read / max(past.seconds - at_least_s, past.seconds / 2, 0.001)
        for past in pasts
        if past.bytes_read >= MIN_BYTES
    ]
    least = median(past.bytes_read / max(past.seconds, 0.001) for past in pasts)
    bytes_per_s = median(rates) if rates else max(otherwise.bytes_per_s, least)
    fixed_s = median(max(past.seconds - past.bytes_read / bytes_per_s, 0.0) for past in pasts)
    return Pace(bytes_per_s=bytes_per_s, fixed_s=fixed_s)


def correction(finished: Sequence[tuple[float, float]]) -> float:
    """What to multiply the rest of a run's expected durations by. `finished`: of each archive of this run, the seconds
    that its own pace allows for what it read, and the seconds it took."""
    expected_s = fsum(expected for expected, _ in finished)
    if expected_s <= 0:
        return 1.0
    doubt_s = DOUBT * expected_s / len(finished)
    return (fsum(took for _, took in finished) + doubt_s) / (expected_s + doubt_s)
