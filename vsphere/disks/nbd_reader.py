"""Disks over NBD: which export is which disk, by the operator's template, and readers that outlive a connection."""

import os
import threading
import time
from typing import Self
from urllib.parse import quote

from backups.errors import DiskUnreadable
from backups.platform import Disk, Snapshot
from vsphere.disks.nbd import Address, Broken, Connection

SETTING = "HOTFIRST_NBD"
TIMEOUT_S = 60
TRIES = 3
PAUSE_S = 0.5


def template() -> str:
    """An address with `{vm}`, `{snapshot}` (vCenter's ids), `{disk}` (the device's key) and `{path}` (the disk's file,
    as `[datastore] folder/name.vmdk`) in it; empty if no NBD server is run."""
    return os.environ.get(SETTING, "")


def open_disk(pattern: str, snapshot: Snapshot, disk: Disk, why: str) -> "NbdReader":
    """Raises DiskUnreadable."""
    fields = {"vm": snapshot.vm_ref, "snapshot": snapshot.ref, "disk": str(disk.key), "path": disk.path}
    try:
        address = Address.parse(pattern.format_map({name: quote(value, safe="") for name, value in fields.items()}))
    except (ValueError, KeyError) as error:
        raise DiskUnreadable(f"the setting {SETTING} makes no address for it") from error
    return NbdReader(address, disk.capacity_bytes, why)


class NbdReader:
    transport = "nbd"

    def __init__(self, address: Address, capacity_bytes: int, reason: str, timeout_s: float = TIMEOUT_S) -> None:
        """Raises DiskUnreadable if there is no such disk of that size."""
        self._address, self._timeout_s = address, timeout_s
        self.capacity_bytes, self.transport_reason = capacity_bytes, reason
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self.read(0, min(1, capacity_bytes))

    def read(self, start: int, length: int) -> bytes:
        if start < 0 or length < 0 or start + length > self.capacity_bytes:
            raise DiskUnreadable(f"Bytes {start} to {start + length} lie outside the disk.")
        failures = 0
        while True:
            connection = None
            try:
                connection = self._connected()
                return connection.read(start, length) if length else b""
            except Broken as error:
                self._drop(connection)
                failures += 1
                if failures == TRIES:
                    raise DiskUnreadable(f"The NBD server cannot be reached ({error}).") from error
                time.sleep(PAUSE_S * failures)

    def _connected(self) -> Connection:
        with self._lock:
            if self._connection is None:
                made = Connection(self._address, self._timeout_s)
                if made.size != self.capacity_bytes:
                    made.close()
                    raise DiskUnreadable(f"the NBD export has {made.size} bytes, the disk {self.capacity_bytes}")
                self._connection = made
            return self._connection

    def _drop(self, broken: Connection | None) -> None:
        """Unless another thread was first."""
        with self._lock:
            if broken is not None and self._connection is broken:
                self._connection = None
                broken.close()

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
