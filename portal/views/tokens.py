from uuid import UUID

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from backups.models import Role, Tenant
from backups.services.audit import record
from portal.access import tenant_view
from portal.forms import TokenForm
from portal.models import ApiToken
from portal.views.paging import page_of


@tenant_view(Role.ADMIN, Role.ADMIN)
@never_cache
def tokens(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    """A new token is shown on this answer alone: only its hash is kept."""
    form = TokenForm(request.POST or None)
    secret = None
    if request.method == "POST" and form.is_valid():
        secret = _create(request, tenant, form)
        form = TokenForm()
    mine = ApiToken.objects.filter(tenant=tenant).select_related("user").order_by("-created")
    context = {"page": page_of(request, mine), "form": form, "secret": secret}
    return render(request, "tokens.html", context)


@transaction.atomic
def _create(request: HttpRequest, tenant: Tenant, form: TokenForm) -> str:
    data = form.cleaned_data
    secret: str
    _, secret = ApiToken.objects.create(
        user=request.user, tenant=tenant, name=data["name"], role=data["role"], expiry=form.expires_in()
    )
    record(request.user, tenant, "token.create", data["name"], role=data["role"], days=int(data["expiry"]))
    return secret


@tenant_view(Role.ADMIN, Role.ADMIN)
@require_POST
@transaction.atomic
def revoke_token(request: HttpRequest, tenant: Tenant, token_id: UUID) -> HttpResponse:
    token = get_object_or_404(ApiToken.objects.filter(tenant=tenant), uid=token_id)
    record(request.user, tenant, "token.revoke", token.name, role=token.role)
    token.delete()
    messages.success(request, f"The token {token.name} no longer opens anything.")
    return redirect("tokens", tenant.pk)
