"""A worker of a host: two clusters, so that long archives never keep the tick waiting. This process runs the one for
short work; a child of it runs the one for readers, and another follows what changes in vCenter. What has gone wrong
here ends here: all that counts is in the database, and whoever started this process starts it again.

Exits 0 after SIGTERM, 1 when its cluster died, 3 when it did not stop in time, 4 when a cluster took no more work.
"""

import os
import subprocess
import sys
import threading
import time
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import Error as DatabaseError
from django.db import connection
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule

from backups.leases import DRAIN
from backups.locks import exclusive
from backups.queues import READERS, hint
from portal.cluster import DieWithParent, DrainingCluster, forks_die_with_parents

STOP_S = float(os.environ.get("HOTFIRST_STOP_S", 90))
DEAF_S = float(os.environ.get("HOTFIRST_DEAF_S", 180))


def stop_for_certain() -> None:
    """The leases cover what is left undone."""
    timer = threading.Timer(STOP_S, lambda: os._exit(3))
    timer.daemon = True
    timer.start()


def ensure_schedules() -> None:
    """Static ones alone: a tenant's plans are rows of their own, which the tick reads."""
    with exclusive("schedules"):
        Schedule.objects.update_or_create(
            name="tick", defaults={"func": "backups.tasks.tick.tick", "schedule_type": Schedule.MINUTES, "minutes": 1}
        )
        Schedule.objects.update_or_create(
            name="collect", defaults={"func": "backups.tasks.collect.collect", "schedule_type": Schedule.DAILY}
        )
        Schedule.objects.update_or_create(
            name="scrub", defaults={"func": "backups.tasks.scrub.scrub", "schedule_type": Schedule.DAILY}
        )


def tick_soon() -> bool:
    """False if the database is away just now."""
    try:
        hint("backups.tasks.tick.tick")
    except DatabaseError:
        connection.close()
        return False
    return True


def is_deaf(cluster: DrainingCluster) -> bool:
    """A message has waited long, and nobody took any though there are hands free: the children have deadlocked."""
    if cluster.began_nothing_for_s() < DEAF_S or not cluster.has_idle_workers():
        return False
    long_ago = timezone.now() - timedelta(seconds=DEAF_S)
    try:
        return OrmQ.objects.filter(key=Conf.CLUSTER_NAME, lock__lt=long_ago).exists()
    except DatabaseError:
        connection.close()
        return False


class Command(BaseCommand):
    help = "Carries out runs and recoveries. Any number may run, on any number of hosts over one PostgreSQL."
    _watcher: "subprocess.Popen[bytes] | None" = None

    def handle(self, **_: Any) -> None:
        readers = None
        if Conf.CLUSTER_NAME != READERS:
            ensure_schedules()
            hint("backups.tasks.tick.tick")
            readers = self._start("worker", Q_CLUSTER_NAME=READERS)
            self._watcher = self._start("watch")
        forks_die_with_parents()
        connection.close()
        cluster = DrainingCluster()
        cluster.readers = readers
        cluster.start()
        self._watch(cluster)
        stop_for_certain()
        for child in (readers, self._watcher):
            if child:
                child.terminate()
                child.wait()
        os._exit(0 if DRAIN.value else 1)

    def _start(self, command: str, **environment: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, sys.argv[0], command],
            env={**os.environ, **environment},
            preexec_fn=DieWithParent(),
        )

    def _watch(self, cluster: DrainingCluster) -> None:
        looked_at = started_at = time.monotonic()
        second_tick_due = Conf.CLUSTER_NAME != READERS
        while cluster.sentinel.is_alive():
            time.sleep(0.2)
            if DRAIN.value:
                self._drain(cluster)
                return
            if cluster.readers and cluster.readers.poll() is not None:
                self._leave(cluster, "The readers have died")
            if self._watcher and self._watcher.poll() is not None:
                self._leave(cluster, "The watcher of vCenters has died")
            if second_tick_due and time.monotonic() - started_at > settings.HOTFIRST_LEASE_S + 1:
                # By now the leases of a worker that was killed just before this one started are over.
                second_tick_due = not tick_soon()
            if time.monotonic() - looked_at > DEAF_S / 3:
                looked_at = time.monotonic()
                if is_deaf(cluster):
                    self._leave(cluster, "The workers take no work any more")

    def _drain(self, cluster: DrainingCluster) -> None:
        stop_for_certain()
        cluster.stop()
        if self._watcher:
            self._watcher.terminate()
        while cluster.sentinel.is_alive():
            time.sleep(0.1)

    def _leave(self, cluster: DrainingCluster, reason: str) -> None:
        """Whoever is still at work is given the time to stop in order."""
        self.stderr.write(f"{reason}; leaving, so that all is started again.")
        DRAIN.value = 1
        deadline = time.monotonic() + STOP_S
        for child in (cluster.readers, self._watcher):
            if child:
                child.terminate()
        while time.monotonic() < deadline and (
            cluster.busy_workers() or (cluster.readers and cluster.readers.poll() is None)
        ):
            time.sleep(0.1)
        os._exit(4)
