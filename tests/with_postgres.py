"""`python -m tests.with_postgres -- COMMAND …` runs the command with DATABASE_URL naming a PostgreSQL: the one that the
environment names already, else a throw-away one from the system's programs, also as root."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "listen_addresses=127.0.0.1")


def main() -> int:
    command = sys.argv[sys.argv.index("--") + 1 :]
    if os.environ.get("DATABASE_URL"):
        return subprocess.call(command)
    programs = _programs()
    if programs is None:
        print("No PostgreSQL server programs were found; install them (Debian: apt-get install postgresql).")
        return 1
    with _server(programs) as url:
        print(f"PostgreSQL for the tests: {url}", flush=True)
        return subprocess.call(command, env={**os.environ, "DATABASE_URL": url})


def _programs() -> Path | None:
    """The newest version's folder."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


@contextmanager
def _server(programs: Path) -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="hotfirst-pg-"))
    user = _unprivileged(folder)
    port = _free_port()
    options = f"-p {port} -k {folder} " + " ".join(f"-c {option}" for option in FAST)
    data = folder / "data"
    _run(user, programs / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-locale", "-E", "UTF8", "-N")
    try:
        _run(user, programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
        yield f"postgres://postgres@127.0.0.1:{port}/postgres"
    finally:
        _run(user, programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged(folder: Path) -> str | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = "postgres" if "postgres" in names else "nobody"
    folder.chmod(0o755)
    shutil.chown(folder, user)
    return user


def _run(user: str | None, *command: object) -> None:
    prefix = ["runuser", "-u", user, "--"] if user else []
    subprocess.run([*prefix, *map(str, command)], check=True, stdout=subprocess.DEVNULL, cwd="/")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


if __name__ == "__main__":
    sys.exit(main())
