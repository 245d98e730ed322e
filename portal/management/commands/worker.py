"""django-q2, made safe: no orphaned children, a bounded stop, and an exit when it no longer takes work.

Two clusters, so that long archives never keep the tick waiting: this process runs the one for short work, and a
child of it the one for readers.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import connection
from django.utils import timezone
from django_q.cluster import Cluster
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule

from backups.leases import DRAIN
from backups.models import Recovery, Run, RunItem
from backups.queues import READERS, hint

PR_SET_PDEATHSIG = 1
STOP_DEADLINE_S = 90
DEAF_AFTER = timedelta(minutes=10)


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def stop_for_certain(seconds: float) -> None:
    """The cluster's own stop can hang for ever on the locks of a killed child; the leases cover what it leaves."""
    timer = threading.Timer(seconds, lambda: os._exit(3))
    timer.daemon = True
    timer.start()


class DrainingCluster(Cluster):
    readers: "subprocess.Popen[bytes] | None" = None

    def sig_handler(self, signum: int, frame: FrameType | None) -> None:
        DRAIN.value = 1
        if self.readers:
            self.readers.terminate()
        stop_for_certain(float(os.environ.get("HOTFIRST_STOP_S", STOP_DEADLINE_S)))
        super().sig_handler(signum, frame)


def ensure_schedules() -> None:
    """Static ones alone: a tenant's plans are rows of their own, which the tick reads."""
    Schedule.objects.update_or_create(
        name="tick", defaults={"func": "backups.tasks.tick.tick", "schedule_type": Schedule.MINUTES, "minutes": 1}
    )
    Schedule.objects.update_or_create(
        name="collect", defaults={"func": "backups.tasks.collect.collect", "schedule_type": Schedule.DAILY}
    )


def is_deaf() -> bool:
    """A message has waited long though nobody here is at work: the children have deadlocked."""
    if not OrmQ.objects.filter(key=Conf.CLUSTER_NAME, lock__lt=timezone.now() - DEAF_AFTER).exists():
        return False
    here = {"lease_until__gt": timezone.now(), "lease_owner__startswith": f"{socket.gethostname()}:"}
    return not any(model._default_manager.filter(**here).exists() for model in (Run, RunItem, Recovery))


class Command(BaseCommand):
    help = "Carries out runs and recoveries. Any number may run, on any number of hosts over one PostgreSQL."

    def handle(self, **_: Any) -> None:
        readers = None
        if Conf.CLUSTER_NAME != READERS:
            ensure_schedules()
            hint("backups.tasks.tick.tick")
            readers = self._start_readers()
        os.register_at_fork(after_in_child=die_with_parent)
        connection.close()
        cluster = DrainingCluster()
        cluster.readers = readers
        cluster.start()
        self._watch(cluster)
        if readers:
            readers.terminate()
            readers.wait()
        sys.exit(0 if DRAIN.value else 1)

    def _start_readers(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, sys.argv[0], "worker"],
            env={**os.environ, "Q_CLUSTER_NAME": READERS},
            preexec_fn=die_with_parent,
        )

    def _watch(self, cluster: DrainingCluster) -> None:
        looked_at = started_at = time.monotonic()
        second_tick_due = Conf.CLUSTER_NAME != READERS
        while cluster.sentinel.is_alive():
            time.sleep(0.5)
            if DRAIN.value:
                continue
            if cluster.readers and cluster.readers.poll() is not None:
                self._leave("The readers have died; leaving, so that all is started again.")
            if second_tick_due and time.monotonic() - started_at > settings.HOTFIRST_LEASE_S + 1:
                # By now the leases of a worker that was killed just before this one started are over.
                second_tick_due = False
                hint("backups.tasks.tick.tick")
            if time.monotonic() - looked_at > 60:
                looked_at = time.monotonic()
                if is_deaf():
                    self._leave("The workers take no work any more; leaving, so that all is started again.")

    def _leave(self, reason: str) -> None:
        self.stderr.write(reason)
        os._exit(4)
