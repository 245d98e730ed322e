"""`python -m tests.with_postgres -- COMMAND …` runs the command with DATABASE_URL naming a PostgreSQL: the one that the
environment names already, else a throw-away one from the system's programs, also as root."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "listen_addresses=127.0.0.1")
START_S = 60


def main() -> int:
    command = sys.argv[sys.argv.index("--") + 1 :]
    if os.environ.get("DATABASE_URL"):
        return subprocess.call(command)
    found = programs()
    if found is None:
        print("No PostgreSQL server programs were found; install them (Debian: apt-get install postgresql).")
        return 1
    with ThrowAwayServer(found) as server:
        print(f"PostgreSQL for the tests: {server.url}", flush=True)
        return subprocess.call(command, env={**os.environ, "DATABASE_URL": server.url})


def programs() -> Path | None:
    """The newest version's folder."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


class ThrowAwayServer:
    """Runs inside the `with`, and keeps its data and its port when it is killed and started again."""

    def __init__(self, found: Path, *options: str) -> None:
        self._programs, self._options = found, (*FAST, *options)
        self._folder = Path(tempfile.mkdtemp(prefix="hotfirst-pg-"))
        self._user = _unprivileged(self._folder)
        self._port = free_port()
        self.url = f"postgres://postgres@127.0.0.1:{self._port}/postgres"

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def __enter__(self) -> Self:
        self._run("initdb", "-D", self._data, "-A", "trust", "-U", "postgres", "--no-locale", "-E", "UTF8", "-N")
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.pid() is not None:
            self._run("pg_ctl", "-D", self._data, "-m", "immediate", "stop")
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Again and again: the children of a killed server hold its shared memory for a moment."""
        deadline = time.monotonic() + START_S
        options = f"-p {self._port} -k {self._folder} " + " ".join(f"-c {option}" for option in self._options)
        while True:
            try:
                self._run("pg_ctl", "-D", self._data, "-w", "-l", self._folder / "log", "-o", options, "start")
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def pid(self) -> int | None:
        """Of the running server; its children are the sessions."""
        try:
            found = int((self._data / "postmaster.pid").read_text().split()[0])
            running = "postgres" in Path(f"/proc/{found}/cmdline").read_text()
        except (OSError, IndexError, ValueError):
            return None
        return found if running else None

    def kill(self) -> None:
        found = self.pid()
        if found is not None:
            os.kill(found, signal.SIGKILL)

    def _run(self, program: str, *arguments: object) -> None:
        """PostgreSQL refuses to run as root."""
        prefix = ["runuser", "-u", self._user, "--"] if self._user else []
        command = [*prefix, str(self._programs / program), *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")


def _unprivileged(folder: Path) -> str | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = "postgres" if "postgres" in names else "nobody"
    folder.chmod(0o755)
    shutil.chown(folder, user)
    return user


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


if __name__ == "__main__":
    sys.exit(main())
