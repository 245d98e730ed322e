"""Programs that are killed and started again, as systemd would, and the processes that a worker consists of."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_PDEATHSIG = 1
ROOT = Path(__file__).parents[2]
STOP_S = 20


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Program:
    """In a process group of its own; its output is added to `log`."""

    log: Path
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.arguments],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
                env={**os.environ, **self.environment, "PYTHONUNBUFFERED": "1"},
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def wait(self, timeout_s: float) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def signal_group(self, number: int) -> None:
        """To every process of the program."""
        os.killpg(self.pid, number)

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.signal_group(signal.SIGKILL)
            self.process.wait()


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_alive(pid: int) -> bool:
    """A zombie is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def family(main: int) -> dict[int, str]:
    """A worker's processes and what each is. `child`: of the cluster for short work; `reader`: of that for readers."""
    return dict(_members(main))


def _members(main: int) -> Iterator[tuple[int, str]]:
    yield main, "main"
    for child in children(main):
        if _is_for_readers(child):
            yield child, "readers main"
            for sentinel in children(child):
                yield sentinel, "readers sentinel"
                yield from ((reader, "reader") for reader in children(sentinel))
        elif _is_watcher(child):
            yield child, "watcher"
        else:
            yield child, "sentinel"
            yield from ((grandchild, "child") for grandchild in children(child))


def _is_for_readers(pid: int) -> bool:
    try:
        return b"Q_CLUSTER_NAME=readers" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _is_watcher(pid: int) -> bool:
    try:
        return b"watch" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
