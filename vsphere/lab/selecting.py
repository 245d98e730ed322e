"""Which objects and properties a PropertyCollector.FilterSpec means, and what they are now."""

from collections.abc import Iterable
from typing import Any

from pyVmomi import vmodl

from vsphere.lab import wire
from vsphere.lab.registry import Managed, Registry

PropertyCollector = vmodl.query.PropertyCollector
Selection = dict[str, list[str]]
"""Managed object id to property paths."""


class _Selector:
    def __init__(self, registry: Registry, spec: Any) -> None:
        self.registry, self.spec = registry, spec
        self.found: Selection = {}
        self.names: dict[str, Any] = {}

    def visit(self, managed: Managed, skip: bool, steps: Iterable[Any]) -> None:
        if not skip:
            self._take(managed)
        for step in steps:
            step = step if isinstance(step, PropertyCollector.TraversalSpec) else self.names.get(step.name)
            if step is None or not isinstance(managed.ref, step.type):
                continue
            value = managed.get(step.path)
            for ref in value if isinstance(value, list) else [value] if value else []:
                following = self.registry.get(ref)
                if following is not None:
                    self.visit(following, bool(step.skip), step.selectSet)

    def _take(self, managed: Managed) -> None:
        for wanted in self.spec.propSet:
            if isinstance(managed.ref, wanted.type):
                paths = self.found.setdefault(managed.moid, [])
                new = managed.served_properties() if wanted.all else wanted.pathSet
                paths.extend(path for path in new if path not in paths)

    def name(self, steps: Iterable[Any]) -> None:
        for step in steps:
            if isinstance(step, PropertyCollector.TraversalSpec):
                if step.name:
                    self.names[step.name] = step
                self.name(step.selectSet)


def select(registry: Registry, spec: Any) -> Selection:
    """Raises ManagedObjectNotFound for a starting point that has gone."""
    selector = _Selector(registry, spec)
    for start in spec.objectSet:
        managed = registry.get(start.obj)
        if managed is None:
            if spec.reportMissingObjectsInResults:
                continue
            raise wire.gone(start.obj)
        selector.name(start.selectSet)
        selector.visit(managed, bool(start.skip), start.selectSet)
    return selector.found


def follows_paths(spec: Any) -> bool:
    return any(start.selectSet for start in spec.objectSet)


def values(managed: Managed, paths: list[str]) -> dict[str, Any]:
    """Raises InvalidProperty. What is unset is left out."""
    found = {}
    for path in paths:
        try:
            value = managed.get(path)
        except AttributeError:
            raise vmodl.query.InvalidProperty(name=path, msg=f"There is no property {path}.") from None
        if value is not None:
            found[path] = value
    return found


def content(managed: Managed, paths: list[str]) -> Any:
    properties = [vmodl.DynamicProperty(name=name, val=value) for name, value in values(managed, paths).items()]
    return PropertyCollector.ObjectContent(obj=managed.ref, propSet=properties)


def unauthenticated_content(specs: Iterable[Any]) -> list[Any]:
    """What a session that has ended gets instead of a fault: objects without properties, and the reason in
    missingSet."""
    answers = []
    for spec in specs:
        path = next((path for wanted in spec.propSet for path in wanted.pathSet), "name")
        for start in spec.objectSet:
            missing = PropertyCollector.MissingProperty(path=path, fault=wire.not_authenticated(start.obj))
            answers.append(PropertyCollector.ObjectContent(obj=start.obj, missingSet=[missing]))
    return answers
