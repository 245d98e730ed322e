"""Who may see and do what. Every view says so with one of the three decorators below, and a test walks all routes:
a route without one fails it. Strangers get 404, as if the tenant did not exist; weak roles get 403."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponseBase

from backups.models import Membership, Role, Tenant

View = Callable[..., Any]  # a response, or for a stream a coroutine of one
RANK = {Role.VIEWER: 1, Role.OPERATOR: 2, Role.ADMIN: 3}


@dataclass(frozen=True)
class Access:
    """`kind` is tenant, provider, account (any signed-in user) or public; roles are those of safe and unsafe
    methods."""

    kind: str
    read: Role | None = None
    write: Role | None = None

    def role_for(self, method: str) -> Role | None:
        return self.read if method in ("GET", "HEAD", "OPTIONS") else self.write


def role_in(user: User | AnonymousUser, tenant: Tenant) -> Role | None:
    """The user's role; provider staff act as administrators of every tenant."""
    if isinstance(user, AnonymousUser):
        return None
    if user.is_staff:
        return Role.ADMIN
    membership = Membership.objects.for_tenant(tenant).filter(user=user).first()
    return Role(membership.role) if membership else None


def enter(user: User | AnonymousUser, tenant_id: UUID, needed: Role, ceiling: Role = Role.ADMIN) -> Tenant:
    """The tenant, if the user may do there what needs the role `needed`. `ceiling` is what a token lowers it to."""
    tenant = Tenant.objects.filter(pk=tenant_id).first()
    role = role_in(user, tenant) if tenant else None
    if tenant is None or role is None:
        raise Http404
    if min(RANK[role], RANK[ceiling]) < RANK[needed]:
        raise PermissionDenied(f"This needs the role {needed.label}; ask an administrator of {tenant}.")
    return tenant


def tenant_view(read: Role, write: Role | None = None) -> Callable[[View], View]:
    """The view is called with the tenant in place of `tenant_id`. `write` is the role for unsafe methods; without
    it they are refused."""
    access = Access("tenant", read, write)

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, tenant_id: UUID, *args: Any, **kwargs: Any) -> HttpResponseBase:
            tenant = _admit(request, tenant_id, access)
            response: HttpResponseBase = view(request, tenant, *args, **kwargs) if tenant else _to_login(request)
            return response

        @wraps(view)
        async def guarded_stream(request: HttpRequest, tenant_id: UUID, *args: Any, **kwargs: Any) -> HttpResponseBase:
            tenant = await sync_to_async(_admit)(request, tenant_id, access)
            response: HttpResponseBase = await view(request, tenant, *args, **kwargs) if tenant else _to_login(request)
            return response

        chosen: View = guarded_stream if iscoroutinefunction(view) else guarded
        chosen.access = access  # type: ignore[attr-defined]
        return chosen

    return decorate


def _admit(request: HttpRequest, tenant_id: UUID, access: Access) -> Tenant | None:
    """None for somebody who has not signed in."""
    if not request.user.is_authenticated:
        return None
    needed = access.role_for(request.method or "GET")
    tenant = enter(request.user, tenant_id, needed or Role.VIEWER)
    if needed is None:
        raise PermissionDenied
    request.tenant = tenant  # type: ignore[attr-defined]
    return tenant


def _to_login(request: HttpRequest) -> HttpResponseBase:
    return redirect_to_login(request.get_full_path())


def _guarded(kind: str, allowed: Callable[[HttpRequest], bool]) -> Callable[[View], View]:
    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if kind != "public" and not request.user.is_authenticated:
                return _to_login(request)
            if not allowed(request):
                raise Http404
            response: HttpResponseBase = view(request, *args, **kwargs)
            return response

        guarded.access = Access(kind)  # type: ignore[attr-defined]
        return guarded

    return decorate


provider_view = _guarded("provider", lambda request: request.user.is_staff)
account_view = _guarded("account", lambda request: request.user.is_authenticated)
public_view = _guarded("public", lambda _: True)


def tenants_of(user: User | AnonymousUser) -> "list[Tenant]":
    if not user.is_authenticated:
        return []
    if user.is_staff:
        return list(Tenant.objects.all())
    return list(Tenant.objects.filter(memberships__user=user))


def navigation(request: HttpRequest) -> dict[str, Any]:
    """For the page's frame: the tenant, the user's role there, and the tenants he can switch to."""
    tenant = getattr(request, "tenant", None)
    role = role_in(request.user, tenant) if tenant else None
    rank = RANK[role] if role else 0
    may = {"operate": rank >= 2, "administer": rank >= 3}
    return {"tenant": tenant, "role": role, "may": may, "tenants": tenants_of(request.user)}
