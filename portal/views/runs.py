from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db.models import Count, F, Q, QuerySet, Sum
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
from portal.views.timeline import draw, held_s

LANES_PER_PAGE = 100
ORDERS = (
    ("highest_load", "Busiest first"),
    ("least_disturbance", "Least disturbance"),
    ("name", "By name"),
    ("reverse", "Idlest first"),
)


def with_counts(runs: QuerySet[Run]) -> QuerySet[Run]:
    """Newest first. Adds `vms`, `good`, `ended` and `stored`, in the same query."""
    return runs.annotate(
        vms=Count("items"),
        good=Count("items", filter=Q(items__state=ItemState.SUCCEEDED)),
        ended=Count("items", filter=Q(items__state__in=ITEM_FINAL)),
        stored=Sum("items__bytes_stored"),
    ).order_by("-created_at")


@tenant_view(Role.VIEWER)
def runs(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    page = page_of(request, with_counts(Run.objects.for_tenant(tenant)))
    return render(request, "runs/list.html", {"page": page})


@tenant_view(Role.VIEWER)
def run(request: HttpRequest, tenant: Tenant, run_id: UUID) -> HttpResponse:
    found = get_object_or_404(Run.objects.for_tenant(tenant), pk=run_id)
    return render(request, "runs/run.html", _live(request, tenant, found))


@tenant_view(Role.VIEWER)
def run_live(request: HttpRequest, tenant: Tenant, run_id: UUID) -> HttpResponse:
    """The part of the run's page that changes; fetched again whenever something happened."""
    found = get_object_or_404(Run.objects.for_tenant(tenant), pk=run_id)
    return render(request, "runs/_live.html", _live(request, tenant, found))


def _live(request: HttpRequest, tenant: Tenant, found: Run) -> dict[str, Any]:
    now = timezone.now()
    ordered = RunItem.objects.for_tenant(tenant).filter(run=found).select_related("archive")
    every = list(ordered.order_by(F("position").asc(nulls_last=True), "-priority", "-load_kbps", "vm_name"))
    page = page_of(request, every, per_page=LANES_PER_PAGE)
    return {
        "run": found,
        "page": page,
        "timeline": draw(found, list(page), every, now),
        "summary": _summary(every, now),
        "final": found.state in RUN_FINAL,
        "elapsed_s": ((found.finished_at or now) - (found.started_at or found.created_at)).total_seconds(),
        "orders": _orders(found),
    }


def _summary(every: Sequence[RunItem], now: Any) -> dict[str, Any]:
    counts = Counter(item.state for item in every)
    return {
        "vms": len(every),
        "ended": sum(counts[state] for state in ITEM_FINAL),
        "good": counts[ItemState.SUCCEEDED],
        "bad": counts[ItemState.FAILED] + counts[ItemState.ERRORED],
        "waiting": counts[ItemState.WAITING] + counts[ItemState.QUEUED] + counts[ItemState.SNAPSHOTTING],
        "archiving": [item.vm_name for item in every if item.state == ItemState.ARCHIVING],
        "percent": round(100 * sum(_share(item) for item in every) / len(every)) if every else 0,
        "exposure_kb": sum(item.load_kbps * (held_s(item, now) or 0) for item in every),
        "longest_hold_s": max((held_s(item, now) or 0 for item in every), default=0),
        "bytes_read": sum(item.bytes_read for item in every),
        "bytes_new": sum(item.bytes_new for item in every),
        "bytes_stored": sum(item.bytes_stored for item in every),
    }


def _share(item: RunItem) -> float:
    """How much of the item is done, from 0 to 1."""
    if item.state in ITEM_FINAL or item.state == ItemState.REMOVING:
        return 1.0
    expected = item.bytes_expected or item.bytes_total
    return min(item.bytes_read / expected, 1.0) if expected and item.state == ItemState.ARCHIVING else 0.0


def _orders(found: Run) -> list[dict[str, Any]]:
    """What the run cost, and would have cost in other orders, as bars against the dearest."""
    if not found.report:
        return []
    others = [(label, found.report["orders"].get(key)) for key, label in ORDERS if key != found.policy]
    costs = [(f"This run, {dict(ORDERS).get(found.policy, 'in its order').lower()}", found.report["exposure_kb"])]
    costs += [(label, cost) for label, cost in others if cost is not None]
    costs += [("No order does better than", found.report["bound_kb"])]
    dearest = max(cost for _, cost in costs) or 1
    return [
        {"label": label, "kb": cost, "percent": round(100 * cost / dearest, 2), "ours": number == 0}
        for number, (label, cost) in enumerate(costs)
    ]


@tenant_view(Role.OPERATOR, Role.OPERATOR)
@require_POST
@told
def cancel_run(request: HttpRequest, tenant: Tenant, run_id: UUID) -> HttpResponse:
    found = get_object_or_404(Run.objects.for_tenant(tenant), pk=run_id)
    service.cancel_run(request.user, found, request.POST.get("mode", ""))
    messages.success(request, "The run is being cancelled; every snapshot it holds is removed.")
    return redirect("run", tenant.pk, found.pk)
