"""What each order costs a fleet's VMs, against a bound that no order can beat. Prints one JSON object: exposure ÷ bound
as `full` and `changed` (what is archived) → readers → policy, and `sort_10000_ms`.

    python -m tests.benchmarks.ordering [--trace CSV] [--readers 1,4,8]

The trace (also gzipped) has the columns vm, cores, memory_mb, hour, read_kbps, write_kbps; `hour` counts from 0.
Without one, a seeded fleet of the same shape is drawn: many idle VMs, a few very busy.

full     A VM's load is its mean of the whole trace, for such runs last days. The archive's duration is size ÷ rate.
changed  A VM's load is its mean at the run's hour of the day. The archive's duration is what is written between two
         daily runs, less what is written again at the same place, and at least a floor, ÷ rate.

Each figure is the mean over 24 fleets: one draw of sizes each for `full`, one start hour each for `changed`.
"""

import argparse
import csv
import gzip
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from backups.ordering import Candidate, exposure_bound_kb, exposure_kb, in_order

Profiles = Mapping[str, Sequence[float]]
"""Of each VM, the mean KB/s written at each of the 24 hours of the day."""

RATE_BYTES_PER_S = 100e6
MEDIAN_SIZE_BYTES = 40 * 2**30
SIZE_SIGMA = 1.0
"""Nine VMs in ten between 8 and 200 GiB, as in fleets whose smallest are appliances and whose largest hold data."""
WRITTEN_AGAIN = 0.5
"""Logs, journals and tables are rewritten in place; half a day's writes fall on what the day has written already."""
FLOOR_BYTES = 256 * 2**20
"""What an idle system changes in a day, and the seconds that opening, committing and removing take."""
SHUFFLES = 3
SORTED_VMS = 10_000

DRAWN_VMS = 429
DRAWN_LOG_MEAN, DRAWN_LOG_SIGMA = 1.8, 2.5
DRAWN_LIMIT_KBPS = 8_000
"""Median 6 KB/s; one VM in a hundred above 2 MB/s, none above what its disks bear for a week."""
DRAWN_HOURLY_SIGMA = 0.9


def read_trace(path: Path) -> Profiles:
    seen: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as lines:
        for row in csv.DictReader(lines):
            seen[row["vm"]][int(row["hour"]) % 24].append(float(row["write_kbps"]))
    return {vm: _profile(hours) for vm, hours in seen.items()}


def _profile(hours: Mapping[int, list[float]]) -> list[float]:
    """An hour that the trace leaves out is like the others."""
    mean = fmean(value for values in hours.values() for value in values)
    return [fmean(hours[hour]) if hour in hours else mean for hour in range(24)]


def draw_fleet(vms: int, seed: int = 1) -> Profiles:
    chance = random.Random(seed)
    means = [min(chance.lognormvariate(DRAWN_LOG_MEAN, DRAWN_LOG_SIGMA), DRAWN_LIMIT_KBPS) for _ in range(vms)]
    return {str(vm): [mean * _swing(chance) for _ in range(24)] for vm, mean in enumerate(means)}


def _swing(chance: random.Random) -> float:
    """An hour against the day's mean; 1 in the mean."""
    return chance.lognormvariate(-(DRAWN_HOURLY_SIGMA**2) / 2, DRAWN_HOURLY_SIGMA)


def full_fleet(profiles: Profiles, seed: int) -> list[Candidate]:
    chance = random.Random(seed)
    sizes = {vm: MEDIAN_SIZE_BYTES * chance.lognormvariate(0, SIZE_SIGMA) for vm in profiles}
    return [_candidate(vm, fmean(profile), sizes[vm]) for vm, profile in profiles.items()]


def changed_fleet(profiles: Profiles, hour: int) -> list[Candidate]:
    kept = 1024 * 86_400 * (1 - WRITTEN_AGAIN)
    return [_candidate(vm, p[hour], max(FLOOR_BYTES, fmean(p) * kept)) for vm, p in profiles.items()]


def _candidate(vm: str, load_kbps: float, archived_bytes: float) -> Candidate:
    return Candidate(id=vm, name=vm, load_kbps=load_kbps, expected_s=archived_bytes / RATE_BYTES_PER_S)


def against_bound(fleet: list[Candidate], readers: int) -> dict[str, float]:
    bound_kb = exposure_bound_kb(fleet, readers)
    orders = {policy: [in_order(policy, fleet)] for policy in ("least_disturbance", "highest_load")}
    orders["random"] = [random.Random(seed).sample(fleet, len(fleet)) for seed in range(SHUFFLES)]
    return {policy: fmean(exposure_kb(o, readers) for o in tried) / bound_kb for policy, tried in orders.items()}


def mean_ratios(fleets: Sequence[list[Candidate]], readers: Iterable[int]) -> dict[str, dict[str, float]]:
    return {str(count): _mean([against_bound(fleet, count) for fleet in fleets]) for count in readers}


def _mean(ratios: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {policy: round(fmean(ratio[policy] for ratio in ratios), 4) for policy in ratios[0]}


def sort_ms(vms: int) -> float:
    """The quickest of five: what others do on this machine is not the order's cost."""
    fleet = full_fleet(draw_fleet(vms), seed=0)
    taken_s = []
    for _ in range(5):
        begun = time.perf_counter()
        in_order("least_disturbance", fleet)
        taken_s.append(time.perf_counter() - begun)
    return round(min(taken_s) * 1000, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--readers", default="1,4,8")
    arguments = parser.parse_args()
    readers = [int(count) for count in arguments.readers.split(",")]
    profiles = read_trace(arguments.trace) if arguments.trace else draw_fleet(DRAWN_VMS)
    found = {
        "full": mean_ratios([full_fleet(profiles, seed) for seed in range(24)], readers),
        "changed": mean_ratios([changed_fleet(profiles, hour) for hour in range(24)], readers),
        "sort_10000_ms": sort_ms(SORTED_VMS),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
