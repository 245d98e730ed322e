"""Trouble on demand. The one place that says whether something is to go wrong; everything else asks it.

It follows `faults.json` in the state folder, which may be written at any time:

    {"create_snapshot": {"<vm name>": "what the fault says"},
     "folder_status": {"<part of the path, or *>": 500},
     "datastore_latency_ms": {"<datastore>": 50},
     "consolidation_mib_per_s": 4}
"""

import json
import time
from pathlib import Path
from typing import Any

from pyVmomi import vim

CONSOLIDATION_MIB_PER_S = 64


class Faults:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at_ns = -1
        self._wanted: dict[str, Any] = {}

    def _current(self, kind: str) -> Any:
        try:
            changed_at_ns = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        if changed_at_ns != self._read_at_ns:
            try:
                self._wanted = json.loads(self._path.read_text())
            except json.JSONDecodeError:  # Half-written: the next look finds the rest.
                return None
            self._read_at_ns = changed_at_ns
        return self._wanted.get(kind)

    def before_snapshot(self, vm_name: str) -> None:
        """Raises what CreateSnapshot_Task is to fail with."""
        messages = self._current("create_snapshot") or {}
        if vm_name in messages:
            raise vim.fault.SnapshotFault(msg=messages[vm_name])

    def folder_status(self, path: str) -> int | None:
        """The HTTP status that /folder is to answer with."""
        for part, status in (self._current("folder_status") or {}).items():
            if part == "*" or part in path:
                return int(status)
        return None

    def delay(self, datastore: str) -> None:
        """Before every access of a backup to a datastore."""
        latency_ms = (self._current("datastore_latency_ms") or {}).get(datastore, 0)
        if latency_ms:
            time.sleep(latency_ms / 1000)

    def consolidation_bytes_per_s(self) -> float:
        return float(self._current("consolidation_mib_per_s") or CONSOLIDATION_MIB_PER_S) * 2**20
