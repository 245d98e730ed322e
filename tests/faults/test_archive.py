import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_nothing_is_lost_by_kills_or_by_flipped_bytes() -> None:
    """A short round; the long one is `python -m tests.faults.archive --rounds 200`."""
    arguments = ["--rounds", "6", "--flips", "48", "--seconds", "3"]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.faults.archive", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    found = json.loads(ended.stdout.splitlines()[-1])
    for part in ("kill", "together"):
        assert (found[part]["lost"], found[part]["wrong"], found[part]["keys_lost"]) == (0, 0, 0), ended.stderr
        assert found[part]["garbage_packs"] == 0, ended.stderr
        assert found[part]["restored"] > 0
    rot = found["rot"]
    assert (rot["places"], rot["unseen_by_scrub"], rot["unseen_by_check"], rot["false_alarms"]) == (48, 0, 0, 0)
    assert len([name for name in rot if name.startswith("in_")]) == 8
