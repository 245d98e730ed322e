"""Kills processes in the middle of runs and looks for what was lost.

`python -m tests.faults.kill --rounds N [--seed S] [--engine sqlite|postgres]` starts a lab vCenter, a database of its
own (a throw-away PostgreSQL where its programs are installed, else SQLite) and a worker. In each round it starts a run
of two tenants, kills -9 whatever chance names at moments that chance names, starts again what is dead, and waits for
the end. Its last line is one JSON object:

lost            archives that the database calls good and that do not verify or do not restore to what their snapshot
                held, as the lab wrote it down when the snapshot was made
snapshots_left  snapshots of ours that a minute of ticks after the run's end did not remove
hung            runs that did not end
doubled         items that two readers worked at at once: claimed under another's lease, or archived twice
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.installation import Installation, installation
from tests.faults.programs import children, family, kill
from tests.with_postgres import programs

RUN_ENDS_S = 180
SWEPT_S = 60
MOMENTS_S = (0.1, 7.0)
TICK_S = 2.0
COLLECT_SHARE = 0.3
VICTIMS = {
    "reader": 5, "readers sentinel": 1, "readers main": 1, "child": 3, "sentinel": 2, "main": 2, "worker": 3,
    "lab": 4, "postmaster": 2, "backend": 2,
}  # fmt: skip
"""And their weights. `worker`: all of its processes at once; `child`, `reader`: of one of the two clusters."""


@dataclass
class Found:
    rounds: int = 0
    lost: int = 0
    snapshots_left: int = 0
    hung: int = 0
    doubled: int = 0
    archives: int = 0
    lost_archives: list[str] = field(default_factory=list)
    runs: dict[str, int] = field(default_factory=Counter)
    killed: dict[str, int] = field(default_factory=Counter)
    restarted: int = 0
    seconds: int = 0

    def look_at(self, made: Installation, archives: list[Any]) -> None:
        from tests.faults import checks

        unknown = [archive for archive in archives if str(archive.pk) not in self.lost_archives]
        self.lost_archives += made.steadily(lambda: checks.lost(made, unknown))
        self.lost = len(self.lost_archives)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.snapshots_left or self.hung or self.doubled)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--engine", choices=("sqlite", "postgres"), default="postgres" if programs() else "sqlite")
    options = parser.parse_args()
    print(f"{options.rounds} rounds on {options.engine}, seed {options.seed}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="hotfirst-kill-", ignore_cleanup_errors=True) as home:
        found = play(Path(home), options.engine, options.rounds, random.Random(options.seed))
    print(json.dumps(vars(found)))
    return 0 if found.clean else 1


def play(home: Path, engine: str, rounds: int, chance: random.Random) -> Found:
    found, began = Found(), time.monotonic()
    with installation(home, engine) as made:
        from tests.faults import checks

        checks.watch_for_overlaps()
        made.start_worker("one")
        for _ in range(rounds):
            Round(made, chance, found).play()
            found.rounds += 1
            if found.hung:
                break
        found.doubled += made.steadily(checks.overlaps)
        # Again: what later rounds and the collection left of them.
        found.look_at(made, made.steadily(checks.good_archives))
    found.seconds = round(time.monotonic() - began)
    return found


class Round:
    def __init__(self, made: Installation, chance: random.Random, found: Found) -> None:
        self._made, self._chance, self._found = made, chance, found
        self._began = self._ticked = time.monotonic()
        strikes = chance.choices((1, 2, 3), (5, 3, 2))[0]
        self._strikes = sorted(chance.uniform(*MOMENTS_S) for _ in range(strikes))

    def play(self) -> None:
        from backups.services.runs import start_run

        made = self._made
        runs = [made.steadily(lambda p=plan: start_run(made.provider, p)) for plan in made.plans]
        self._maybe_collect()
        deadline = self._began + RUN_ENDS_S
        while not (ended := self._ended(runs)) and time.monotonic() < deadline:
            self._live_on()
        self._check(runs, ended)

    def _maybe_collect(self) -> None:
        """What nobody needs any more is collected while the run goes on."""
        from backups.queues import hint

        if self._chance.random() < COLLECT_SHARE:
            self._made.steadily(lambda: hint("backups.tasks.collect.collect"))

    def _live_on(self) -> None:
        if self._strikes and time.monotonic() - self._began > self._strikes[0]:
            self._strikes.pop(0)
            self._strike()
        time.sleep(0.3)
        self._found.restarted += self._made.revive()
        if time.monotonic() - self._ticked > TICK_S:
            self._made.tick()
            self._ticked = time.monotonic()

    def _strike(self) -> None:
        there = {kind: found for kind in VICTIMS if (found := _pids(self._made, kind))}
        kind = self._chance.choices(list(there), [VICTIMS[kind] for kind in there])[0]
        pids = there[kind] if kind == "worker" else [self._chance.choice(there[kind])]
        for pid in pids:
            kill(pid)
        self._found.killed[kind] += 1
        print(f"  {time.monotonic() - self._began:5.1f} s: killed {kind} {pids}", file=sys.stderr, flush=True)

    def _ended(self, runs: list[Any]) -> bool:
        for run in runs:
            self._made.steadily(run.refresh_from_db)
        return all(run.finished_at for run in runs)

    def _check(self, runs: list[Any], ended: bool) -> None:
        from backups.models import Archive
        from tests.faults import checks

        made, found = self._made, self._found
        found.runs.update(run.state for run in runs)
        if not ended:
            found.hung += sum(checks.told(f"hung: {checks.where(run)}") for run in runs if not run.finished_at)
            return
        found.snapshots_left += sum(checks.told(f"left: {name}") for name in self._left())
        archives = made.steadily(lambda: list(Archive.objects.filter(run__in=runs).select_related("tenant")))
        found.archives += len(archives)
        found.look_at(made, archives)
        found.doubled += sum(made.steadily(lambda r=run: checks.doubled(r)) for run in runs)
        took_s = time.monotonic() - self._began
        print(f"round {found.rounds + 1}, {took_s:.0f} s", file=sys.stderr, flush=True)
        for run in runs:
            checks.told(f"  {run.plan_name} {run.state}: {run.message} {checks.failures(run)}")

    def _left(self) -> list[str]:
        from backups.errors import HotfirstError
        from tests.faults import checks

        deadline, left = time.monotonic() + SWEPT_S, ["unknown"]
        self._strikes = []
        while left and time.monotonic() < deadline:
            try:
                left = self._made.steadily(lambda: checks.snapshots(self._made))
            except HotfirstError:
                left = ["unknown: vCenter does not answer"]
            if left:
                self._live_on()
        return left


def _pids(made: Installation, kind: str) -> list[int]:
    if kind == "lab":
        return [made.lab.pid]
    if kind in ("postmaster", "backend"):
        postmaster = made.database.pid() if made.database else None
        return [] if postmaster is None else [postmaster] if kind == "postmaster" else children(postmaster)
    its = family(made.workers[0].pid)
    return [pid for pid, what in its.items() if kind in ("worker", what)]


if __name__ == "__main__":
    sys.exit(main())
