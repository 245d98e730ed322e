"""How near a run's exposure comes to the forecast that was written down before its first snapshot.

    python -m tests.with_postgres -- python -m tests.benchmarks.forecast [--trace CSV] [--vms 60] [--readers 4]

A lab vCenter with a fleet of the trace, or one drawn from a distribution, scaled down, on datastores so slow that they
and not this machine's processors decide how long an archive takes; a worker with as many readers. The first run reads
everything, the second is the first to see changes: neither can know yet what it will read. The others' forecasts are
held against what happened. Prints one JSON
object last: of each run the exposure measured ÷ forecast and ÷ lower bound, and the largest skew of its snapshots.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

TIMEOUT_S = 600


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--vms", type=int, default=60)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--policy", default="highest_load")
    parser.add_argument("--scale", type=float, default=0.002, help="of the fleet's disks and loads")
    parser.add_argument("--load-scale", type=float, default=5000.0, help="of the loads alone, on top of it")
    parser.add_argument("--every-s", type=float, default=75.0, help="from the start of a run to that of the next")
    parser.add_argument("--latency-ms", type=int, default=400, help="of each access to a datastore")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hotfirst-forecast-") as home:
        os.environ |= {"HOTFIRST_HOME": home, "DJANGO_SETTINGS_MODULE": "portal.settings", "LOG_LEVEL": "WARNING"}
        os.environ |= {"HOTFIRST_LOAD_WINDOW_S": "20", "HOTFIRST_READERS": str(options.readers)}
        with ExitStack() as stack:
            plan = _plan(stack, Path(home), options)
            runs = [_run(plan, options.every_s) for _ in range(options.runs)]
    print(json.dumps({"vms": options.vms, "readers": options.readers, "runs": runs}))
    return 0


def _plan(stack: ExitStack, home: Path, options: argparse.Namespace) -> Any:
    import django

    django.setup()
    from django.core.management import call_command

    from backups.models import Vm
    from backups.services.plans import apply_plan, create_plan
    from backups.services.repositories import create_repository
    from backups.services.tenants import create_tenant
    from backups.services.vcenters import enrol_vcenter
    from portal.demo import processes

    call_command("migrate", verbosity=0)
    trace = ["--trace", str(options.trace)] if options.trace else []
    processes.start(
        stack, "lab", "-m", "vsphere.lab", "--state", str(home / "lab"), "--sample-s", "2", "--fleet",
        str(options.vms), *trace, "--scale", str(options.scale), "--load-scale", str(options.load_scale),
    )  # fmt: skip
    endpoint = home / "lab" / "endpoint.json"
    while not endpoint.exists():
        time.sleep(0.2)
    slow = {"datastore_latency_ms": {f"store{n}": options.latency_ms for n in range(1, 5)}}
    (home / "lab" / "faults.json").write_text(json.dumps(slow))
    told = json.loads(endpoint.read_text())
    named = {name: told[name] for name in ("host", "port", "username", "password", "certificate_pem")}
    enrol_vcenter(None, name="Lab", **named)
    tenant = create_tenant(None, "Fleet")
    Vm.objects.update(tenant=tenant)
    repository = create_repository(None, "Folder", str(home / "repository"))
    plan = create_plan(
        None, tenant, name="Nightly", repository=repository, readers=options.readers, policy=options.policy
    )
    apply_plan(None, plan, vms=list(Vm.objects.all()))
    processes.start(stack, "worker", "manage.py", "worker")
    return plan


def _run(plan: Any, every_s: float) -> dict[str, float]:
    from backups.services.runs import start_run

    began = time.monotonic()
    run = start_run(None, plan)
    deadline = began + TIMEOUT_S
    while run.finished_at is None and time.monotonic() < deadline:
        time.sleep(0.5)
        run.refresh_from_db()
    time.sleep(max(every_s - (time.monotonic() - began), 0))
    print(run, run.state, run.message, run.report, {**run.forecast, "vms": None}, file=sys.stderr)
    return {
        "to_forecast": run.report["exposure_kb"] / run.forecast["exposure_kb"],
        "to_bound": run.report["exposure_kb"] / run.report["bound_kb"],
        "random_to_bound": run.report["orders"]["random"] / run.report["bound_kb"],
        "skew_s": run.report["skew_s"],
        "window_s": run.report["window_s"],
    }


if __name__ == "__main__":
    sys.exit(main())
