"""What all endpoints share: the tenant is entered, with the same code as on the pages, before a handler runs."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import Model, QuerySet
from django.http import Http404
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.generics import GenericAPIView, ListAPIView
from rest_framework.request import Request

from backups.errors import InvalidRequest
from backups.models import Role, Tenant
from portal.access import Access, enter
from portal.api.filters import Filters
from portal.api.problems import Problem
from portal.models import ApiToken

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound=Model)
PROBLEMS = {
    (status, "application/problem+json"): Problem for status in (400, 401, 403, 404, 409, 412, 422, 428, 503, 507)
}


def answers(success: dict[Any, Any], **options: Any) -> Callable[[F], F]:
    """Declares what an endpoint answers: `success` by status, and problems."""
    return extend_schema(responses=success | PROBLEMS, **options)


def all_of(rows: QuerySet[M], ids: Collection[UUID]) -> list[M]:
    """The rows of these ids, every one of them: nothing of what a body names is left out in silence."""
    found = list(rows.filter(pk__in=ids))
    if len(found) < len(ids):
        kind = rows.model._meta.verbose_name
        raise InvalidRequest(f"One of these ids names no {kind} of yours, or is there twice.")
    return found


def token_of(request: Request) -> ApiToken | None:
    return request.auth if isinstance(request.auth, ApiToken) else None


def acts_for_provider(request: Request) -> bool:
    """Staff, with a token that is not limited."""
    token = token_of(request)
    limited = token is not None and (token.tenant_id is not None or token.role != Role.ADMIN)
    return bool(request.user.is_staff) and not limited


class TenantView(GenericAPIView[Any]):
    """`access` says which role reading and writing need. A token never allows more than its own role, and nothing
    outside its own tenant."""

    access = Access("tenant", Role.VIEWER, Role.ADMIN)
    tenant: Tenant

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        needed = self.access.role_for(request.method or "GET")
        self.tenant = self._enter(request, kwargs["tenant_id"], needed or self.access.read or Role.ADMIN)
        if needed is None:
            raise MethodNotAllowed(request.method or "")

    def _enter(self, request: Request, tenant_id: UUID, needed: Role) -> Tenant:
        token = token_of(request)
        if token is None:
            return enter(request.user, tenant_id, needed)
        if token.tenant_id not in (None, tenant_id):
            raise Http404
        return enter(request.user, tenant_id, needed, ceiling=Role(token.role))

    def need(self, role: Role) -> None:
        """For what needs more than the endpoint does."""
        self._enter(self.request, self.tenant.pk, role)

    def get_queryset(self) -> Any:
        rows: Any = self.queryset  # type: ignore[arg-type]
        return rows.for_tenant(self.tenant) if hasattr(self, "tenant") else rows.none()

    def one(self, pk: UUID) -> Any:
        return get_object_or_404(self.get_queryset(), pk=pk)


def lists(serializer: Any) -> Callable[[F], F]:
    """For classes whose `get` answers pages of rows."""
    return extend_schema_view(get=answers({200: serializer(many=True)}))


class TenantList(TenantView, ListAPIView[Any]):
    """Paged and filtered."""

    filter_backends = [Filters]


class ProviderView(GenericAPIView[Any]):
    access = Access("provider")

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if not acts_for_provider(request):
            raise Http404
