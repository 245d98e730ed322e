"""Enrolment in two steps. The certificate that was looked up waits in the session, so that the one that is confirmed
is the one that is kept."""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from backups.models import Datastore, VCenter
from backups.services import inventory
from backups.services import vcenters as service
from backups.services.datastores import key_of, open_snapshots
from portal.access import provider_view
from portal.forms import AddressForm, EnrolForm
from portal.views.feedback import accepted, told
from portal.views.paging import page_of

FOUND = "found_vcenter"


@provider_view
def vcenters(request: HttpRequest) -> HttpResponse:
    counted = VCenter.objects.annotate(vm_count=Count("vms", filter=Q(vms__vanished_at=None)))
    return render(request, "provider/vcenters.html", {"page": page_of(request, counted.order_by("name"))})


class LimitsForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = VCenter
        fields = service.LIMITS
        help_texts = dict.fromkeys(service.LIMITS[:4], "0: no limit.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            field.label = str(field.label)[0].upper() + str(field.label)[1:]


@provider_view
def vcenter(request: HttpRequest, vcenter_id: UUID) -> HttpResponse:
    found = get_object_or_404(VCenter, pk=vcenter_id)
    form = LimitsForm(request.POST or None, instance=get_object_or_404(VCenter, pk=vcenter_id))
    if request.method == "POST" and accepted(form, lambda: _change(request, found, form)):
        messages.success(request, f"The limits of {found} are kept from now on, also by runs that go on.")
        return redirect("provider-vcenter", found.pk)
    page = page_of(request, found.datastores.order_by("name"))
    opened = open_snapshots(found, "datastore")
    for datastore in page:
        datastore.used_percent = _used_percent(datastore)
        datastore.pressure = _pressure(found, datastore)
        datastore.snapshots = opened[key_of(found, datastore.name)]
    return render(request, "provider/vcenter_limits.html", {"vcenter": found, "form": form, "page": page})


def _change(request: HttpRequest, found: VCenter, form: LimitsForm) -> None:
    changed = {name: form.cleaned_data[name] for name in form.changed_data}
    if changed:
        service.change_limits(request.user, found, **changed)


def _used_percent(datastore: Datastore) -> float:
    capacity = datastore.capacity_bytes
    return 100 * (capacity - datastore.free_bytes) / capacity if capacity else 0.0


def _pressure(vcenter: VCenter, datastore: Datastore) -> tuple[str, str] | None:
    """What the latency that was measured means for runs: a state and a word for it."""
    if datastore.latency_ms is None:
        return None
    if vcenter.latency_stop_ms and datastore.latency_ms > vcenter.latency_stop_ms:
        return "failed", "nothing new starts"
    if vcenter.latency_slow_ms and datastore.latency_ms > vcenter.latency_slow_ms:
        return "waiting", "readers slow down"
    return None


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
