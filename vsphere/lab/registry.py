"""The managed objects of one lab, who watches them, and the base class that serves their properties and methods."""

import threading
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

from pyVmomi import VmomiSupport

from vsphere.lab import wire


class Watcher(Protocol):
    """Told, with the lock held, that something it watches may look different now."""

    def wake(self) -> None: ...


class Registry:
    """`lock` guards the inventory: properties are read and objects change under it. A disk's lock may be taken
    inside it, never the other way round."""

    def __init__(self, incarnation: int) -> None:
        self.lock = threading.RLock()
        self.objects: dict[str, Managed] = {}
        self.generation = 0
        self.tree_watchers: set[Watcher] = set()
        # Ids are never used again, also not after a restart.
        self._serial = incarnation * 100_000

    def next_serial(self) -> int:
        with self.lock:
            self._serial += 1
            return self._serial

    def add(self, managed: "Managed") -> None:
        with self.lock:
            self.objects[managed.moid] = managed
            self.touch(managed)
            if managed.in_tree:
                self._wake(self.tree_watchers)

    def remove(self, managed: "Managed") -> None:
        with self.lock:
            self.objects.pop(managed.moid, None)
            self.touch(managed)
            if managed.in_tree:
                self._wake(self.tree_watchers)

    def touch(self, *changed: "Managed") -> None:
        with self.lock:
            for managed in changed:
                self.generation += 1
                managed.changed_at = self.generation
                self._wake(managed.watchers)

    @staticmethod
    def _wake(watchers: Iterable[Watcher]) -> None:
        for watcher in tuple(watchers):
            watcher.wake()

    def get(self, ref: Any) -> "Managed | None":
        return self.objects.get(ref._moId)

    def find(self, ref: Any) -> Any:
        """Raises ManagedObjectNotFound."""
        found = self.objects.get(ref._moId)
        if found is None:
            raise wire.gone(ref)
        return found


class Managed:
    """Serves the property `name` by its method `p_name`, and the SOAP method `Name` by its method `Name`."""

    wsdl: ClassVar[Any] = VmomiSupport.ManagedObject
    in_tree: ClassVar[bool] = False
    """A part of the inventory, so that traversals and views may lead to it."""

    def __init__(self, registry: Registry, moid: str) -> None:
        self.registry = registry
        self.moid = moid
        self.ref = self.wsdl(moid)
        self.changed_at = 0
        self.watchers: set[Watcher] = set()
        registry.add(self)

    def get(self, path: str) -> Any:
        """A property by its path, of the declared type. Raises AttributeError for one that does not exist."""
        head, *rest = path.split(".")
        info = self.wsdl._GetPropertyInfo(head)
        served = getattr(self, "p_" + head, None)
        value = served() if served else None
        for name in rest:
            info = (type(value) if value is not None else info.type)._GetPropertyInfo(name)
            value = None if value is None else getattr(value, name)
        return wire.as_declared(info.type, value)

    def served_properties(self) -> list[str]:
        return [info.name for info in self.wsdl._GetPropertyList() if hasattr(self, "p_" + info.name)]

    def children(self) -> "list[Managed]":
        return []


def refs(objects: "Iterable[Managed]") -> list[Any]:
    return [managed.ref for managed in objects]
