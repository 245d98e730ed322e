"""What the provider sees across all tenants."""

from functools import reduce
from operator import or_
from uuid import UUID

from django.contrib import messages
from django.db.models import Count, Q, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from backups.models import Archive, AuditEntry, Repository, Run, SnapshotRecord, Tenant, VCenter, Vm
from backups.models.archives import ArchiveState
from backups.models.runs import HOLDING, RUN_FINAL, RunState
from backups.services.repositories import create_repository
from portal.access import provider_view
from portal.forms import RepositoryForm
from portal.views.feedback import accepted
from portal.views.paging import page_of
from portal.views.runs import with_counts


@provider_view
def overview(request: HttpRequest) -> HttpResponse:
    open_snapshots = SnapshotRecord.objects.filter(removed_at=None)
    every = with_counts(Run.objects.select_related("tenant"))
    context = {
        "tenants_count": Tenant.objects.count(),
        "vms": Vm.objects.filter(vanished_at=None).count(),
        "nobodys": Vm.objects.filter(vanished_at=None, tenant=None).count(),
        "stored": Archive.objects.exclude(state=ArchiveState.DELETED).aggregate(n=Sum("bytes_stored"))["n"] or 0,
        "snapshots": open_snapshots.count(),
        "oldest": open_snapshots.order_by("created_at").first(),
        "vcenters": VCenter.objects.all()[:20],
        "running": every.exclude(state__in=RUN_FINAL)[:10],
        "recent": every.filter(state__in=RUN_FINAL)[:10],
        "repositories": Repository.objects.count(),
    }
    return render(request, "provider/overview.html", context)


@provider_view
def runs(request: HttpRequest) -> HttpResponse:
    wanted, state = request.GET.get("q", "").strip(), request.GET.get("state", "")
    every = with_counts(Run.objects.select_related("tenant"))
    if wanted:
        every = every.filter(Q(plan_name__icontains=wanted) | Q(tenant__name__icontains=wanted))
    if state in RunState.values:
        every = every.filter(state=state)
    if "tenant" in request.GET and (tenant := id_of(request.GET["tenant"])):
        every = every.filter(tenant=tenant)
    context = {"page": page_of(request, every), "q": wanted, "state": state, "states": RunState.choices}
    return render(request, "provider/runs.html", context | {"customer": request.GET.get("tenant", "")})


def id_of(sent: str) -> UUID | None:
    try:
        return UUID(sent)
    except ValueError:
        return None


@provider_view
def snapshots(request: HttpRequest) -> HttpResponse:
    wanted = request.GET.get("q", "").strip()
    here = SnapshotRecord.objects.filter(removed_at=None).select_related("vcenter", "item__run", "item__tenant")
    if wanted:
        by = ("item__vm_name", "item__tenant__name", "item__run__plan_name", "name")
        here = here.filter(reduce(or_, (Q(**{f"{name}__icontains": wanted}) for name in by)))
    page = page_of(request, here.order_by("created_at"))
    now = timezone.now()
    for record in page:
        record.age_s = (now - record.created_at).total_seconds()
        record.left_over = record.item.state not in HOLDING or record.item.snapshot_name not in ("", record.name)
        record.expected_kb = record.item.load_kbps * record.age_s if record.item.load_at else None
    return render(request, "provider/snapshots.html", {"page": page, "q": wanted})


@provider_view
def audit(request: HttpRequest) -> HttpResponse:
    return render(request, "audit.html", {"page": page_of(request, AuditEntry.objects.select_related("tenant"))})


@provider_view
def repositories(request: HttpRequest) -> HttpResponse:
    form = RepositoryForm(request.POST or None)
    if request.method == "POST" and accepted(form, lambda: create_repository(request.user, **form.cleaned_data)):
        messages.success(request, f"The repository {form.cleaned_data['name']} is ready.")
        return redirect("provider-repositories")
    good = ~Q(archives__state=ArchiveState.DELETED)
    counted = Repository.objects.annotate(
        archive_count=Count("archives", filter=good), stored=Sum("archives__bytes_stored", filter=good)
    )
    return render(
        request, "provider/repositories.html", {"page": page_of(request, counted.order_by("name")), "form": form}
    )
