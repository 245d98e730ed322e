"""Waiting for vCenter's tasks: many at once, bounded, and over lost sessions."""

import time
from collections.abc import Sequence
from typing import Any

from pyVmomi import vim, vmodl

from backups.errors import PlatformError, PlatformUnreachable
from vsphere.properties import Collector, read_many, refuse_dead_session
from vsphere.session import Session

POLL_S = 20
MAX_FAILURES = 6
"""Network errors in a row before the wait is given up; each one has waited for the session's time-out or a pause."""
PATHS = ["info.state", "info.error", "info.result"]
FINAL = ("success", "error")


def wait(session: Session, task: Any, timeout_s: float) -> Any:
    """The task's result; raises its fault."""
    outcome = wait_all(session, [task], timeout_s)[task._moId]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def wait_all(session: Session, tasks: Sequence[Any], timeout_s: float) -> dict[str, Any]:
    """By task ref: the result, or the fault it ended with, or PlatformError if it did not end in time."""
    watch = _Watch(session, [task._moId for task in tasks])
    deadline = time.monotonic() + timeout_s
    failures = 0
    while watch.open_refs and time.monotonic() < deadline:
        try:
            watch.follow(min(POLL_S, deadline - time.monotonic()))
            failures = 0
        except (vmodl.query.InvalidCollectorVersion, vmodl.fault.RequestCanceled, vim.fault.NotAuthenticated):
            failures += 1
        except vmodl.fault.ManagedObjectNotFound as fault:
            failures += not watch.lost(getattr(fault.obj, "_moId", None))
        except PlatformUnreachable:
            failures += 1
            if failures >= MAX_FAILURES:
                raise
            time.sleep(min(failures, 5))
        if failures >= MAX_FAILURES:
            raise PlatformUnreachable("vCenter keeps ending the session while a task runs; it is tried again later.")
    return watch.outcomes | {ref: _late(timeout_s) for ref in watch.open_refs}


def running(session: Session, vm_ref: str, descriptions: frozenset[str]) -> list[Any]:
    """Tasks on the VM that have not ended. `descriptions`: their descriptionId in lower case."""
    recent = read_many(session, vim.VirtualMachine, [vm_ref], "recentTask").get(vm_ref, {}).get("recentTask", [])
    infos = read_many(session, vim.Task, [task._moId for task in recent], "info.state", "info.descriptionId")
    return [
        vim.Task(ref)
        for ref, info in infos.items()
        if str(info.get("info.descriptionId")).lower() in descriptions and info.get("info.state") not in FINAL
    ]


class _Watch:
    """A private collector on the tasks' leaves; it is made anew in each session."""

    def __init__(self, session: Session, refs: Sequence[str]) -> None:
        self._session = session
        self.open_refs = set(refs)
        self.outcomes: dict[str, Any] = {}
        self._states: dict[str, dict[str, Any]] = {}

    def follow(self, wait_s: float) -> None:
        """Until all have ended or `wait_s` have passed without news."""
        self._session.call(lambda stub: self._follow(stub, max(1, int(wait_s))), tries=2)

    def _follow(self, stub: Any, wait_s: int) -> None:
        if not self.open_refs:
            return  # the session was lost after the last one had ended
        shared = Collector(self._session.content.propertyCollector._moId, stub)
        collector = shared.CreatePropertyCollector()
        collector.CreateFilter(self._filter(stub), False)
        version = ""
        while self.open_refs:
            update = collector.WaitForUpdatesEx(version, Collector.WaitOptions(maxWaitSeconds=wait_s))
            if update is None:
                break
            version = update.version
            self._take(update)
        collector.DestroyPropertyCollector()

    def _filter(self, stub: Any) -> Any:
        return Collector.FilterSpec(
            objectSet=[Collector.ObjectSpec(obj=vim.Task(ref, stub)) for ref in sorted(self.open_refs)],
            propSet=[Collector.PropertySpec(type=vim.Task, pathSet=PATHS)],
        )

    def _take(self, update: Any) -> None:
        for change in (each for part in update.filterSet for each in part.objectSet):
            refuse_dead_session(change.missingSet)
            state = self._states.setdefault(change.obj._moId, {})
            state.update({c.name: c.val for c in change.changeSet})
            if state.get("info.state") in FINAL:
                self._end(change.obj._moId, state)

    def _end(self, ref: str, state: dict[str, Any]) -> None:
        failed = state["info.state"] == "error"
        outcome = state.get("info.error") or PlatformError("vCenter's task failed and does not say why.")
        self.outcomes[ref] = outcome if failed else state.get("info.result")
        self.open_refs.discard(ref)

    def lost(self, ref: str | None) -> bool:
        """True if it was a task that vanished, not our collector with its session."""
        if ref is None or ref not in self.open_refs:
            return False
        self.open_refs.discard(ref)
        self.outcomes[ref] = PlatformUnreachable("vCenter no longer knows the task; it may have restarted.")
        return True


def _late(timeout_s: float) -> PlatformError:
    return PlatformError(f"vCenter has not ended its task within {timeout_s / 60:.0f} minutes; look at its tasks.")
