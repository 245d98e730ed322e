"""ContainerView and ListView."""

import uuid
from typing import Any

from pyVmomi import vim

from vsphere.lab import wire
from vsphere.lab.registry import Managed, Registry, refs
from vsphere.lab.sessions import Call, Session


class View(Managed):
    session: Session

    def DestroyView(self, call: Call) -> None:
        self.session.owned.remove(self)
        self.dispose()

    def dispose(self) -> None:
        self.registry.remove(self)


class ContainerView(View):
    wsdl = vim.view.ContainerView

    def __init__(self, session: Session, container: Managed, types: tuple[Any, ...], recursive: bool) -> None:
        self.session, self.container, self.types, self.recursive = session, container, types, recursive
        super().__init__(container.registry, f"session[{session.key}]{uuid.uuid4()}")

    def p_container(self) -> Any:
        return self.container.ref

    def p_recursive(self) -> bool:
        return self.recursive

    def p_view(self) -> list[Any]:
        found: dict[str, Any] = {}
        waiting = list(self.container.children())
        seen = set()
        while waiting:
            managed = waiting.pop()
            if managed.moid in seen:
                continue
            seen.add(managed.moid)
            if not self.types or isinstance(managed.ref, self.types):
                found[managed.moid] = managed.ref
            if self.recursive:
                waiting.extend(managed.children())
        return list(found.values())


class ListView(View):
    wsdl = vim.view.ListView

    def __init__(self, session: Session, registry: Registry, members: list[Managed]) -> None:
        self.session, self.members = session, members
        super().__init__(registry, f"session[{session.key}]{uuid.uuid4()}")

    def p_view(self) -> list[Any]:
        return refs(member for member in self.members if member.moid in self.registry.objects)

    def ModifyListView(self, call: Call, add: list[Any] | None = None, remove: list[Any] | None = None) -> list[Any]:
        with self.registry.lock:
            gone = {ref._moId for ref in remove or []}
            self.members = [member for member in self.members if member.moid not in gone]
            found = [self.registry.get(ref) for ref in add or []]
            self.members += [member for member in found if member is not None]
            self.registry.touch(self)
        return [ref for ref, member in zip(add or [], found, strict=True) if member is None]


class ViewManager(Managed):
    wsdl = vim.view.ViewManager

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry, "ViewManager")

    def CreateContainerView(self, call: Call, container: Any, recursive: bool, type: list[Any] | None = None) -> Any:
        session = self._session(call)
        view = ContainerView(session, self.registry.find(container), tuple(type or ()), recursive)
        session.owned.append(view)
        return view.ref

    def CreateListView(self, call: Call, obj: list[Any] | None = None) -> Any:
        session = self._session(call)
        view = ListView(session, self.registry, [self.registry.find(ref) for ref in obj or []])
        session.owned.append(view)
        return view.ref

    def _session(self, call: Call) -> Session:
        if call.session is None:
            raise wire.not_authenticated(self.ref)
        return call.session
