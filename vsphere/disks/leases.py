"""HttpNfcLease from the client's side: waited for, kept alive, and always completed or given up."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from pyVmomi import vim, vmodl

from backups.errors import PlatformError, PlatformUnreachable
from vsphere.properties import read
from vsphere.session import Session

READY_TIMEOUT_S = 600
LONGEST_POLL_S = 1.0
BUSY_PAUSES_S = (0.5, 1, 2, 4)
MOST_BETWEEN_SIGNS_S = 60
log = logging.getLogger(__name__)


class LeaseLost(PlatformUnreachable):
    """Its session ended, and a lease ends with it."""

    def __init__(self) -> None:
        super().__init__("vCenter ended the session while it carried the VM's disks; it is tried again later.")


class HeldLease:
    """Belongs to the session that it was made in: if that is lost, so is the lease, but not a transfer that is under
    way. Close it."""

    def __init__(self, session: Session, request: Callable[[Any], Any]) -> None:
        """`request` is given the stub and asks for the lease. It is not sent twice: a lease that nobody knows of would
        hold the VM until its time runs out. Raises vSphere's faults and PlatformUnreachable."""
        self._session = session
        self._ref: str = self._asked_for(request)._moId
        self._closed = threading.Event()
        self.percent = 0
        """Of the transfer, as vCenter is told."""
        try:
            self._wait()
            self.info: Any = self._read("info")
        except BaseException:
            self.close(completed=False)
            raise
        self._signs = threading.Thread(target=self._keep_alive, name=f"lease {self._ref}", daemon=True)
        self._signs.start()

    def _asked_for(self, request: Callable[[Any], Any]) -> Any:
        """The VM may be busy for a moment: with the end of another lease, or another's task."""
        for pause_s in BUSY_PAUSES_S:
            try:
                return self._session.call(request, repeatable=False)
            except vim.fault.TaskInProgress:
                time.sleep(pause_s)
        return self._session.call(request, repeatable=False)

    def _wait(self) -> None:
        deadline, pause_s = time.monotonic() + READY_TIMEOUT_S, 0.02
        while (state := self._read("state")) == "initializing":
            if time.monotonic() > deadline:
                raise PlatformUnreachable(
                    "vCenter does not get ready to carry the VM's disks; it is tried again later."
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_POLL_S)
        if state != "ready":
            raise self._read("error") or vmodl.fault.SystemError(msg=f"The lease is {state}.")

    def _read(self, name: str) -> Any:
        try:
            return read(self._session, vim.HttpNfcLease, self._ref, name).get(name)
        except vmodl.fault.ManagedObjectNotFound as fault:
            raise LeaseLost() from fault

    def _keep_alive(self) -> None:
        """Four signs of life in the time that the lease has."""
        pause_s = min(self.info.leaseTimeout / 4, MOST_BETWEEN_SIGNS_S)
        while not self._closed.wait(pause_s):
            try:
                self._call(lambda lease: lease.Progress(self.percent))
            except (vmodl.MethodFault, PlatformError) as error:
                if not self._closed.is_set():
                    log.warning("the lease %s is lost: %s", self._ref, error)
                return

    def _call(self, request: Callable[[Any], None]) -> None:
        self._session.call(lambda stub: request(vim.HttpNfcLease(self._ref, stub)))

    def complete(self) -> None:
        """Raises LeaseLost, or what vCenter says."""
        self._closed.set()
        try:
            self._call(lambda lease: lease.Complete())
        except vmodl.fault.ManagedObjectNotFound as fault:
            raise LeaseLost() from fault

    def close(self, *, completed: bool) -> None:
        """Lets the VM go; a lease that was lost has let go of it already."""
        if self._closed.is_set():
            return
        self._closed.set()
        try:
            self._call(lambda lease: lease.Complete() if completed else lease.Abort())
        except (vmodl.MethodFault, PlatformError) as error:
            log.info("the lease %s had ended: %s", self._ref, error)
