"""How long a forecast of a large fleet takes, by what limits it.

    python -m tests.benchmarks.forecasting [--vms 2000] [--readers 8]

Prints one JSON object: the seconds of each case.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

from backups.batches import Limits, Queued
from backups.forecast import Place, forecast

DATASTORES, HOSTS, VAPP_VMS = 10, 32, 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vms", type=int, default=2000)
    parser.add_argument("--readers", type=int, default=8)
    options = parser.parse_args()
    print(json.dumps({name: _seconds(options, **case) for name, case in _cases().items()}))
    return 0


def _cases() -> dict[str, dict[str, Any]]:
    capped = {
        "datastores": {f"d{n}": Place(snapshots=4) for n in range(DATASTORES)},
        "hosts": {f"h{n}": Place(snapshots=2) for n in range(HOSTS)},
    }
    tight = {"datastores": {f"d{n}": Place(room_kb=2e7) for n in range(DATASTORES)}}
    return {
        "no limits": {"limits": Limits()},
        "one at a time": {"limits": Limits(batch_size=1)},
        "caps": {"limits": Limits(), **capped},
        "caps, one at a time": {"limits": Limits(batch_size=1), **capped},
        "hold budget": {"limits": Limits(hold_budget_s=1800)},
        "hold budget that half cannot keep": {"limits": Limits(hold_budget_s=300)},
        "hold budget and caps": {"limits": Limits(hold_budget_s=1800), **capped},
        "hold budget, all of one load": {"limits": Limits(hold_budget_s=1800), "load_kbps": 0.0},
        "tight room": {"limits": Limits(), **tight},
        "tight room and hold budget": {"limits": Limits(hold_budget_s=1800), **tight},
        "vApps, tight room, caps, one at a time": {"limits": Limits(batch_size=1), "vapps": True, **capped, **tight},
    }


def _seconds(
    options: argparse.Namespace, limits: Limits, load_kbps: float | None = None, vapps: bool = False, **places: Any
) -> float:
    vms = _fleet(options.vms, load_kbps, vapps)
    began = time.perf_counter()
    forecast(vms, limits, options.readers, **places)
    return round(time.perf_counter() - began, 3)


def _fleet(count: int, load_kbps: float | None, vapps: bool) -> Sequence[Queued]:
    drawn = random.Random(1)
    return [
        Queued(
            id=str(n),
            name=f"vm{n}",
            load_kbps=drawn.lognormvariate(5, 2) if load_kbps is None else load_kbps,
            expected_s=drawn.uniform(10, 600),
            vapp=str(n // VAPP_VMS) if vapps else "",
            datastore=f"d{drawn.randrange(DATASTORES)}",
            host=f"h{drawn.randrange(HOSTS)}",
        )
        for n in range(count)
    ]


if __name__ == "__main__":
    sys.exit(main())
