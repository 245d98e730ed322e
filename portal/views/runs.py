from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db.models import Aggregate, Count, F, OuterRef, Q, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST

from backups.models import Role, Run, RunItem, Tenant
from backups.models.runs import ITEM_FINAL, RUN_FINAL, ItemState
from backups.services import steering as service
from portal.access import tenant_view
from portal.views.feedback import told
from portal.views.paging import page_of
from portal.views.progress import SHOWN, progress_of
from portal.views.timeline import draw

LANES_PER_PAGE = 100
FEW = 20
"""So many VMs are taken in at a glance; more can be searched."""
ORDERS = {
    "highest_load": "Busiest first",
    "least_disturbance": "Least disturbance",
    "name": "By name",
    "random": "Random order",
}


def with_counts(runs: QuerySet[Run]) -> QuerySet[Run]:
    """Newest first. Adds `vms`, `good`, `ended` and `stored`, counted for the rows that are shown and no others."""
    counted = {
        "vms": _of_items(Count("pk")),
        "good": _of_items(Count("pk", filter=Q(state=ItemState.SUCCEEDED))),
        "ended": _of_items(Count("pk", filter=Q(state__in=ITEM_FINAL))),
        "stored": _of_items(Sum("bytes_stored")),
    }
    return runs.defer("forecast", "report").annotate(**counted).order_by("-created_at")


def _of_items(aggregate: Aggregate) -> Coalesce:
    owner: Any = OuterRef("tenant")
    items = RunItem.objects.for_tenant(owner).filter(run=OuterRef("pk")).order_by().values("run")
    return Coalesce(Subquery(items.annotate(found=aggregate).values("found")), 0)


@tenant_view(Role.VIEWER)
def runs(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    page = page_of(request, with_counts(Run.objects.for_tenant(tenant)))
    return render(request, "runs/list.html", {"page": page})


@tenant_view(Role.VIEWER)
def run(request: HttpRequest, tenant: Tenant, run_id: UUID) -> HttpResponse:
    return render(request, "runs/run.html", _live(request, tenant, _found(tenant, run_id)))


@tenant_view(Role.VIEWER)
def run_live(request: HttpRequest, tenant: Tenant, run_id: UUID) -> HttpResponse:
    """The part of the run's page that changes; fetched again whenever something happened."""
    return render(request, "runs/_live.html", _live(request, tenant, _found(tenant, run_id)))


def _found(tenant: Tenant, run_id: UUID) -> Run:
    return get_object_or_404(Run.objects.for_tenant(tenant).select_related("plan", "retry_of"), pk=run_id)


def _live(request: HttpRequest, tenant: Tenant, found: Run) -> dict[str, Any]:
    now = timezone.now()
    items = RunItem.objects.for_tenant(tenant).filter(run=found)
    progress = progress_of(items, now)
    shown, wanted = request.GET.get("show", ""), request.GET.get("q", "").strip()
    page = page_of(request, in_order(_chosen(items, shown, wanted)).select_related("archive"), per_page=LANES_PER_PAGE)
    return {
        "run": found,
        "page": page,
        "timeline": draw(found, list(page), progress["begin"], progress["top_kbps"], now),
        "summary": progress,
        "final": found.state in RUN_FINAL,
        "elapsed_s": ((found.finished_at or now) - (found.started_at or found.created_at)).total_seconds(),
        "orders": _orders(found),
        "retries": found.retries.order_by("created_at")[:5],
        "filters": [(key, label, progress.get(key, progress["vms"])) for key, (label, _) in SHOWN.items()],
        "shown": shown,
        "q": wanted,
        "many": progress["vms"] > FEW or bool(shown or wanted),
    }


def in_order(items: QuerySet[RunItem]) -> QuerySet[RunItem]:
    """Of archiving: as it was, then as it is to come."""
    return items.order_by(F("position").asc(nulls_last=True), "-raised", "-priority", "-load_kbps", "vm_name")


def _chosen(items: QuerySet[RunItem], shown: str, wanted: str) -> QuerySet[RunItem]:
    if wanted:
        items = items.filter(Q(vm_name__icontains=wanted) | Q(vapp_name__icontains=wanted))
    return items.filter(SHOWN[shown][1]) if shown in SHOWN else items


def _orders(found: Run) -> list[dict[str, Any]]:
    """What the run cost, was expected to cost, and would have cost in other orders, as bars against the dearest."""
    if not found.report:
        return []
    costs = [("This run", found.report["exposure_kb"]), ("Forecast before it", found.forecast.get("exposure_kb"))]
    costs += [(label, found.report["orders"].get(order)) for order, label in ORDERS.items() if order != found.policy]
    costs += [("No order does better than", found.report["bound_kb"])]
    known = [(label, cost) for label, cost in costs if cost is not None]
    dearest, least = max(cost for _, cost in known) or 1, found.report["bound_kb"]
    return [
        {
            "label": label,
            "kb": cost,
            "percent": round(100 * cost / dearest, 2),
            "above": f"{100 * (cost / least - 1):+.0f} %" if 0 < least != cost else "",
            "ours": number == 0,
        }
        for number, (label, cost) in enumerate(known)
    ]


@tenant_view(Role.OPERATOR, Role.OPERATOR)
@require_POST
@told
def cancel_run(request: HttpRequest, tenant: Tenant, run_id: UUID) -> HttpResponse:
    found = _found(tenant, run_id)
    service.cancel_run(request.user, found, request.POST.get("mode", ""))
    messages.success(request, "The run is being cancelled; every snapshot it holds is removed.")
    return redirect("run", tenant.pk, found.pk)


@tenant_view(Role.OPERATOR, Role.OPERATOR)
@require_POST
@told
def pause_run(request: HttpRequest, tenant: Tenant, run_id: UUID) -> HttpResponse:
    found = _found(tenant, run_id)
    service.pause_run(request.user, found)
    messages.success(request, "The run pauses. VMs that wait give their snapshots back; nothing new starts.")
    return redirect("run", tenant.pk, found.pk)


@tenant_view(Role.OPERATOR, Role.OPERATOR)
@require_POST
@told
def resume_run(request: HttpRequest, tenant: Tenant, run_id: UUID) -> HttpResponse:
    found = _found(tenant, run_id)
    service.resume_run(request.user, found)
    messages.success(request, "The run goes on; VMs that gave their snapshots back are snapshotted anew.")
    return redirect("run", tenant.pk, found.pk)


@tenant_view(Role.OPERATOR, Role.OPERATOR)
@require_POST
@told
def retry_run(request: HttpRequest, tenant: Tenant, run_id: UUID) -> HttpResponse:
    again = service.retry_run(request.user, _found(tenant, run_id))
    messages.success(request, "This run backs up what the one before did not.")
    return redirect("run", tenant.pk, again.pk)


@tenant_view(Role.OPERATOR, Role.OPERATOR)
@require_POST
@told
def raise_item(request: HttpRequest, tenant: Tenant, run_id: UUID, item_id: UUID) -> HttpResponse:
    items = RunItem.objects.for_tenant(tenant).filter(run=run_id)
    item = get_object_or_404(items.select_related("tenant"), pk=item_id)
    service.raise_item(request.user, item)
    messages.success(request, f"{item.vm_name} is the next to be archived.")
    return redirect("run", tenant.pk, run_id)
