import json
import subprocess
import sys

from tests.faults.programs import ROOT

NOTHING = {"lost": 0, "snapshots_left": 0, "hung": 0, "doubled": 0}


def test_killed_processes_lose_nothing_and_leave_nothing() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.faults.kill", "--rounds", "1", "--seed", "54"],
        cwd=ROOT, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert ended.stdout, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert {name: found[name] for name in NOTHING} == NOTHING, ended.stderr
    assert found["archives"] == 8, ended.stderr
