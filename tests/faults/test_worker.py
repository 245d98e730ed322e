"""What a supervisor relies on: `manage.py worker` as real processes that are really killed."""

import signal

import pytest
from django.db import connection
from django_q.models import OrmQ

from backups.models import Run, RunItem
from backups.models.runs import ItemState
from backups.queues import hint
from backups.services.runs import start_run
from tests.faults import checks
from tests.faults.installation import Installation
from tests.faults.programs import Program, family, is_alive, kill
from tests.faults.waiting import finish, until

WHOLE = {"main": 1, "sentinel": 1, "child": 6, "readers main": 1, "readers sentinel": 1, "reader": 3, "watcher": 1}
"""Of a worker with one reader: monitors and pushers count as children."""


@pytest.fixture(autouse=True)
def _once() -> None:
    if connection.vendor != "sqlite":
        pytest.skip("A worker lives and dies alike on every database.")


def started(made: Installation, host: str = "one", **environment: str) -> tuple[Program, dict[int, str]]:
    """A worker whose processes are all there, and those."""
    worker = made.start_worker(host, HOTFIRST_READERS="1", **environment)
    until(lambda: _counted(family(worker.pid)) == WHOLE)
    until(lambda: not OrmQ.objects.exists())
    return worker, family(worker.pid)


def _counted(kinds: dict[int, str]) -> dict[str, int]:
    return {kind: list(kinds.values()).count(kind) for kind in WHOLE}


def of(kind: str, its: dict[int, str]) -> list[int]:
    return [pid for pid, its_kind in its.items() if its_kind == kind]


def all_gone(its: dict[int, str]) -> bool:
    return not any(is_alive(pid) for pid in its)


def test_nothing_is_left_of_a_worker_whose_main_process_is_killed(hosts: Installation) -> None:
    worker, its = started(hosts)
    kill(worker.pid)
    worker.wait(5)
    until(lambda: all_gone(its), 5)


@pytest.mark.parametrize(
    ("kind", "code"), [("sentinel", 1), ("readers sentinel", 4), ("readers main", 4), ("watcher", 4)]
)
def test_a_worker_that_lost_a_part_leaves_with_an_error(hosts: Installation, kind: str, code: int) -> None:
    worker, its = started(hosts)
    kill(of(kind, its)[0])
    assert worker.wait(10) == code
    until(lambda: all_gone(its), 5)


def test_killed_children_are_replaced_and_take_no_lock_along(hosts: Installation) -> None:
    worker, its = started(hosts)
    for pid in (*of("child", its), *of("reader", its)):
        kill(pid)
    until(lambda: _counted(family(worker.pid)) == WHOLE)
    for _ in range(3):
        hint("backups.tasks.tick.tick")
        hint("backups.tasks.read.read_waiting", long=True)
    until(lambda: not OrmQ.objects.exists())


@pytest.mark.parametrize("whole_group", [False, True])
def test_an_idle_worker_ends_at_once_when_told_to(hosts: Installation, whole_group: bool) -> None:
    worker, its = started(hosts)
    if whole_group:
        worker.signal_group(signal.SIGTERM)
    else:
        kill(worker.pid, signal.SIGTERM)
    assert worker.wait(5) == 0
    until(lambda: all_gone(its), 5)


def test_a_worker_that_takes_no_work_any_more_notices_and_leaves(hosts: Installation) -> None:
    worker, its = started(hosts, HOTFIRST_DEAF_S="2")
    for pid in of("child", its):
        kill(pid, signal.SIGSTOP)
    hint("backups.tasks.tick.tick")
    assert worker.wait(10) == 4
    until(lambda: all_gone(its), 5)


def test_a_worker_that_is_told_to_stop_hands_its_archive_over_with_its_snapshot(made: Installation) -> None:
    worker, _ = started(made)
    run, item = archiving(made)
    kill(worker.pid, signal.SIGTERM)
    assert worker.wait(10) == 0
    made.slow_down(0)
    handed_over = RunItem.objects.get(pk=item.pk)
    assert (handed_over.state, handed_over.lease_owner) == (ItemState.WAITING, "")
    assert (handed_over.failures, handed_over.snapshot_name) == (0, item.snapshot_name)
    assert item.snapshot_name in checks.snapshots(made)
    started(made, "two")
    finish(run)
    assert RunItem.objects.get(pk=item.pk).snapshot_attempt == 1


def test_a_reader_whose_work_hangs_ends_itself_and_the_archive_is_made_all_the_same(made: Installation) -> None:
    worker, its = started(made, HOTFIRST_STUCK_S="3")
    run, item = archiving(made)
    kill(made.lab.pid, signal.SIGSTOP)
    reader = int(item.lease_owner.partition(":")[2])
    until(lambda: not is_alive(reader))
    made.slow_down(0)
    kill(made.lab.pid, signal.SIGCONT)
    assert "is stuck; this process ends" in worker.log.read_text()
    assert all(is_alive(pid) for pid in its if pid != reader)
    finish(run)


def archiving(made: Installation) -> tuple[Run, RunItem]:
    """A run of two VMs, and the one that is being archived, slowly."""
    made.slow_down(1500)
    run = start_run(made.provider, made.plans[1])
    items = run.items.filter(state=ItemState.ARCHIVING)
    until(items.exists)
    item = items.first()
    assert item is not None
    return run, item
