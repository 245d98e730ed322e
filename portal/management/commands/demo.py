import fcntl
import os
import shutil
import signal
import time
from argparse import ArgumentParser
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any
from urllib.request import urlopen

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from portal.demo import processes, story, world

MARKER = "demo"
SAMPLE_S = 1.0
MEASURE_S = 12


class Command(BaseCommand):
    help = (
        "The product on a lab vCenter with two tenants: a run to the end in the order of load, a vApp recovered "
        "and compared byte for byte, then the portal. Everything lies in one folder, made anew at each start."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="Leave when all has been shown; non-zero if it failed.")
        parser.add_argument("--port", type=int, default=8000, help="Where the portal listens, if it is free.")

    def handle(self, *, once: bool, port: int, **_: Any) -> None:
        signal.signal(signal.SIGTERM, _interrupt)
        os.umask(0o077)
        lock = self._lock_home()
        self._make_home()
        with ExitStack() as stack:
            try:
                self._tell(stack, once, port)
            except KeyboardInterrupt:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                self.stdout.write("\nStopping.")
        lock.close()

    def _lock_home(self) -> IO[str]:
        """Two demos never share a folder: each empties it at its start."""
        lock = (settings.HOTFIRST_HOME.parent / f"{settings.HOTFIRST_HOME.name}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandError("A demo is running in this folder already; stop it first.") from error
        return lock

    def _make_home(self) -> None:
        """Only a demo's folder is ever emptied."""
        home = settings.HOTFIRST_HOME
        if connection.vendor != "sqlite" or home not in _database().parents:
            raise CommandError("The demo keeps its own SQLite database; start it without DATABASE_URL.")
        if _database().exists() and not (home / MARKER).exists():
            raise CommandError(f"{home} holds an installation that is no demo. Set HOTFIRST_HOME to another folder.")
        connection.close()
        for thing in home.iterdir():
            shutil.rmtree(thing) if thing.is_dir() else thing.unlink()
        (home / MARKER).touch()
        # The secrets that the settings were made with went too; the child processes must have the same.
        (home / "secret.key").write_text(settings.SECRET_KEY)

    def _tell(self, stack: ExitStack, once: bool, port: int) -> None:
        say = self.stdout.write
        say("Starting: database, lab vCenter, worker …")
        call_command("migrate", verbosity=0)
        endpoint = processes.start_lab(stack, settings.HOTFIRST_HOME / "lab", SAMPLE_S)
        processes.start(stack, "worker", "manage.py", "worker")
        made = world.build(endpoint)
        address = processes.start_portal(stack, port)
        say(f"Lab vCenter on https://{endpoint['host']}:{endpoint['port']}; measuring loads for {MEASURE_S} s …")
        time.sleep(MEASURE_S)
        self._show(made)
        with urlopen(address + "login/") as answer:  # noqa: S310
            answer.read()
        say(self.style.SUCCESS("\nAll as promised: order, holds, no snapshot left, recovered disks equal."))
        if not once:
            self._invite(address, made)
            signal.pause()

    def _show(self, made: world.World) -> None:
        say = self.stdout.write
        acme, globex = made.plans["Acme"], made.plans["Globex"]
        first = story.run_to_the_end(made, acme, say)
        story.check_order(first)
        story.check_no_snapshots(made)
        second = story.run_to_the_end(made, acme, say)
        story.check_changes_only(first, second, say)
        story.run_to_the_end(made, globex, say)
        story.recover_vapp(made, acme, "acme-web", say)
        story.check_no_snapshots(made)

    def _invite(self, address: str, made: world.World) -> None:
        self.stdout.write(f"\nThe portal: {address}")
        told = {"alice": "administrator of Acme", "charlie": "viewer of Acme", "bob": "administrator of Globex"}
        for name, password in made.passwords.items():
            self.stdout.write(f"  {name:9} {password}   {told.get(name, 'provider staff')}")
        self.stdout.write("Ctrl-C stops everything.")


def _database() -> Path:
    return Path(settings.DATABASES["default"]["NAME"])


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
