"""The fault suite is worth no more than its checks: each must find what it looks for."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.db.models import F
from django.utils import timezone

from backups.archive import layout
from backups.models import Archive, Run, RunItem
from backups.services.archiving import archive_id_of
from backups.services.repositories import open_store
from backups.services.runs import start_run
from tests.faults import checks
from tests.faults.installation import Installation
from tests.faults.waiting import finish


def test_the_checks_find_what_they_look_for(made: Installation) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("Archives are the same with every database.")
    checks.watch_for_overlaps()
    made.start_worker("one")
    made.slow_down(0)
    run = start_run(made.provider, made.plans[1])
    finish(run)
    first, second = Archive.objects.filter(run=run).order_by("vm_name")
    assert checks.lost(made, [first, second]) == []
    assert checks.doubled(run) == checks.overlaps() == 0
    _change_the_witness(made, RunItem.objects.get(archive=first))
    assert "are not what" in checks.why_lost(made, first)
    _damage_the_packs(Path(run.repository.path))
    assert "damaged" in checks.why_lost(made, second)
    _archive_twice(run)
    assert checks.doubled(run) == 1
    _claim_under_anothers_lease(run)
    assert checks.overlaps() == 1


def _change_the_witness(made: Installation, item: RunItem) -> None:
    witness = made.lab_state / "witness" / f"{item.snapshot_name}.json"
    witness.write_text(json.dumps(dict.fromkeys(json.loads(witness.read_text()), "another hash")))


def _damage_the_packs(repository: Path) -> None:
    for pack in repository.glob("**/packs/**/*"):
        if pack.is_file():
            pack.chmod(0o600)
            pack.write_bytes(bytes(byte ^ 1 for byte in pack.read_bytes()))


def _archive_twice(run: Run) -> None:
    item = run.items.first()
    assert item is not None
    store, tenant = open_store(run.repository), str(item.tenant_id)
    written = store.get(layout.archive(tenant, str(archive_id_of(item, item.attempt))))
    store.put(layout.archive(tenant, str(archive_id_of(item, item.attempt - 1))), written)


def _claim_under_anothers_lease(run: Run) -> None:
    leased, later = run.items.filter(vm_name="wiki-db"), timezone.now() + timedelta(minutes=1)
    leased.update(lease_owner="one:1", lease_until=later)
    leased.update(lease_owner="two:1", attempt=F("attempt") + 1)
