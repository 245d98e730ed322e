from collections import defaultdict
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from backups.errors import InvalidRequest
from backups.models import Plan, Role, Tenant, VApp, Vm
from backups.services import inventory
from backups.services import plans as service
from backups.services.runs import start_run
from portal.access import tenant_view
from portal.views.feedback import told
from portal.views.paging import page_of
from portal.views.protection import Group, row_of, with_protection
from portal.views.selection import found, ticked

VAPPS_PER_PAGE = 25


@tenant_view(Role.VIEWER)
def vapps(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    wanted = request.GET.get("q", "").strip()
    here = VApp.objects.for_tenant(tenant).filter(vanished_at=None).select_related("plan", "vcenter")
    loose = Vm.objects.for_tenant(tenant).filter(vanished_at=None, vapp=None)
    if wanted:
        mine = Vm.objects.for_tenant(tenant).filter(name__icontains=wanted)
        here = here.filter(Q(name__icontains=wanted) | Q(pk__in=mine.values("vapp")))
        loose = loose.filter(name__icontains=wanted)
    page = page_of(request, here, per_page=VAPPS_PER_PAGE)
    loose_page = page_of(request, with_protection(loose, tenant), "loose")
    context = {
        "q": wanted,
        "page": page,
        "groups": _groups(tenant, list(page)),
        "loose_page": loose_page,
        "loose": Group(None, [row_of(vm) for vm in loose_page]),
        # The plan that was just made is the one that is wanted.
        "plans": Plan.objects.for_tenant(tenant).order_by("-created_at"),
    }
    return render(request, "vapps/list.html", context)


def _groups(tenant: Tenant, here: list[VApp]) -> list[Group]:
    mine = Vm.objects.for_tenant(tenant).filter(vapp__in=here, vanished_at=None)
    rows: dict[Any, list[Any]] = defaultdict(list)
    for vm in with_protection(mine, tenant):
        rows[vm.vapp_id].append(row_of(vm))
    return [Group(vapp, rows[vapp.pk]) for vapp in here]


@tenant_view(Role.OPERATOR, Role.OPERATOR)
@require_POST
@told
def refresh(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    inventory.refresh_tenant(tenant)
    messages.success(request, "The list is what vCenter says now.")
    return redirect("vapps", tenant.pk)


@tenant_view(Role.ADMIN, Role.ADMIN)
@require_POST
@told
def apply(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    chosen = found(Plan.objects.for_tenant(tenant), [each for each in [request.POST.get("plan", "")] if each])
    if not chosen:
        raise InvalidRequest("Choose the plan to apply.")
    some_vapps, some_vms = ticked(request, tenant)
    service.apply_plan(request.user, chosen[0], vapps=some_vapps, vms=some_vms)
    messages.success(request, f"The plan {chosen[0]} now protects {_named(some_vapps, some_vms)}.")
    return redirect("vapps", tenant.pk)


@tenant_view(Role.ADMIN, Role.ADMIN)
@require_POST
@told
def revoke(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    some_vapps, some_vms = ticked(request, tenant)
    service.revoke_plan(request.user, tenant, vapps=some_vapps, vms=some_vms)
    messages.success(request, f"No plan of their own applies to {_named(some_vapps, some_vms)} now. Archives stay.")
    return redirect("vapps", tenant.pk)


@tenant_view(Role.OPERATOR, Role.OPERATOR)
@require_POST
@told
def back_up(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    some_vapps, some_vms = ticked(request, tenant)
    by_plan = _by_plan(tenant, some_vapps, some_vms)
    if not by_plan:
        raise InvalidRequest("No plan applies to what you ticked; apply one first.")
    started = [start_run(request.user, plan, vms) for plan, vms in by_plan.items()]
    if len(started) == 1:
        return redirect("run", tenant.pk, started[0].pk)
    messages.success(request, f"{len(started)} runs have started, one for each plan.")
    return redirect("runs", tenant.pk)


def _by_plan(tenant: Tenant, some_vapps: list[VApp], some_vms: list[Vm]) -> dict[Plan, list[Vm]]:
    chosen: QuerySet[Vm] = Vm.objects.for_tenant(tenant).filter(
        Q(vapp__in=some_vapps) | Q(pk__in=[vm.pk for vm in some_vms]), vanished_at=None
    )
    by_plan: dict[Plan, list[Vm]] = defaultdict(list)
    for vm in chosen.select_related("plan", "vapp__plan"):
        if isinstance(vm.effective_plan, Plan):
            by_plan[vm.effective_plan].append(vm)
    return by_plan


@tenant_view(Role.OPERATOR, Role.OPERATOR)
@require_POST
@told
def recover(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    """Only carries what was ticked to the first page of a recovery."""
    some_vapps, some_vms = ticked(request, tenant)
    query = [("vapp", vapp.name) for vapp in some_vapps] + [("vm", str(vm.pk)) for vm in some_vms]
    return redirect(f"{reverse('recover', args=[tenant.pk])}?{urlencode(query)}")


def _named(some_vapps: list[VApp], some_vms: list[Vm]) -> str:
    names = [str(each) for each in (*some_vapps, *some_vms)]
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more"
