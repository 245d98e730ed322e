import os
import sys
from argparse import REMAINDER, ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Starts the embedded lab vCenter; all arguments are its own: see manage.py lab --help."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("arguments", nargs=REMAINDER)

    def run_from_argv(self, argv: list[str]) -> None:
        """The lab is a program of its own, which knows nothing of the product."""
        os.execv(sys.executable, [sys.executable, "-m", "vsphere.lab", *argv[2:]])  # noqa: S606

    def handle(self, *, arguments: list[str], **_: Any) -> None:
        self.run_from_argv(["manage.py", "lab", *arguments])
