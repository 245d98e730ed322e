"""Tasks: work in a thread of its own, told through TaskInfo."""

import copy
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from pyVmomi import VmomiSupport, vim, vmodl

from vsphere.lab import wire
from vsphere.lab.faults import Faults
from vsphere.lab.registry import Managed, Registry

KEPT_S = 600
log = logging.getLogger(__name__)


class Task(Managed):
    wsdl = vim.Task

    def __init__(self, registry: Registry, method: str, entity: Managed, entity_name: str) -> None:
        moid = f"task-{registry.next_serial()}"
        self.info = vim.TaskInfo(
            key=moid,
            task=vim.Task(moid),
            name=VmomiSupport.GetWsdlMethod("urn:vim25", method),
            descriptionId=f"{type(entity).wsdl.__name__.rpartition('.')[2]}.{method.removesuffix('_Task')}",
            entity=entity.ref,
            entityName=entity_name,
            state="queued",
            cancelled=False,
            cancelable=False,
            reason=vim.TaskReasonUser(userName="lab"),
            queueTime=wire.now(),
            eventChainId=registry.next_serial(),
        )
        self.ended_at: float | None = None
        super().__init__(registry, moid)

    def p_info(self) -> Any:
        # A copy, because it is serialised after the lock is let go.
        return copy.copy(self.info)

    def progress(self, percent: int) -> None:
        self._change(progress=max(0, min(100, percent)))

    def _change(self, **values: Any) -> None:
        with self.registry.lock:
            for name, value in values.items():
                setattr(self.info, name, value)
            self.registry.touch(self)

    def run(self, work: "Callable[[Task], Any]") -> None:
        self._change(state="running", startTime=wire.now())
        try:
            result = work(self)
        except vmodl.MethodFault as fault:
            self._end(state="error", error=fault)
        except Exception as error:
            log.exception("%s failed", self.info.descriptionId)
            self._end(state="error", error=vmodl.fault.SystemError(reason=repr(error), msg=repr(error)))
        else:
            self._end(state="success", result=result, progress=100)

    def _end(self, **values: Any) -> None:
        self.ended_at = time.monotonic()
        self._change(completeTime=wire.now(), **values)


class Tasks:
    def __init__(self, registry: Registry, faults: Faults) -> None:
        self.registry, self._faults = registry, faults
        self._tasks: list[Task] = []
        self._threads: set[threading.Thread] = set()

    def start(self, method: str, entity: Managed, entity_name: str, work: Callable[[Task], Any]) -> Any:
        """The reference of the new task, which is done by `work`."""
        self._forget_old()
        task = Task(self.registry, method, entity, entity_name)

        def tried(task: Task) -> Any:
            self._faults.in_task(method, entity_name)
            return work(task)

        thread = threading.Thread(target=self._run, args=(task, tried), daemon=True, name=task.moid)
        with self.registry.lock:
            self._tasks.append(task)
            self._threads.add(thread)
        thread.start()
        return task.ref

    def _run(self, task: Task, work: Callable[[Task], Any]) -> None:
        task.run(work)
        with self.registry.lock:
            self._threads.discard(threading.current_thread())

    def _forget_old(self) -> None:
        with self.registry.lock:
            limit = time.monotonic() - KEPT_S
            while self._tasks and (self._tasks[0].ended_at or limit) < limit:
                self.registry.remove(self._tasks.pop(0))

    def join(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        for thread in tuple(self._threads):
            thread.join(max(0, deadline - time.monotonic()))
