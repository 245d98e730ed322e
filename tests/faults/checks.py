"""What must hold once a run has ended, whoever died meanwhile."""

import hashlib
import json
import sys
from typing import Any

from django.db import connection

from backups.archive import layout, verify
from backups.archive.reader import ArchiveReader
from backups.errors import ArchiveError
from backups.models import Archive, Run, RunItem
from backups.models.archives import ArchiveState
from backups.models.runs import ItemState
from backups.services.archiving import archive_id_of
from backups.services.repositories import open_store
from backups.services.tenants import reading_keys
from backups.services.vcenters import connect
from tests.faults.installation import Installation

NOTES = ("CREATE TABLE IF NOT EXISTS faults_overlap (item text, before text, after text)", "DELETE FROM faults_overlap")
OVERLAP = {
    "sqlite": (
        "DROP TRIGGER IF EXISTS overlap",
        """CREATE TRIGGER overlap AFTER UPDATE OF attempt ON backups_runitem
        WHEN NEW.attempt > OLD.attempt AND OLD.lease_owner <> ''
             AND OLD.lease_until > strftime('%Y-%m-%d %H:%M:%f', 'now')
        BEGIN INSERT INTO faults_overlap VALUES (OLD.id, OLD.lease_owner, NEW.lease_owner); END""",
    ),
    "postgresql": (
        """CREATE OR REPLACE FUNCTION note_overlap() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO faults_overlap VALUES (OLD.id::text, OLD.lease_owner, NEW.lease_owner);
            RETURN NULL;
        END $$""",
        """CREATE OR REPLACE TRIGGER overlap AFTER UPDATE OF attempt ON backups_runitem FOR EACH ROW
        WHEN (NEW.attempt > OLD.attempt AND OLD.lease_owner <> '' AND OLD.lease_until > clock_timestamp())
        EXECUTE FUNCTION note_overlap()""",
    ),
}


def watch_for_overlaps() -> None:
    """From now on the database itself notes every item that is claimed while another's lease on it lasts."""
    with connection.cursor() as cursor:
        for statement in (*NOTES, *OVERLAP[connection.vendor]):
            cursor.execute(statement)


def overlaps() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM faults_overlap")
        found: int = cursor.fetchone()[0]
    return found


def good_archives() -> list[Archive]:
    return list(Archive.objects.filter(state=ArchiveState.GOOD).select_related("tenant", "repository"))


def lost(made: Installation, archives: list[Archive]) -> list[str]:
    """Their ids."""
    return [str(archive.pk) for archive in archives if (why := why_lost(made, archive)) and told(f"{archive}: {why}")]


def why_lost(made: Installation, archive: Archive) -> str:
    """Empty for an archive that verifies and restores to what its snapshot held."""
    store, keys = open_store(archive.repository), reading_keys(archive.tenant)
    if archive.state != ArchiveState.GOOD:
        return f"is {archive.state}"
    item = RunItem.objects.get(archive=archive)
    held: dict[str, str] = json.loads((made.lab_state / "witness" / f"{item.snapshot_name}.json").read_text())
    try:
        verify.check(store, keys, str(archive.pk))
        reader = ArchiveReader(store, keys, str(archive.pk))
        restored = {str(disk.key): _restored(reader, disk.key, disk.capacity_bytes) for disk in reader.disks}
    except ArchiveError as error:
        return str(error)
    differing = sorted(key for key in held.keys() | restored.keys() if held.get(key) != restored.get(key))
    return f"disks {differing} are not what {item.snapshot_name} held" if differing else ""


def _restored(reader: ArchiveReader, key: int, capacity_bytes: int) -> str:
    """The hash of the whole disk; what the archive does not hold is zeros."""
    digest, at = hashlib.sha256(), 0
    for start, data in reader.runs(key):
        digest.update(bytes(start - at))
        digest.update(data)
        at = start + len(data)
    digest.update(bytes(capacity_bytes - at))
    return digest.hexdigest()


def doubled(run: Run) -> int:
    """Items with more than one archive, in the database or in the repository: every attempt's has a name of its own,
    so one that was written after the item had been taken over shows."""
    return sum(told(f"{item}: {many} archives") for item in run.items.all() if (many := _archives_of(run, item)) > 1)


def _archives_of(run: Run, item: RunItem) -> int:
    store = open_store(run.repository)
    names = [str(archive_id_of(item, attempt)) for attempt in range(1, item.attempt + 1)]
    stored = sum(store.exists(layout.archive(str(item.tenant_id), name)) for name in names)
    return max(stored, Archive.objects.filter(run=run, vm=item.vm).count())


def snapshots(made: Installation) -> list[str]:
    with connect(made.vcenter) as platform:
        return [snapshot.name for snapshot in platform.find_snapshots("hotfirst-")]


def where(run: Run) -> list[Any]:
    return [run, *run.items.values_list("vm_name", "state", "lease_owner", "lease_until", "failures", "message")]


def failures(run: Run) -> list[Any]:
    return list(run.items.exclude(state=ItemState.SUCCEEDED).values_list("vm_name", "state", "message"))


def told(what: Any) -> int:
    print(what, file=sys.stderr, flush=True)
    return 1
