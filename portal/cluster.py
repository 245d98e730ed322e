"""django-q2's cluster, made safe for kill -9: no orphaned children, no lock held by the dead, a bounded stop, and a way
to tell whether it still takes work."""

import ctypes
import fcntl
import mmap
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Self

import django_q.cluster
from django_q.conf import Conf
from django_q.queues import Queue
from django_q.signals import post_execute_in_worker, post_spawn, pre_execute

from backups.leases import DRAIN

PR_SET_PDEATHSIG = 1
MOST_PIDS = 2**22
"""The largest process id that Linux gives."""

_busy = mmap.mmap(-1, MOST_PIDS)
"""Shared by all forks: a byte for each process, 1 while it does a task. Only the pages in use take memory."""
_begun_at = multiprocessing.get_context("fork").Value("d", time.monotonic(), lock=False)


class KernelLock:
    """Released by the kernel when its holder dies. A semaphore is not: an idle worker waits for work with the queue's
    lock in its hand, and one that is killed there leaves all others waiting for ever (django-q2 issue 23)."""

    def __init__(self) -> None:
        self._file = os.memfd_create("lock")

    def acquire(self) -> bool:
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class KillProofQueue(Queue):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rlock, self._wlock = KernelLock(), KernelLock()


class DrainingCluster(django_q.cluster.Cluster):
    """SIGTERM only says that it is to stop. `stop` is called outside of the handler, which may have interrupted
    anything, and never waits for locks that a killed sentinel took along."""

    readers: "subprocess.Popen[bytes] | None" = None

    def start(self) -> int:
        django_q.cluster.Queue = KillProofQueue
        pre_execute.connect(_begin)
        post_execute_in_worker.connect(_end)
        post_spawn.connect(_end)
        pid: int = super().start()
        return pid

    def sig_handler(self, *_: object) -> None:
        DRAIN.value = 1

    def stop(self) -> None:
        threading.Thread(target=self.stop_event.set, daemon=True).start()
        if self.readers:
            self.readers.terminate()

    def busy_workers(self) -> int:
        return sum(_busy[child] for child in children(self.sentinel.pid))

    def has_idle_workers(self) -> bool:
        return self.busy_workers() < Conf.WORKERS

    @staticmethod
    def began_nothing_for_s() -> float:
        return time.monotonic() - _begun_at.value


def _begin(**_: Any) -> None:
    _busy[os.getpid()] = 1
    _begun_at.value = time.monotonic()


def _end(**_: Any) -> None:
    _busy[os.getpid()] = 0


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


class DieWithParent:
    """Called in a child. Nothing is left of a worker whose main process was killed, also of one killed just now."""

    def __init__(self) -> None:
        self.parent = os.getpid()

    def note(self) -> None:
        self.parent = os.getpid()

    def __call__(self) -> None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.parent:
            os._exit(1)


def forks_die_with_parents() -> None:
    death = DieWithParent()
    os.register_at_fork(before=death.note, after_in_child=death)
