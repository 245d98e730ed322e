"""What was ticked on the vApps screen. An id of another tenant is as good as a page that is not there."""

from collections.abc import Sequence
from typing import TypeVar
from uuid import UUID

from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest

from backups.errors import InvalidRequest
from backups.models import Tenant, VApp, Vm

M = TypeVar("M", bound=Model)


def ticked(request: HttpRequest, tenant: Tenant) -> tuple[list[VApp], list[Vm]]:
    """A VM whose vApp is ticked too goes with its vApp. Raises InvalidRequest if nothing is ticked."""
    vapps = found(VApp.objects.for_tenant(tenant), request.POST.getlist("vapp"))
    vms = found(Vm.objects.for_tenant(tenant).select_related("vapp"), request.POST.getlist("vm"))
    if not vapps and not vms:
        raise InvalidRequest("Tick at least one vApp or VM first.")
    whole = {vapp.pk for vapp in vapps}
    return vapps, [vm for vm in vms if vm.vapp_id not in whole]


def found(rows: QuerySet[M], ids: Sequence[str]) -> list[M]:
    """All of them, or 404."""
    try:
        wanted = {UUID(each) for each in ids}
    except ValueError as error:
        raise Http404 from error
    rows_found = list(rows.filter(pk__in=wanted))
    if len(rows_found) < len(wanted):
        raise Http404
    return rows_found
