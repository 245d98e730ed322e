import time
from collections.abc import Callable

from backups.models import Run
from backups.models.runs import RunState
from backups.queues import hint
from tests.faults import checks


def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "It did not happen in time."
        time.sleep(0.1)


def tick() -> None:
    hint("backups.tasks.tick.tick")
    time.sleep(0.5)


def finish(run: Run) -> None:
    """With more ticks than one a minute."""

    def ended() -> bool:
        tick()
        run.refresh_from_db()
        return run.finished_at is not None

    until(ended, 40)
    assert run.state == RunState.SUCCEEDED, checks.where(run)
