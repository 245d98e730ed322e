"""Trouble on demand. The one place that says whether something is to go wrong; everything else asks it.

It follows `faults.json` in the state folder, which may be written at any time, or changed by `control`:

    {"create_snapshot": {"<vm name>": "what the fault says"},
     "folder_status": {"<part of the path, or *>": 500},
     "datastore_latency_ms": {"<datastore>": 50},
     "datastore_free_bytes": {"<datastore>": 0},
     "consolidation_mib_per_s": 4,
     "stun_ms_per_mib": 2,
     "missing_privileges": ["VApp.Export"],
     "calls": {"<method>": {"fault": "FileLocked", "msg": "…", "of": "<name of the object>", "times": 1, "file": "…"}},
     "tasks": {"<method>": {…}}}

`calls` fail before anything is done; `tasks` begin, and end with the fault; the task `consolidation` is the second half
of RemoveSnapshot_Task, when the snapshot has left the tree. Without `of` whatever object they are of,
without `times` every time; the rest are fields of the fault.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from pyVmomi import VmomiSupport, vim, vmodl

from vsphere.lab import wire
from vsphere.lab.state import replace_file

CONSOLIDATION_MIB_PER_S = 64.0
STUN_MS_PER_MIB = 0.5
LONGEST_STUN_S = 5.0
BY_NAME = frozenset(
    {"create_snapshot", "folder_status", "datastore_latency_ms", "datastore_free_bytes", "calls", "tasks"}
)
LISTS = frozenset({"missing_privileges"})
OWN_FIELDS = frozenset({"fault", "of", "times"})
NUMBERS = frozenset({"consolidation_mib_per_s", "stun_ms_per_mib"})


def check(wanted: Any) -> None:
    """Raises ValueError."""
    if not isinstance(wanted, dict):
        raise ValueError("Faults are a JSON object.")
    for kind, value in wanted.items():
        if kind not in BY_NAME | NUMBERS | LISTS:
            raise ValueError(f"The lab knows no fault {kind}.")
        takes, told = _shape(kind)
        if not isinstance(value, takes):
            raise ValueError(f"{kind} takes {told}.")
    for scripted in [*wanted.get("calls", {}).values(), *wanted.get("tasks", {}).values()]:
        made(scripted)


def _shape(kind: str) -> tuple[Any, str]:
    if kind in BY_NAME:
        return dict, "an object"
    return (list, "a list") if kind in LISTS else (int | float, "a number")


def made(scripted: Any) -> Any:
    """The fault of vSphere that `calls` or `tasks` ask for. Raises ValueError."""
    if not isinstance(scripted, dict) or "fault" not in scripted:
        raise ValueError("A scripted fault is an object with the name of the fault.")
    kind = getattr(vim.fault, scripted["fault"], None) or getattr(vmodl.fault, scripted["fault"], None)
    if kind is None:
        raise ValueError(f"vSphere knows no fault {scripted['fault']}.")
    needed = {
        each.name: each.type("gone-0")
        for each in kind._GetPropertyList()
        if issubclass(each.type, VmomiSupport.ManagedObject) and not each.flags & wire.OPTIONAL
    }
    try:
        return wire.filled(kind, **needed | {name: value for name, value in scripted.items() if name not in OWN_FIELDS})
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{scripted['fault']}: {error}") from error


class Faults:
    def __init__(self, path: Path, consolidation_mib_per_s: float = CONSOLIDATION_MIB_PER_S) -> None:
        self._path, self._consolidation_mib_per_s = path, consolidation_mib_per_s
        self._read: tuple[int, int] | None = None
        """Inode and time of change of what was read last."""
        self._wanted: dict[str, Any] = {}
        self._raised: Counter[tuple[str, str]] = Counter()
        """How often each of `calls` and `tasks` has come, since faults were last wanted."""

    def wanted(self) -> dict[str, Any]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return {}
        seen = (status.st_ino, status.st_mtime_ns)
        if seen != self._read:
            try:
                self._wanted = json.loads(self._path.read_text())
            except json.JSONDecodeError:  # Half-written: the next look finds the rest.
                return {}
            self._read = seen
            self._raised.clear()
        return self._wanted

    def want(self, wanted: dict[str, Any]) -> None:
        """Raises ValueError."""
        check(wanted)
        replace_file(self._path, json.dumps(wanted))

    def _of(self, kind: str) -> dict[str, Any]:
        return self.wanted().get(kind) or {}

    def before_snapshot(self, vm_name: str) -> None:
        """Raises what CreateSnapshot_Task is to fail with."""
        messages = self._of("create_snapshot")
        if vm_name in messages:
            raise vim.fault.SnapshotFault(msg=messages[vm_name])

    def before_call(self, method: str, of: str) -> None:
        self._raise("calls", method, of)

    def in_task(self, method: str, of: str) -> None:
        self._raise("tasks", method, of)

    def _raise(self, kind: str, method: str, of: str) -> None:
        scripted = self._of(kind).get(method)
        if scripted is None or scripted.get("of", of) != of:
            return
        self._raised[kind, method] += 1
        if self._raised[kind, method] <= scripted.get("times", math.inf):
            raise made(scripted)

    def missing_privileges(self) -> frozenset[str]:
        return frozenset(self.wanted().get("missing_privileges", ()))

    def folder_status(self, path: str) -> int | None:
        """The HTTP status that /folder is to answer with."""
        for part, status in self._of("folder_status").items():
            if part == "*" or part in path:
                return int(status)
        return None

    def latency_ms(self, datastore: str) -> float:
        """On top of what its traffic makes of it."""
        return float(self._of("datastore_latency_ms").get(datastore, 0))

    def free_bytes(self, datastore: str) -> int | None:
        """None: what is really free."""
        free: int | None = self._of("datastore_free_bytes").get(datastore)
        return free

    def consolidation_bytes_per_s(self) -> float:
        return float(self.wanted().get("consolidation_mib_per_s") or self._consolidation_mib_per_s) * 2**20

    def stun_s(self, delta_bytes: int) -> float:
        """How long the guest stands still when the last of a delta is merged."""
        ms_per_mib = float(self.wanted().get("stun_ms_per_mib", STUN_MS_PER_MIB))
        return min(LONGEST_STUN_S, delta_bytes / 2**20 * ms_per_mib / 1000)
