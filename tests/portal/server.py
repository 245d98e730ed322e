"""The portal as it is served, on the tests' database: the test client reads no streams and runs no scripts."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from django.conf import settings
from django.db import connection

ROOT = Path(__file__).parents[2]
PATIENCE_S = 20


@contextmanager
def serve() -> Iterator[int]:
    """The port that it listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "portal.asgi:application", "--port", str(port)]
    command += ["--log-level", "warning", "--timeout-graceful-shutdown", "1"]
    environment = {**os.environ, "DATABASE_URL": _database_url(), "DJANGO_SETTINGS_MODULE": "tests.settings"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        _wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _database_url() -> str:
    tests = settings.DATABASES["default"]
    if connection.vendor == "sqlite":
        return f"sqlite:///{tests['NAME']}"
    login = f"{quote(tests['USER'])}:{quote(tests['PASSWORD'])}" if tests["PASSWORD"] else quote(tests["USER"])
    return f"postgres://{login}@{tests['HOST']}:{tests['PORT']}/{connection.settings_dict['NAME']}"


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("The portal did not start.")
