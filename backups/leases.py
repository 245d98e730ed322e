"""Who is working on what, and how a dead worker is noticed.

The broker's message is only a hint; the rows are the truth. A worker claims a row by a conditional UPDATE that
raises `attempt`, renews its lease while it works, and names its attempt in every write. Once another has taken the
row over, nothing it writes counts.
"""

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Self

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.db.models import QuerySet
from django.utils import timezone
from django_q.brokers import get_broker

from backups.errors import Interrupted
from backups.models.jobs import Job

log = logging.getLogger(__name__)

DRAIN = multiprocessing.get_context("fork").Value("b", 0, lock=False)
"""Set by `manage.py worker` on SIGTERM and seen by all its forked children: take nothing new, stop what runs.
A plain byte without a lock, so a killed child cannot block it."""


def owner() -> str:
    return f"{settings.HOTFIRST_HOST}:{os.getpid()}"


def lease_fields() -> dict[str, Any]:
    return {"lease_owner": owner(), "lease_until": timezone.now() + timedelta(seconds=settings.HOTFIRST_LEASE_S)}


STUCK = 5
"""The exit code of a process whose work hung."""

NO_LEASE: dict[str, Any] = {"lease_owner": "", "lease_until": None}


def held(job: Job) -> "QuerySet[Job]":
    """By owner and attempt, whatever the state: the work moves the state while the heart beats."""
    return type(job)._default_manager.filter(pk=job.pk, attempt=job.attempt, lease_owner=owner())


def release(job: Job) -> None:
    """Gives the lease back if it is still ours."""
    held(job).update(**NO_LEASE)


def _left_s(job: Job) -> float:
    left = job.lease_until - timezone.now() if job.lease_until else timedelta()
    return left.total_seconds()


class Heartbeat:
    """Renews the lease of a claimed job in a thread of its own, writes its progress about once a second, and
    notices that the work must stop. The work calls `check` or `report` often: after `stuck_after_s` without, the
    process ends, and with it whatever the work hangs in. Another one takes the job over."""

    def __init__(
        self,
        job: Job,
        *,
        should_stop: Callable[[], str | None] = lambda: None,
        on_progress: Callable[[dict[str, Any]], None] = lambda _: None,
        stuck_after_s: float | None = None,
    ) -> None:
        """`stuck_after_s`: that of the settings by default."""
        self._job, self._should_stop, self._on_progress = job, should_stop, on_progress
        self._stuck_after_s = settings.HOTFIRST_STUCK_S if stuck_after_s is None else stuck_after_s
        self._lease_ends_at = time.monotonic() + _left_s(job)
        self._stuck_at = 0.0
        self.expect_silence(self._stuck_after_s)
        self._progress: dict[str, Any] = {}
        self._stop = threading.Event()
        self._reason: str | None = None
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def report(self, **progress: Any) -> None:
        """Fields of the job to be written with the next beat; the newest value wins."""
        self.expect_silence(self._stuck_after_s)
        self._progress = {**self._progress, **progress}

    def check(self) -> None:
        """Raises Interrupted when the lease is lost or over, the job is cancelled or the worker drains."""
        self.expect_silence(self._stuck_after_s)
        if self._reason:
            raise Interrupted(self._reason)
        if time.monotonic() > self._lease_ends_at:
            # The database is away, or this process was stopped for a while: another worker may be at it.
            raise Interrupted("The lease on this work could not be renewed in time, so it was given up.")

    def expect_silence(self, limit_s: float) -> None:
        """The next `check` or `report` may take that long: for a step that has a time-out of its own."""
        self._stuck_at = time.monotonic() + limit_s

    def _run(self) -> None:
        interval_s = min(1.0, settings.HOTFIRST_LEASE_S / 4)
        try:
            while not self._reason and not self._stop.wait(interval_s):
                self._end_if_stuck()
                began_at = time.monotonic()
                try:
                    self._beat()
                    self._lease_ends_at = began_at + settings.HOTFIRST_LEASE_S
                except DatabaseError:
                    # The database may come back before the lease is over; until then nobody else works here.
                    connection.close()
        finally:
            connection.close()

    def _end_if_stuck(self) -> None:
        if time.monotonic() > self._stuck_at:
            log.critical("%s %s is stuck; this process ends", type(self._job).__name__, self._job.pk)
            os._exit(STUCK)

    def _beat(self) -> None:
        progress, self._progress = self._progress, {}
        if not held(self._job).update(**lease_fields(), **progress):
            self._reason = "Another worker has taken this over."
        elif DRAIN.value:
            self._reason = "The worker is shutting down."
        else:
            self._reason = self._should_stop()
        if progress:
            self._on_progress(progress)


class Repeating:
    """Calls `work` every so often in a thread of its own, as long as the block lasts."""

    def __init__(self, work: Callable[[], Any], every: timedelta) -> None:
        self._work, self._every_s, self._stop = work, every.total_seconds(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._every_s):
                try:
                    self._work()
                except DatabaseError:
                    connection.close()
        finally:
            connection.close()


def acknowledge_early(*, func: Callable[..., Any], task: dict[str, Any], **_: Any) -> None:
    """Acknowledged before it runs: delivering again is the lease's business, not the broker's."""
    if getattr(func, "__module__", "").startswith("backups.tasks") and task.get("ack_id") is not None:
        get_broker().acknowledge(task.pop("ack_id"))
