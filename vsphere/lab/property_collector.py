"""PropertyCollector: one-off reads, paged, and filters that report what changed."""

import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from pyVmomi import vmodl

from vsphere.lab import selecting, wire
from vsphere.lab.registry import Managed, Registry

if TYPE_CHECKING:
    from vsphere.lab.sessions import Call

PropertyCollector = vmodl.query.PropertyCollector
LONGEST_WAIT_S = 1800


class CollectorState:
    """A session's filters and what it has been told. Wakes when something it watches changes."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.filters: list[Filter] = []
        self.version = 0
        self.pages: dict[str, tuple[list[Any], int]] = {}
        self._changed = threading.Condition(registry.lock)
        self.cancelled = False
        self.ended: Any = None
        """The fault that everybody who waits gets, once it is closed."""

    def wake(self) -> None:
        self._changed.notify_all()

    def close(self, fault: Any) -> None:
        with self.registry.lock:
            for held in tuple(self.filters):
                held.dispose()
            self.ended = fault
            self.wake()

    def cancel(self) -> None:
        with self.registry.lock:
            self.cancelled = True
            self.wake()

    def page(self, objects: list[Any], size: int | None) -> Any:
        if not size or len(objects) <= size:
            return PropertyCollector.RetrieveResult(objects=objects)
        token = uuid.uuid4().hex
        self.pages[token] = (objects[size:], size)
        return PropertyCollector.RetrieveResult(objects=objects[:size], token=token)

    def wait(self, version: str | None, wait_s: float, max_updates: int) -> Any:
        deadline = time.monotonic() + wait_s
        with self.registry.lock:
            self.cancelled = False
            if not version:
                for held in self.filters:
                    held.forget()
            elif version != str(self.version):
                raise vmodl.query.InvalidCollectorVersion(msg="This is not the last version that was sent.")
            while True:
                if self.ended:
                    raise self.ended
                if self.cancelled:
                    raise vmodl.fault.RequestCanceled(msg="The wait was cancelled.")
                changes = self._changes(max_updates)
                if changes is not None:
                    return changes
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)

    def _changes(self, max_updates: int) -> Any:
        updates, truncated = [], False
        for held in self.filters:
            found, more = held.changes(max_updates)
            truncated |= more
            if found:
                updates.append(PropertyCollector.FilterUpdate(filter=held.ref, objectSet=found))
        if not updates:
            return None
        self.version += 1
        return PropertyCollector.UpdateSet(version=str(self.version), filterSet=updates, truncated=truncated)


class Filter(Managed):
    wsdl = PropertyCollector.Filter

    def __init__(self, state: CollectorState, spec: Any, partial: bool) -> None:
        self.state, self.spec, self.partial = state, spec, partial
        self.told: dict[str, dict[str, str]] = {}
        """Per object the XML of each property last reported."""
        self.read_at: dict[str, int] = {}
        self.refs: dict[str, Any] = {}
        self.selection: selecting.Selection | None = None
        super().__init__(state.registry, f"session[{uuid.uuid4()}]")

    def p_spec(self) -> Any:
        return self.spec

    def p_partialUpdates(self) -> bool:
        return self.partial

    def DestroyPropertyFilter(self, call: "Call") -> None:
        self.dispose()

    def dispose(self) -> None:
        with self.registry.lock:
            if self in self.state.filters:
                self.state.filters.remove(self)
            self._watch({})
            self.registry.tree_watchers.discard(self)
            self.registry.remove(self)

    def wake(self) -> None:
        self.state.wake()

    def forget(self) -> None:
        self.told, self.read_at, self.refs = {}, {}, {}

    def _select(self) -> selecting.Selection:
        if self.selection is None or selecting.follows_paths(self.spec):
            try:
                selection = selecting.select(self.registry, self.spec)
            except vmodl.fault.ManagedObjectNotFound:
                selection = {}
            self._watch(selection)
            self.selection = selection
            if selecting.follows_paths(self.spec):
                self.registry.tree_watchers.add(self)
        return {moid: paths for moid, paths in self.selection.items() if moid in self.registry.objects}

    def _watch(self, selection: selecting.Selection) -> None:
        for moid in (self.selection or {}).keys() - selection.keys():
            if moid in self.registry.objects:
                self.registry.objects[moid].watchers.discard(self)
        for moid in selection:
            self.registry.objects[moid].watchers.add(self)

    def changes(self, limit: int) -> tuple[list[Any], bool]:
        """At most `limit` objects' changes since they were last told, and whether there are more."""
        selection = self._select()
        updates = [self._left(moid) for moid in self.told.keys() - selection.keys()]
        for moid, paths in selection.items():
            managed = self.registry.objects[moid]
            if self.read_at.get(moid) == managed.changed_at:
                continue
            if len(updates) >= limit:
                return updates, True
            self.read_at[moid] = managed.changed_at
            update = self._compared(managed, paths)
            if update is not None:
                updates.append(update)
        return updates, False

    def _left(self, moid: str) -> Any:
        del self.told[moid]
        self.read_at.pop(moid, None)
        return PropertyCollector.ObjectUpdate(kind="leave", obj=self.refs.pop(moid))

    def _compared(self, managed: Managed, paths: list[str]) -> Any:
        now = selecting.values(managed, paths)
        before = self.told.get(managed.moid)
        xml = {name: wire.dump(value, "v", object) for name, value in now.items()}
        self.told[managed.moid] = xml
        self.refs[managed.moid] = managed.ref
        known = before or {}
        changes = [
            PropertyCollector.Change(name=name, op="assign", val=now[name])
            for name in xml
            if known.get(name) != xml[name]
        ]
        changes += [PropertyCollector.Change(name=name, op="assign") for name in known if name not in xml]
        if before is not None and not changes:
            return None
        kind = "enter" if before is None else "modify"
        return PropertyCollector.ObjectUpdate(kind=kind, obj=managed.ref, changeSet=changes)


