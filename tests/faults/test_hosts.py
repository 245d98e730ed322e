"""Two hosts over one PostgreSQL: one is lost in the middle of a run, and the other finishes it."""

import signal
import time
from typing import Any

import pytest
from django.db import connection

from backups.locks import exclusive
from backups.models import Archive, Run, RunItem
from backups.models.runs import ItemState
from backups.services.runs import start_run
from tests.faults import checks
from tests.faults.installation import Installation
from tests.faults.programs import Program
from tests.faults.waiting import finish, tick, until


@pytest.fixture(autouse=True)
def _only_on_postgres() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("More than one host needs PostgreSQL.")


def test_a_run_is_finished_by_the_other_host_when_one_is_killed(made: Installation) -> None:
    run, victim, held = _run_on_two_hosts(made)
    victim.signal_group(signal.SIGKILL)
    finish(run)
    assert victim.wait(5) == -signal.SIGKILL
    assert all(RunItem.objects.get(pk=item.pk).attempt > item.attempt for item in held)
    _assert_all_is_well(made, run)


def test_a_host_that_wakes_when_its_work_is_long_done_by_another_changes_nothing(made: Installation) -> None:
    run, victim, _ = _run_on_two_hosts(made)
    victim.signal_group(signal.SIGSTOP)
    finish(run)
    before = _all_that_counts(run)
    victim.signal_group(signal.SIGCONT)
    time.sleep(5)
    assert victim.exit_code is None
    assert _all_that_counts(run) == before
    _assert_all_is_well(made, run)


def test_a_host_that_is_lost_in_a_transaction_does_not_keep_its_locks(hosts: Installation) -> None:
    holding = "import time; from backups.locks import exclusive\n"
    holding += "with exclusive('selection'): print('held', flush=True); time.sleep(600)"
    environment = {**hosts.environment, "HOTFIRST_LEASE_S": "2"}
    lost = Program(hosts.home / "lost.log", ("manage.py", "shell", "-c", holding), environment)
    hosts.workers.append(lost)
    lost.start()
    until(lambda: "held" in lost.log.read_text())
    lost.signal_group(signal.SIGSTOP)
    began = time.monotonic()
    with exclusive("selection"):
        assert time.monotonic() - began < 10
    lost.signal_group(signal.SIGKILL)


def _run_on_two_hosts(made: Installation) -> tuple[Run, Program, list[RunItem]]:
    """A run of three readers, of which no host has all, one of the hosts, and what that one is at."""
    checks.watch_for_overlaps()
    first, _ = (made.start_worker(host, HOTFIRST_READERS="2") for host in ("first", "second"))
    made.slow_down(700)
    run = start_run(made.provider, made.plans[0])
    archiving = run.items.filter(state=ItemState.ARCHIVING)

    def both_are_at_it() -> bool:
        # A host whose readers are all busy may have fetched the hint meant for the other; the tick sends more.
        tick()
        return _takers(list(archiving.all())) == {"first", "second"}

    until(both_are_at_it, 40)
    held = list(archiving.filter(lease_owner__startswith="first:"))
    made.slow_down(100)
    return run, first, held


def _takers(items: list[RunItem]) -> set[str]:
    return {item.lease_owner.partition(":")[0] for item in items}


def _all_that_counts(run: Run) -> Any:
    items = run.items.order_by("pk").values_list("pk", "state", "attempt", "archive", "lease_owner", "finished_at")
    return list(items), sorted(Archive.objects.values_list("pk", flat=True)), Run.objects.get(pk=run.pk).finished_at


def _assert_all_is_well(made: Installation, run: Run) -> None:
    archives = list(Archive.objects.filter(run=run))
    assert len(archives) == run.items.count()
    assert checks.lost(made, archives) == []
    assert checks.doubled(run) == 0
    assert checks.overlaps() == 0
    assert checks.snapshots(made) == []
