import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_killed_workers_lose_nothing_and_leave_nothing() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HOTFIRST_HOME"}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.faults.kill", "--rounds", "2"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found == {"rounds": 2, "lost": 0, "snapshots_left": 0, "hung": 0, "doubled": 0}, ended.stderr
