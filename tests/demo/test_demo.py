"""The README's first command, as a newcomer starts it."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]


def demo(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "HOTFIRST_HOME": str(home), "HOTFIRST_LOAD_WINDOW_S": "10", "DATABASE_URL": ""}
    environment["DJANGO_SETTINGS_MODULE"] = "portal.settings"
    return subprocess.run(
        [sys.executable, "manage.py", "demo", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


def test_the_demo_shows_all_it_promises_and_leaves_nothing_running(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    ended = demo(home, "--once", "--port", "0")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "equals its archive, byte for byte" in ended.stdout
    assert "All as promised" in ended.stdout
    assert running_with(home) == []


def running_with(home: Path) -> list[str]:
    """Command lines of processes that were started for this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"HOTFIRST_HOME={home}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
    return found


def test_the_demo_empties_no_folder_that_is_not_a_demos(tmp_path: Path) -> None:
    home = tmp_path / "production"
    home.mkdir()
    (home / "hotfirst.sqlite3").write_bytes(b"")
    ended = demo(home, "--once")
    assert ended.returncode != 0
    assert "Set HOTFIRST_HOME to another folder" in ended.stderr
    assert (home / "hotfirst.sqlite3").exists()