class Collector(Managed):
    """The service's own collector keeps its state per session; those made by CreatePropertyCollector have one."""

    wsdl = PropertyCollector

    def __init__(self, registry: Registry, moid: str, state: CollectorState | None = None) -> None:
        self._own_state = state
        super().__init__(registry, moid)

    def _state(self, call: "Call") -> CollectorState:
        if self._own_state is not None:
            return self._own_state
        if call.session is None:
            raise wire.not_authenticated(self.ref)
        return call.session.collector

    def p_filter(self) -> list[Any]:
        return [held.ref for held in self._own_state.filters] if self._own_state else []

    def RetrievePropertiesEx(self, call: "Call", specSet: list[Any], options: Any = None) -> Any:
        objects = self.RetrieveProperties(call, specSet)
        if call.session is None:
            return PropertyCollector.RetrieveResult(objects=objects)
        return self._state(call).page(objects, options.maxObjects if options else None) if objects else None

    def RetrieveProperties(self, call: "Call", specSet: list[Any]) -> list[Any]:
        if call.session is None:
            return selecting.unauthenticated_content(specSet)
        with self.registry.lock:
            return [
                selecting.content(self.registry.objects[moid], paths)
                for spec in specSet
                for moid, paths in selecting.select(self.registry, spec).items()
            ]

    def ContinueRetrievePropertiesEx(self, call: "Call", token: str) -> Any:
        state = self._state(call)
        if token not in state.pages:
            raise vmodl.fault.InvalidArgument(invalidProperty="token", msg="This token has been used or is unknown.")
        return state.page(*state.pages.pop(token))

    def CancelRetrievePropertiesEx(self, call: "Call", token: str) -> None:
        self._state(call).pages.pop(token, None)

    def CreateFilter(self, call: "Call", spec: Any, partialUpdates: bool) -> Any:
        with self.registry.lock:
            selecting.select(self.registry, spec)  # Raises now rather than at the first wait.
            state = self._state(call)
            made = Filter(state, spec, partialUpdates)
            state.filters.append(made)
        return made.ref

    def CreatePropertyCollector(self, call: "Call") -> Any:
        if call.session is None:
            raise wire.not_authenticated(self.ref)
        state = CollectorState(self.registry)
        made = Collector(self.registry, f"session[{call.session.key}]{uuid.uuid4()}", state)
        call.session.owned.append(made)
        return made.ref

    def DestroyPropertyCollector(self, call: "Call") -> None:
        if self._own_state is None:
            raise vmodl.fault.NotSupported(msg="The service's own collector stays.")
        if call.session and self in call.session.owned:
            call.session.owned.remove(self)
        self._own_state.close(wire.gone(self.ref))
        self.registry.remove(self)

    def dispose(self) -> None:
        """Its session has ended."""
        if self._own_state is not None:
            self._own_state.close(wire.not_authenticated(self.ref))
            self.registry.remove(self)

    def WaitForUpdatesEx(self, call: "Call", version: str | None = None, options: Any = None) -> Any:
        wait_s = options.maxWaitSeconds if options and options.maxWaitSeconds is not None else LONGEST_WAIT_S
        limit = options.maxObjectUpdates if options and options.maxObjectUpdates else 100_000
        return self._state(call).wait(version, wait_s, limit)

    def WaitForUpdates(self, call: "Call", version: str | None = None) -> Any:
        return self.WaitForUpdatesEx(call, version)

    def CheckForUpdates(self, call: "Call", version: str | None = None) -> Any:
        return self._state(call).wait(version, 0, 100_000)

    def CancelWaitForUpdates(self, call: "Call") -> None:
        self._state(call).cancel()
