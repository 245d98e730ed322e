from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from backups.tasks.collect import GRACE_S, collect


class Command(BaseCommand):
    help = "Gives back the room of deleted archives. The worker does it daily; it is safe beside running backups."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--grace-s", type=float, default=GRACE_S, help="Keep what was written this lately.")

    def handle(self, *, grace_s: float, **_: Any) -> None:
        collect(grace_s)
