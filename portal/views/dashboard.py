from django.db.models import Q, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from backups.models import Archive, Plan, Recovery, Role, Run, RunItem, Tenant, Vm
from backups.models.archives import ArchiveState
from backups.models.recoveries import RECOVERY_FINAL
from backups.models.runs import RUN_FINAL
from portal.access import tenant_view
from portal.views.runs import with_counts


@tenant_view(Role.VIEWER)
def dashboard(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    vms = Vm.objects.for_tenant(tenant).filter(vanished_at=None)
    archives = Archive.objects.for_tenant(tenant).exclude(state=ArchiveState.DELETED)
    runs = with_counts(Run.objects.for_tenant(tenant))
    context = {
        "vms": vms.count(),
        "protected": vms.filter(Q(plan__isnull=False) | Q(vapp__plan__isnull=False)).count(),
        "archives": archives.count(),
        "stored": archives.aggregate(stored=Sum("bytes_stored"))["stored"] or 0,
        "damaged": archives.filter(state=ArchiveState.DAMAGED).count(),
        "running": runs.exclude(state__in=RUN_FINAL)[:5],
        "recovering": Recovery.objects.for_tenant(tenant).exclude(state__in=RECOVERY_FINAL)[:5],
        "recent": runs.filter(state__in=RUN_FINAL)[:5],
        "upcoming": Plan.objects.for_tenant(tenant).exclude(next_start_at=None).order_by("next_start_at")[:5],
        "failures": _failures(tenant),
    }
    return render(request, "dashboard.html", context)


def _failures(tenant: Tenant) -> "list[RunItem]":
    failed = RunItem.objects.for_tenant(tenant).filter(state__in=["failed", "errored"])
    return list(failed.select_related("run").order_by("-finished_at")[:5])
