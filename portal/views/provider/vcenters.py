"""Enrolment in two steps. The certificate that was looked up waits in the session, so that the one that is confirmed
is the one that is kept."""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from backups.models import VCenter
from backups.services import inventory
from backups.services import vcenters as service
from portal.access import provider_view
from portal.forms import AddressForm, EnrolForm
from portal.views.feedback import accepted, told
from portal.views.paging import page_of

FOUND = "found_vcenter"


@provider_view
def vcenters(request: HttpRequest) -> HttpResponse:
    counted = VCenter.objects.annotate(vm_count=Count("vms", filter=Q(vms__vanished_at=None)))
    return render(request, "provider/vcenters.html", {"page": page_of(request, counted.order_by("name"))})


@provider_view
def find(request: HttpRequest) -> HttpResponse:
    form = AddressForm(request.POST or None)

    def look_up() -> None:
        pem, fingerprint = service.look_up_certificate(form.cleaned_data["host"], form.cleaned_data["port"])
        request.session[FOUND] = {**form.cleaned_data, "certificate_pem": pem, "fingerprint": fingerprint}

    if request.method == "POST" and accepted(form, look_up):
        return redirect("provider-vcenter-confirm")
    return render(request, "provider/vcenter_find.html", {"form": form})


@provider_view
def enrol(request: HttpRequest) -> HttpResponse:
    found: dict[str, Any] | None = request.session.get(FOUND)
    if found is None:
        return redirect("provider-vcenter-new")
    form = EnrolForm(request.POST or None, initial={"name": found["host"]})
    address = {name: found[name] for name in ("host", "port", "certificate_pem")}

    def save() -> None:
        given = {name: form.cleaned_data[name] for name in ("name", "username", "password")}
        service.enrol_vcenter(request.user, **given, **address)

    if request.method == "POST" and accepted(form, save):
        del request.session[FOUND]
        messages.success(request, f"{form.cleaned_data['name']} is enrolled and its inventory read. Now assign vApps.")
        return redirect("provider-assignments")
    return render(request, "provider/vcenter_enrol.html", {"form": form, "found": found})


@provider_view
@require_POST
@told
def refresh(request: HttpRequest, vcenter_id: UUID) -> HttpResponse:
    vcenter = get_object_or_404(VCenter, pk=vcenter_id)
    inventory.refresh(vcenter)
    messages.success(request, f"The inventory of {vcenter} is what it says now.")
    return redirect("provider-vcenters")
