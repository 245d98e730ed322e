"""Bulk reads through the PropertyCollector: leaf paths only, paged, with the dead session that shows as a missing
property instead of a fault."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl

from vsphere.session import Session

Collector = vmodl.query.PropertyCollector
PAGE_OBJECTS = 500


@dataclass(frozen=True)
class Found:
    kind: type
    ref: str
    values: dict[str, Any]


def read(session: Session, kind: type, ref: str, *paths: str) -> dict[str, Any]:
    """Paths without a value are left out. Raises ManagedObjectNotFound."""
    return session.call(lambda stub: _retrieve(session, stub, [_selected([kind(ref, stub)], kind, paths)]))[0].values


def read_many(session: Session, kind: type, refs: Sequence[str], *paths: str) -> dict[str, dict[str, Any]]:
    """By ref; those that no longer exist are left out."""
    wanted = list(dict.fromkeys(refs))
    while wanted:
        try:
            found = session.call(lambda stub: _retrieve(session, stub, [_of_refs(stub, kind, wanted, paths)]))
            return {each.ref: each.values for each in found}
        except vmodl.fault.ManagedObjectNotFound as fault:
            gone = getattr(fault.obj, "_moId", None)
            if gone not in wanted:
                raise
            wanted.remove(gone)
    return {}


def read_all(
    session: Session, paths: Mapping[type, Sequence[str]], compact: Callable[[Found], Found] = lambda found: found
) -> list[Found]:
    """Every object of these kinds below the root folder. `compact` takes what is needed of each, page by page: what
    vCenter sends of thousands of VMs is big."""

    def request(stub: Any) -> list[Found]:
        view = container_view(session, stub, list(paths))
        try:
            return _retrieve(session, stub, [in_view(view, paths)], compact)
        finally:
            view.DestroyView()

    return session.call(request)


def container_view(session: Session, stub: Any, kinds: list[type]) -> Any:
    root = vim.Folder(session.content.rootFolder._moId, stub)
    return vim.view.ViewManager(session.content.viewManager._moId, stub).CreateContainerView(root, kinds, True)


def _of_refs(stub: Any, kind: type, refs: Sequence[str], paths: Sequence[str]) -> Any:
    return _selected([kind(ref, stub) for ref in refs], kind, paths)


def _selected(objects: Sequence[Any], kind: type, paths: Sequence[str]) -> Any:
    return Collector.FilterSpec(
        objectSet=[Collector.ObjectSpec(obj=each) for each in objects],
        propSet=[Collector.PropertySpec(type=kind, pathSet=list(paths))],
    )


def in_view(view: Any, paths: Mapping[type, Sequence[str]]) -> Any:
    members = Collector.TraversalSpec(name="members", type=vim.view.ContainerView, path="view", skip=False)
    return Collector.FilterSpec(
        objectSet=[Collector.ObjectSpec(obj=view, skip=True, selectSet=[members])],
        propSet=[Collector.PropertySpec(type=kind, pathSet=list(names)) for kind, names in paths.items()],
    )


def _retrieve(
    session: Session, stub: Any, specs: list[Any], compact: Callable[[Found], Found] = lambda found: found
) -> list[Found]:
    collector = Collector(session.content.propertyCollector._moId, stub)
    page = collector.RetrievePropertiesEx(specs, Collector.RetrieveOptions(maxObjects=PAGE_OBJECTS))
    found: list[Found] = []
    while page is not None:
        found += map(compact, _checked(page.objects))
        page = collector.ContinueRetrievePropertiesEx(page.token) if page.token else None
    return found


def _checked(objects: Sequence[Any]) -> Iterator[Found]:
    for each in objects:
        refuse_dead_session(each.missingSet)
        yield Found(type(each.obj), each.obj._moId, {p.name: p.val for p in each.propSet})


def refuse_dead_session(missing: Sequence[Any]) -> None:
    """A session that has ended can answer without values rather than with a fault."""
    for each in missing or ():
        if isinstance(each.fault, vim.fault.NotAuthenticated):
            raise each.fault
