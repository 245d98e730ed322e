"""The inventory, followed: everything once, then what vCenter tells of changes, merged into what is known."""

import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Any
from uuid import uuid4

from pyVmomi import vim, vmodl

from backups.differences import difference
from backups.errors import PlatformUnreachable
from backups.platform import Inventory, InventoryChange
from vsphere import tags
from vsphere.inventory import PATHS, Mirror, compact
from vsphere.properties import PAGE_OBJECTS, Collector, Found, container_view, in_view, refuse_dead_session
from vsphere.session import Session

POLL_S = 20.0
TAGS_S = 60.0
LOST = (
    vmodl.query.InvalidCollectorVersion,
    vmodl.fault.ManagedObjectNotFound,
    vmodl.fault.RequestCanceled,
    vim.fault.NotAuthenticated,
)
"""The collector has gone with its session, or has lost count."""


class InventoryWatch:
    """One collector, in the session that it was made in. May be used from several threads, one at a time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._collector_ref = self._collector_version = self._told_version = ""
        self._mirror = Mirror("")
        self._told: Inventory | None = None
        self._tags: dict[str, tuple[str, ...]] = {}
        self._tags_read_at = 0.0
        self._untold = False
        """Whether the mirror holds news that no call has told: reading tags may fail after them."""

    def next(self, since: str | None, wait_s: float) -> InventoryChange:
        with self._lock:
            if since is None or since != self._told_version or self._told is None:
                return self._everything()
            try:
                return self._change(self._told, wait_s)
            except LOST:
                return self._everything()

    def _everything(self) -> InventoryChange:
        self._session.call(self._begin)
        self._read_tags()
        seen = self._mirror.inventory(self._tags)
        return self._tell(InventoryChange(version=uuid4().hex, full=True, seen=seen), seen)

    def _change(self, told: Inventory, wait_s: float) -> InventoryChange:
        deadline = time.monotonic() + wait_s
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            self._untold |= self._session.call(partial(self._updates, wait_s=min(left_s, POLL_S)))
            if time.monotonic() - self._tags_read_at > TAGS_S:
                self._untold |= self._read_tags()
            now = self._mirror.inventory(self._tags) if self._untold else told
            change = difference(told, now, self._told_version)
            if not change.is_empty:
                return self._tell(replace(change, version=uuid4().hex), now)
            self._untold = False
            if left_s <= 0:
                return change

    def _tell(self, change: InventoryChange, now: Inventory) -> InventoryChange:
        self._told, self._told_version, self._untold = now, change.version, False
        return change

    def _read_tags(self) -> bool:
        """Whether they differ from those before."""
        before, self._tags = self._tags, tags.read(self._session)
        self._tags_read_at = time.monotonic()
        return before != self._tags

    def _begin(self, stub: Any) -> None:
        self._end(stub)
        collector = Collector(self._session.content.propertyCollector._moId, stub).CreatePropertyCollector()
        view = container_view(self._session, stub, list(PATHS))
        collector.CreateFilter(in_view(view, PATHS), False)
        self._collector_ref, self._collector_version = collector._moId, ""
        self._mirror = Mirror(self._session.content.about.instanceUuid)
        if not self._updates(stub, POLL_S):
            # Taken for an answer, it would say that everything has gone.
            raise PlatformUnreachable("vCenter does not tell its inventory at the moment; it is tried again later.")

    def _end(self, stub: Any) -> None:
        """vCenter keeps only so many collectors in a session."""
        ref, self._collector_ref = self._collector_ref, ""
        if ref:
            try:
                Collector(ref, stub).DestroyPropertyCollector()
            except vmodl.fault.ManagedObjectNotFound:
                return

    def _updates(self, stub: Any, wait_s: float) -> bool:
        """Takes what there is, waiting for it at first; whether there was anything."""
        collector, news = Collector(self._collector_ref, stub), False
        while True:
            options = Collector.WaitOptions(maxWaitSeconds=ceil(wait_s), maxObjectUpdates=PAGE_OBJECTS)
            update = collector.WaitForUpdatesEx(self._collector_version, options)
            if update is None:
                return news
            for each in update.filterSet:
                self._take(each.objectSet)
            self._collector_version, news = update.version, True
            if not update.truncated:
                return news
            wait_s = 0

    def _take(self, updates: Iterable[Any]) -> None:
        for each in updates:
            refuse_dead_session(each.missingSet)
            if each.kind == "leave":
                self._mirror.drop(each.obj._moId)
            else:
                values = {change.name: change.val for change in each.changeSet}
                self._mirror.take(compact(Found(type(each.obj), each.obj._moId, values)))
