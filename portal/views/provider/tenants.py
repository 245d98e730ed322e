from uuid import UUID

from django.contrib import messages
from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from backups.models import Archive, Membership, Tenant, Vm
from backups.models.archives import ArchiveState
from backups.services import tenants as service
from portal.access import provider_view
from portal.forms import MemberForm, TenantForm
from portal.views.feedback import accepted, told
from portal.views.paging import page_of


@provider_view
def tenants(request: HttpRequest) -> HttpResponse:
    form = TenantForm(request.POST or None)
    if request.method == "POST" and accepted(form, lambda: service.create_tenant(request.user, **form.cleaned_data)):
        made = get_object_or_404(Tenant, name=form.cleaned_data["name"].strip())
        messages.success(request, f"{made} is there, with keys of its own. Now add its people.")
        return redirect("provider-members", made.pk)
    return render(
        request, "provider/tenants.html", {"page": page_of(request, _counted().order_by("name")), "form": form}
    )


def _counted() -> QuerySet[Tenant]:
    """Each figure in a subquery of its own: joins would multiply one another."""
    vms = Vm.objects.filter(tenant=OuterRef("pk"), vanished_at=None).order_by().values("tenant")
    kept = Archive.objects.filter(tenant=OuterRef("pk")).exclude(state=ArchiveState.DELETED).order_by()
    return Tenant.objects.annotate(
        people=Count("memberships"),
        vm_count=Coalesce(Subquery(vms.annotate(n=Count("pk")).values("n"), output_field=IntegerField()), 0),
        stored=Coalesce(Subquery(kept.values("tenant").annotate(n=Sum("bytes_stored")).values("n")), 0),
    )


@provider_view
def members(request: HttpRequest, tenant_id: UUID) -> HttpResponse:
    customer = get_object_or_404(Tenant, pk=tenant_id)
    form = MemberForm(request.POST or None)

    def save() -> None:
        service.set_membership(request.user, customer, form.member(), form.cleaned_data["role"])

    if request.method == "POST" and accepted(form, save):
        messages.success(request, f"{form.cleaned_data['username']} belongs to {customer} now.")
        return redirect("provider-members", customer.pk)
    here = Membership.objects.for_tenant(customer).select_related("user").order_by("user__username")
    context = {"customer": customer, "page": page_of(request, here), "form": form}
    return render(request, "provider/members.html", context)


@provider_view
@require_POST
@told
def remove_member(request: HttpRequest, tenant_id: UUID, membership_id: UUID) -> HttpResponse:
    customer = get_object_or_404(Tenant, pk=tenant_id)
    membership = get_object_or_404(Membership.objects.for_tenant(customer), pk=membership_id)
    service.remove_membership(request.user, customer, membership.user)
    messages.success(request, f"{membership.user} no longer belongs to {customer}.")
    return redirect("provider-members", customer.pk)
