"""What a big inventory costs: the full look, stored, against what pyVmomi alone needs to fetch and parse the same
properties; how soon a change is stored; and how much memory either takes. Prints one JSON object.

    python -m tests.benchmarks.inventory [--vms 5000]

full_over_fetch   CPU seconds of a first full sync into an empty database ÷ those of the bare fetch; at most 1.5.
again_over_fetch  the same when all rows are there already.
full_wall, again_wall  the same by the clock, which the lab's own work and a busy machine spoil.
delta_s           from the end of a task in vCenter to its commit, the worst of five; at most 2.
memory_over_fetch peak growth of the process by syncs ÷ by bare fetches, which keep all that they parse.

The lab vCenter runs in a process of its own, and each measurement in one as well.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

from backups.platform import Connection
from vsphere.inventory import PATHS
from vsphere.lab import content
from vsphere.lab.server import LabServer
from vsphere.platform import VSpherePlatform, connect
from vsphere.properties import read_all
from vsphere.recovery import power
from vsphere.session import Session

DELTAS, TRIES = 5, 2


def lab_of(folder: str, vms: int, told: "SimpleQueue[Any]", stop: "SimpleQueue[Any]") -> None:
    server = LabServer(folder, spec=content.many(vms), load_scale=0.0).start()
    end = server.endpoint
    told.put(
        Connection(
            host=end.host,
            port=end.port,
            username=end.username,
            password=end.password,
            certificate_pem=end.certificate_pem,
        )
    )
    stop.get()
    server.stop()


def forget_peak() -> float:
    """What is resident now, in MB; the peak begins anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()


def peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def fetch(connection: Connection, told: "SimpleQueue[Any]") -> None:
    session = Session(connection)
    before = forget_peak()
    took = [timed(lambda: read_all(session, PATHS)) for _ in range(TRIES)]
    told.put({"took": least(took), "mb": peak_mb() - before})


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """CPU and clock seconds."""
    began = time.process_time(), time.monotonic()
    work()
    return time.process_time() - began[0], time.monotonic() - began[1]


def least(took: list[tuple[float, float]]) -> tuple[float, float]:
    return min(cpu for cpu, _ in took), min(wall for _, wall in took)


def sync(connection: Connection, told: "SimpleQueue[Any]") -> None:
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    from backups.models import VCenter, Vm
    from backups.services.inventory import follow

    vcenter = VCenter.objects.create(name="lab", host="lab", username="u", sealed_password=b"", certificate_pem="")
    platform = connect(connection)
    before = forget_peak()
    took = [timed(lambda: follow(vcenter, platform, None, 0)) for _ in range(1 + TRIES)]
    mb, rows = peak_mb() - before, Vm.objects.count()
    version = follow(vcenter, platform, None, 0)
    other = Session(connection)
    deltas = []
    for vm in Vm.objects.order_by("name")[:DELTAS]:
        power(other, vm.ref, False)
        deltas.append(_until_off(vcenter, platform, version, vm))
        version = follow(vcenter, platform, None, 0)
    told.put({"first": took[0], "again": least(took[1:]), "mb": mb, "rows": rows, "delta_s": max(deltas)})


def _until_off(vcenter: Any, platform: VSpherePlatform, version: str, vm: Any) -> float:
    from backups.services.inventory import follow

    began = time.monotonic()
    while vm.powered_on:
        version = follow(vcenter, platform, version, 10)
        vm.refresh_from_db()
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vms", type=int, default=5000)
    vms = parser.parse_args().vms
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "HOTFIRST_HOME": f"{folder}/home",
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "DATABASE_URL": "",
        }
        print(json.dumps(measured(Path(folder), vms), indent=1))


def measured(folder: Path, vms: int) -> dict[str, Any]:
    processes = get_context("spawn")
    told, stop = processes.SimpleQueue(), processes.SimpleQueue()
    lab = processes.Process(target=lab_of, args=(str(folder / "lab"), vms, told, stop))
    lab.start()
    connection = told.get()
    results = []
    for measure in (fetch, sync):
        process = processes.Process(target=measure, args=(connection, told))
        process.start()
        results.append(told.get())
        process.join()
    stop.put(None)
    lab.join()
    bare, kept = results
    return {
        "vms": kept["rows"],
        "fetch_cpu_s": round(bare["took"][0], 2),
        "full_over_fetch": round(kept["first"][0] / bare["took"][0], 2),
        "again_over_fetch": round(kept["again"][0] / bare["took"][0], 2),
        "full_wall": round(kept["first"][1] / bare["took"][1], 2),
        "again_wall": round(kept["again"][1] / bare["took"][1], 2),
        "delta_s": round(kept["delta_s"], 2),
        "fetch_mb": round(bare["mb"]),
        "memory_over_fetch": round(kept["mb"] / bare["mb"], 2),
    }


if __name__ == "__main__":
    main()
