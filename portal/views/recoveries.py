from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db.models import Count, Max, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST

from backups.models import Archive, Recovery, RecoveryItem, Role, Tenant
from backups.models.archives import ArchiveState
from backups.models.recoveries import RECOVERY_FINAL, RecoveryMode, RecoveryState
from backups.services import recoveries as service
from portal.access import enter, tenant_view
from portal.views.feedback import told
from portal.views.paging import page_of


@tenant_view(Role.VIEWER)
def recoveries(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    """What can be recovered, and what was."""
    wanted = request.GET.get("q", "").strip()
    good = Archive.objects.for_tenant(tenant).filter(state=ArchiveState.GOOD).order_by()
    if wanted:
        good = good.filter(Q(vapp_name__icontains=wanted) | Q(vm_name__icontains=wanted))
    by_vapp = good.exclude(vapp_name="").values("vapp_name")
    sums = {"newest": Max("backup_time"), "vms": Count("vm", distinct=True), "archives": Count("pk")}
    by_vm = good.filter(vapp_name="").values("vm", "vm__name")
    done = Recovery.objects.for_tenant(tenant).annotate(vms=Count("items"), good=_good())
    context = {
        "q": wanted,
        "vapps": page_of(request, by_vapp.annotate(**sums).order_by("vapp_name"), "vapps", 20),
        "vms": page_of(request, by_vm.annotate(**sums).order_by("vm__name"), "vms", 20),
        "page": page_of(request, done.order_by("-created_at"), per_page=20),
    }
    return render(request, "recoveries/list.html", context)


def _good() -> Count:
    return Count("items", filter=Q(items__state=RecoveryState.SUCCEEDED))


@tenant_view(Role.VIEWER)
def recovery(request: HttpRequest, tenant: Tenant, recovery_id: UUID) -> HttpResponse:
    return render(request, "recoveries/recovery.html", _live(tenant, recovery_id))


@tenant_view(Role.VIEWER)
def recovery_live(request: HttpRequest, tenant: Tenant, recovery_id: UUID) -> HttpResponse:
    return render(request, "recoveries/_live.html", _live(tenant, recovery_id))


def _live(tenant: Tenant, recovery_id: UUID) -> dict[str, Any]:
    found = get_object_or_404(Recovery.objects.for_tenant(tenant).select_related("requested_by"), pk=recovery_id)
    items = list(RecoveryItem.objects.for_tenant(tenant).filter(recovery=found).select_related("archive"))
    total = sum(item.bytes_total for item in items)
    done = sum(item.bytes_done for item in items)
    now = timezone.now()
    return {
        "recovery": found,
        "items": items,
        "final": found.state in RECOVERY_FINAL,
        "good": sum(item.state == RecoveryState.SUCCEEDED for item in items),
        "running": [item.vm_name for item in items if item.state == RecoveryState.RUNNING],
        "percent": round(100 * done / total) if total else 0,
        "written": sum(item.bytes_written for item in items),
        "elapsed_s": ((found.finished_at or now) - (found.started_at or found.created_at)).total_seconds(),
    }


@tenant_view(Role.OPERATOR, Role.OPERATOR)
@require_POST
@told
def cancel_recovery(request: HttpRequest, tenant: Tenant, recovery_id: UUID) -> HttpResponse:
    found = get_object_or_404(Recovery.objects.for_tenant(tenant), pk=recovery_id)
    if found.mode == RecoveryMode.IN_PLACE:
        enter(request.user, tenant.pk, Role.ADMIN)
    service.cancel_recovery(request.user, found)
    messages.success(request, "The recovery is being cancelled.")
    return redirect("recovery", tenant.pk, found.pk)
