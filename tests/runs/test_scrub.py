"""Each night a share of what is stored is compared with its hashes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from backups.archive import layout, packs
from backups.models import Archive, AuditEntry, Plan, Run
from backups.models.archives import ArchiveState
from backups.services.archives import verify_archive
from backups.services.repositories import open_store
from backups.services.runs import start_run
from backups.tasks.scrub import NIGHTS, scrub

pytestmark = pytest.mark.django_db(transaction=True)
Finish = Callable[[Run], Run]


def test_a_scrub_shows_the_archives_that_use_what_it_found_damaged_and_the_next_run_heals(
    plan: Plan, finish: Finish
) -> None:
    finish(start_run(None, plan))
    damage_the_packs(plan)
    scrub(0, 1)
    damaged = list(Archive.objects.filter(state=ArchiveState.DAMAGED))
    assert damaged
    assert AuditEntry.objects.filter(action="archive.damaged").count() == len(damaged)
    assert finish(start_run(None, plan)).state == "succeeded"
    again = Archive.objects.filter(vm__in=[each.vm_id for each in damaged], state=ArchiveState.GOOD)
    assert again.count() == len(damaged)
    assert all(verify_archive(None, archive) for archive in [*again, *damaged]), "what was read again healed the old"


def damage_the_packs(plan: Plan) -> None:
    store = open_store(plan.repository)
    for stored in list(store.list(layout.packs(str(plan.tenant_id)))):
        _, entries = packs.read_table(store, stored.name)
        path = Path(plan.repository.path) / stored.name
        content = bytearray(path.read_bytes())
        content[entries[0].offset + 20] ^= 1
        path.chmod(0o600)
        path.write_bytes(content)


def test_all_shares_together_are_all_that_is_stored(plan: Plan, finish: Finish) -> None:
    finish(start_run(None, plan))
    damage_the_packs(plan)
    for night in range(NIGHTS):
        scrub(night)
    assert Archive.objects.filter(state=ArchiveState.DAMAGED).exists()
