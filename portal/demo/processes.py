"""The demo's other processes: the lab vCenter, the worker and the portal. None outlives the demo."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

PR_SET_PDEATHSIG = 1
STOP_S = 15


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def start(stack: ExitStack, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Its output goes to a log in the demo's folder; it is stopped when the stack closes."""
    log = stack.enter_context((settings.HOTFIRST_HOME / f"{name}.log").open("wb"))
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=settings.BASE_DIR,
        stdout=log,
        stderr=subprocess.STDOUT,
        # Its own group: Ctrl-C reaches the demo alone, which then stops the others in order.
        start_new_session=True,
        preexec_fn=_die_with_parent,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    stack.callback(_stop, process)
    return process


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def start_lab(stack: ExitStack, state: Path, sample_s: float) -> dict[str, Any]:
    """Its endpoint: host, port, username, password, certificate_pem."""
    lab = start(stack, "lab", "-m", "vsphere.lab", "--state", str(state), "--port", "0", "--spec", "demo",
                "--sample-s", str(sample_s))  # fmt: skip
    endpoint = state / "endpoint.json"
    _wait(lab, "lab", endpoint.exists)
    found: dict[str, Any] = json.loads(endpoint.read_text())
    return found


def start_portal(stack: ExitStack, port: int) -> str:
    port = port if port and _is_free(port) else free_port()
    portal = start(stack, "portal", "-m", "uvicorn", "portal.asgi:application", "--port", str(port),
                   "--timeout-graceful-shutdown", "3", "--log-level", "warning")  # fmt: skip
    _wait(portal, "portal", lambda: not _is_free(port))
    return f"http://127.0.0.1:{port}/"


def _wait(process: "subprocess.Popen[bytes]", name: str, ready: Any, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            log = settings.HOTFIRST_HOME / f"{name}.log"
            raise CommandError(f"The {name} did not start. The end of {log}:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number
