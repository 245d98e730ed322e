import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from backups.errors import HotfirstError
from backups.models import Archive
from backups.models.archives import ArchiveState
from backups.services.archives import verify_archive


class Command(BaseCommand):
    help = "Reads, decrypts and compares every byte of archives. Exits 1 if any is damaged or could not be read."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--tenant", help="Only this tenant's, by name.")
        parser.add_argument("--vm", help="Only those of VMs of this name.")

    def handle(self, *, tenant: str | None, vm: str | None, **_: Any) -> None:
        archives = Archive.objects.exclude(state=ArchiveState.DELETED).order_by("vm_name", "backup_time")
        archives = archives.filter(tenant__name=tenant) if tenant else archives
        archives = archives.filter(vm_name=vm) if vm else archives
        total, bad = archives.count(), 0
        for number, archive in enumerate(archives.iterator(), start=1):
            told = self._verify(archive)
            bad += told != "good"
            self.stdout.write(f"{number}/{total} {archive}: {told}")
        sys.exit(1 if bad else 0)

    def _verify(self, archive: Archive) -> str:
        try:
            return "good" if verify_archive(None, archive) else "damaged"
        except HotfirstError as error:
            return str(error)
