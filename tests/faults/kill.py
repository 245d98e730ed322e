"""Kills workers in the middle of runs and looks for what was lost.

`python -m tests.faults.kill --rounds N` starts a lab vCenter and a worker on a SQLite database of its own, or on the
one that DATABASE_URL names (`python -m tests.with_postgres -- python -m tests.faults.kill`). In each round it
starts a run, kills -9 one process of the worker, or all of them, at a random moment, starts the worker again if need
be, and waits for the end. Prints one JSON object: rounds, and how many archives were lost, snapshots left, runs hung
and VMs archived twice.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

LEASE_S = 4
TIMEOUT_S = 150


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hotfirst-kill-") as home:
        os.environ |= {"HOTFIRST_HOME": home, "DJANGO_SETTINGS_MODULE": "portal.settings", "LOG_LEVEL": "ERROR"}
        os.environ |= {"HOTFIRST_LEASE_S": str(LEASE_S), "HOTFIRST_LOAD_WINDOW_S": "5"}
        found = _rounds(Path(home), options.rounds, random.Random(options.seed))
    print(json.dumps(found))
    return 0 if not any(found[name] for name in ("lost", "snapshots_left", "hung", "doubled")) else 1


def _rounds(home: Path, rounds: int, chance: random.Random) -> dict[str, int]:
    import django

    django.setup()
    from django.core.management import call_command

    from portal.demo import processes, world

    call_command("migrate", verbosity=0)
    found = {"rounds": 0, "lost": 0, "snapshots_left": 0, "hung": 0, "doubled": 0}
    with ExitStack() as stack:
        endpoint = processes.start_lab(stack, home / "lab", 1.0)
        made = world.build(endpoint)
        worker = processes.start(stack, "worker", "manage.py", "worker")
        time.sleep(3)
        for _ in range(rounds):
            worker = _round(stack, made, worker, chance, found)
            found["rounds"] += 1
    return found


def _round(
    stack: ExitStack, made: Any, worker: "subprocess.Popen[bytes]", chance: random.Random, found: dict[str, int]
) -> "subprocess.Popen[bytes]":
    from backups.services.runs import start_run
    from portal.demo import processes

    run = start_run(made.provider, made.plans["Acme"])
    time.sleep(chance.uniform(0.2, 5))
    _kill(worker, chance)
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if worker.poll() is not None:
            worker = processes.start(stack, f"worker-{time.time_ns()}", "manage.py", "worker")
        run.refresh_from_db()
        if run.finished_at:
            break
        time.sleep(0.5)
    _check(made, run, found)
    return worker


def _kill(worker: "subprocess.Popen[bytes]", chance: random.Random) -> None:
    family = _family(worker.pid)
    victims = family if chance.random() < 0.5 else [chance.choice(family)]
    print(f"killing {len(victims)} of {len(family)} processes", file=sys.stderr)
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in _family(int(child)))]


def _check(made: Any, run: Any, found: dict[str, int]) -> None:
    from backups.archive import verify
    from backups.errors import ArchiveError
    from backups.models import Archive
    from backups.services.repositories import open_store
    from backups.services.tenants import reading_keys
    from backups.services.vcenters import connect

    if not run.finished_at:
        found["hung"] += 1
        print(f"hung: {list(run.items.values_list('vm_name', 'state', 'lease_owner', 'message'))}", file=sys.stderr)
    archives = list(Archive.objects.filter(run=run))
    found["doubled"] += len(archives) - len({archive.vm_id for archive in archives})
    for archive in archives:
        try:
            verify.check(open_store(archive.repository), reading_keys(archive.tenant), str(archive.pk))
        except ArchiveError as error:
            found["lost"] += 1
            print(f"lost: {archive}: {error}", file=sys.stderr)
    with connect(made.vcenter) as platform:
        left = platform.find_snapshots("hotfirst-")
    if left and run.finished_at:
        found["snapshots_left"] += len(left)
        print(f"left: {[snapshot.name for snapshot in left]}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
