"""Tenants' rows are reached through `for_tenant` only. The portal's source is read for exceptions."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.apps import apps

from backups.models.tenancy import TenantQuerySet

PORTAL = Path(__file__).parents[2] / "portal"
EXEMPT = ("provider", "management/", "demo/", "migrations/")
"""The provider's modules show all tenants; commands and the demo have no user."""


def tenant_models() -> set[str]:
    managers = ((model.__name__, getattr(model, "objects", None)) for model in apps.get_models())
    return {name for name, manager in managers if manager and isinstance(manager.none(), TenantQuerySet)}


def unguarded(source: str, models: set[str]) -> Iterator[str]:
    """Lines with `Model.objects` that `for_tenant` does not follow, and with the model itself given to a shortcut. A
    `queryset` of an API class is allowed: its base class filters it."""
    nodes = list(ast.walk(ast.parse(source)))
    allowed = [node.value for node in nodes if isinstance(node, ast.Attribute) and node.attr == "for_tenant"]
    allowed += [part for node in nodes if _is_queryset(node) for part in ast.walk(node) if isinstance(part, ast.expr)]
    for node in nodes:
        if node not in allowed and (_is_manager(node, models) or _is_shortcut(node, models)):
            yield source.splitlines()[node.lineno - 1].strip()  # type: ignore[attr-defined]


def _is_queryset(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "queryset"


def _is_manager(node: ast.AST, models: set[str]) -> bool:
    is_manager = isinstance(node, ast.Attribute) and node.attr in ("objects", "_default_manager")
    return is_manager and getattr(node.value, "id", "") in models  # type: ignore[attr-defined]


def _is_shortcut(node: ast.AST, models: set[str]) -> bool:
    """`get_object_or_404(Model, …)` looks at all tenants."""
    if not isinstance(node, ast.Call) or not getattr(node.func, "id", "").endswith("_or_404"):
        return False
    return any(getattr(argument, "id", "") in models for argument in node.args)


def test_the_portal_reaches_tenants_rows_through_for_tenant_only() -> None:
    files = [path for path in sorted(PORTAL.rglob("*.py")) if not _exempt(path)]
    found = [f"{path.name}: {line}" for path in files for line in unguarded(path.read_text(), tenant_models())]
    assert found == []
    assert len(files) > 10


def _exempt(path: Path) -> bool:
    return any(part in path.relative_to(PORTAL).as_posix() for part in EXEMPT)


@pytest.mark.parametrize(
    "line", ["Run.objects.get(pk=1)", "run = get_object_or_404(Run, pk=1)", "rows = page_of(Run.objects)"]
)
def test_a_forgotten_filter_is_seen(line: str) -> None:
    assert list(unguarded(f"{line}\nRun.objects.for_tenant(tenant).get(pk=1)\n", {"Run"})) == [line]
