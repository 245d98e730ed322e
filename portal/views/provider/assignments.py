from django.contrib import messages
from django.db import transaction
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from backups.errors import InvalidRequest
from backups.models import VApp, Vm
from backups.services.inventory import assign_vapp, assign_vm
from portal.access import provider_view
from portal.forms import AssignForm
from portal.views.feedback import came_from, told
from portal.views.paging import page_of
from portal.views.selection import found


@provider_view
def assignments(request: HttpRequest) -> HttpResponse:
    wanted = request.GET.get("q", "").strip()
    vapps = VApp.objects.filter(vanished_at=None).select_related("tenant", "vcenter")
    loose = Vm.objects.filter(vanished_at=None, vapp=None).select_related("tenant", "vcenter")
    if wanted:
        by_name = Q(name__icontains=wanted) | Q(tenant__name__icontains=wanted)
        vapps, loose = vapps.filter(by_name), loose.filter(by_name)
    if request.GET.get("nobody"):
        vapps, loose = vapps.filter(tenant=None), loose.filter(tenant=None)
    counted = vapps.annotate(vm_count=Count("vms", filter=Q(vms__vanished_at=None)))
    context = {
        "q": wanted,
        "nobody": request.GET.get("nobody", ""),
        "page": page_of(request, counted.order_by("name")),
        "loose": page_of(request, loose.order_by("name"), "loose"),
        "form": AssignForm(),
    }
    return render(request, "provider/assignments.html", context)


@provider_view
@require_POST
@told
@transaction.atomic
def assign(request: HttpRequest) -> HttpResponse:
    form = AssignForm(request.POST)
    vapps = found(VApp.objects.all(), request.POST.getlist("vapp"))
    vms = found(Vm.objects.all(), request.POST.getlist("vm"))
    if not form.is_valid() or not (vapps or vms):
        raise InvalidRequest("Tick at least one vApp or VM, and choose a tenant.")
    tenant = form.cleaned_data["tenant"]
    for vapp in vapps:
        assign_vapp(request.user, vapp, tenant)
    for vm in vms:
        assign_vm(request.user, vm, tenant)
    messages.success(request, f"{len(vapps) + len(vms)} assigned to {tenant or 'nobody'}.")
    return redirect(came_from(request))
