import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from backups import vault
from backups.errors import HotfirstError
from backups.services import master_keys


class Command(BaseCommand):
    help = """Makes a new master key and seals everything again with it; an interrupted rotation is finished first, so
    call it again after a failure. Where several hosts have the key ring: --prepare, copy master.key to all hosts, and
    then --use its id on each. The old keys stay in the ring, for copies of database and repositories. Exits 1 if
    something was left."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--prepare", action="store_true", help="Only put a new key into the ring.")
        parser.add_argument("--use", metavar="ID", default="", help="Make this key of the ring the current one.")

    def handle(self, *, prepare: bool, use: str, **_: Any) -> None:
        try:
            if prepare:
                self.stdout.write(vault.add_master_key(current=False))
                return
            done = master_keys.Resealed() if use else master_keys.reseal()
            if not (done.secrets or done.left):
                self.stdout.write(f"The current master key is {master_keys.rotate(None, use)}. Copy its file now.")
                done = master_keys.reseal()
        except HotfirstError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{done.secrets} secrets were sealed again.")
        for told in done.left:
            self.stderr.write(told)
        sys.exit(1 if done.left else 0)
