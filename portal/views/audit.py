from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from backups.models import AuditEntry, Role, Tenant
from portal.access import tenant_view
from portal.views.paging import page_of


@tenant_view(Role.ADMIN)
def audit(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    page = page_of(request, AuditEntry.objects.for_tenant(tenant))
    return render(request, "audit.html", {"page": page})
