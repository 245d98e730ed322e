import os
import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand

from backups.tasks.watch import watch_all


class Command(BaseCommand):
    help = "Follows what changes in every vCenter. Each worker starts one of its own; for each vCenter one is at work."

    def handle(self, **_: Any) -> None:
        stopped = threading.Event()
        # In a thread: the handler runs in the main one, and must not meet a lock that it holds itself.
        told = threading.Thread(target=_wait_for_the_end, args=(stopped,), daemon=True)
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        told.start()
        watch_all(stopped)
        os._exit(0)  # a thread that hangs must not keep the process


ENDS = {signal.SIGTERM, signal.SIGINT}


def _wait_for_the_end(stopped: threading.Event) -> None:
    signal.sigwait(ENDS)
    stopped.set()
