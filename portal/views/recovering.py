"""From what was chosen to a recovery that runs: first the backup times, then what will happen, then the start."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse

from backups.engine.recovering import Placement
from backups.errors import HotfirstError, InvalidRequest
from backups.models import Archive, Recovery, Role, Tenant, Vm
from backups.models.archives import ArchiveState
from backups.models.recoveries import RecoveryMode
from backups.services.placements import Foresight, check_placement, foresee, homes
from backups.services.recoveries import check_recovery, recovery_points, start_recovery
from portal.access import enter, role_in, tenant_view
from portal.forms import PlacementForm, RecoveryForm, TargetForm
from portal.views.consequences import consequences
from portal.views.feedback import told
from portal.views.selection import found

MOST_TARGETS = 20
MOST_TIMES = 200


@dataclass
class Choice:
    """A backup time that can be chosen. Its key is a run of a vApp, or an archive of a VM."""

    key: UUID
    archives: Sequence[Archive]
    complete: bool = True


@dataclass
class Target:
    """A vApp or a VM that is to be recovered. `vapp_name` is empty for a VM."""

    name: str
    vapp_name: str
    choices: list[Choice]
    form: TargetForm
    place: PlacementForm
    vm_id: UUID | None = None
    foreseen: Foresight | None = None
    trouble: str = ""
    """Why vCenter could not be asked what will be."""

    @property
    def chosen(self) -> Choice:
        return next(choice for choice in self.choices if str(choice.key) == self.form.cleaned_data["point"])


@tenant_view(Role.OPERATOR)
@told
def choose(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    targets = _targets(request, tenant, request.GET, bound=False)
    if not targets:
        return redirect("recoveries", tenant.pk)
    return _ask(request, targets, _options(request, tenant, None))


@tenant_view(Role.OPERATOR, Role.OPERATOR)
@told
def review(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    """Says what will happen; posted, it happens."""
    if "again" in request.POST:
        return _again(request, tenant)
    data = request.POST if request.method == "POST" else request.GET
    if data.get("mode") == RecoveryMode.IN_PLACE:
        enter(request.user, tenant.pk, Role.ADMIN)
    targets = _targets(request, tenant, data, bound=True)
    if not targets:
        return redirect("recoveries", tenant.pk)
    options = _options(request, tenant, data)
    if not _complete(options, targets):
        return _ask(request, targets, options)
    if request.method == "POST":
        return _start(request, tenant, targets, options.cleaned_data)
    if _refused(request, tenant, targets, options.cleaned_data):
        return _ask(request, targets, options)
    if options.cleaned_data["mode"] == RecoveryMode.AS_NEW:
        _look_ahead(request, tenant, targets)
    return _say(request, targets, options.cleaned_data)


def _again(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    """Other networks were chosen, and what they lead to is to be read before it happens."""
    chosen = request.POST.copy()
    for name in ("again", "csrfmiddlewaretoken"):
        chosen.pop(name, None)
    return redirect(f"{reverse('recover-review', args=[tenant.pk])}?{chosen.urlencode()}")


def _look_ahead(request: HttpRequest, tenant: Tenant, targets: list[Target]) -> None:
    for target in targets:
        try:
            foreseen = foresee(
                tenant, target.chosen.archives, target.place.placement(), everywhere=request.user.is_staff
            )
        except HotfirstError as error:
            target.trouble = str(error)
        else:
            target.place.offer(foreseen.networks, sorted(foreseen.places.networks))
            target.foreseen = foreseen


def _refused(request: HttpRequest, tenant: Tenant, targets: list[Target], options: dict[str, Any]) -> bool:
    """What cannot be is said before anybody is asked to confirm it."""
    for target, order in zip(targets, _orders(targets, options), strict=True):
        try:
            archives, mode = list(target.chosen.archives), order["mode"]
            check_recovery(tenant, archives, mode, order["vapp_name"], order["new_name"])
            check_placement(tenant, archives, mode, order["placement"], everywhere=request.user.is_staff)
        except HotfirstError as error:
            target.form.add_error(None, str(error))
    return any(target.form.errors for target in targets)


def _options(request: HttpRequest, tenant: Tenant, data: QueryDict | None) -> RecoveryForm:
    return RecoveryForm(data, may_overwrite=role_in(request.user, tenant) == Role.ADMIN)


def _targets(request: HttpRequest, tenant: Tenant, data: QueryDict, *, bound: bool) -> list[Target]:
    vapp_names = data.getlist("vapp")
    vms = found(Vm.objects.for_tenant(tenant).order_by("name"), data.getlist("vm"))
    if len(vapp_names) + len(vms) > MOST_TARGETS:
        raise InvalidRequest(f"Recover at most {MOST_TARGETS} vApps or VMs at once.")
    chosen: list[tuple[str, UUID | None, list[Choice]]] = [
        *((name, None, _times_of_vapp(tenant, name)) for name in vapp_names),
        *((vm.name, vm.pk, _times_of_vm(tenant, vm)) for vm in vms),
    ]
    return [
        Target(
            name,
            "" if vm_id else name,
            choices,
            _form(data, bound, number, name, choices),
            _place_form(request, tenant, data if bound else None, number, choices),
            vm_id,
        )
        for number, (name, vm_id, choices) in enumerate(chosen)
    ]


def _form(data: QueryDict, bound: bool, number: int, name: str, choices: list[Choice]) -> TargetForm:
    """`archive` is the one whose Recover button was pressed."""
    given = data if bound else None
    return TargetForm(given, prefix=str(number), name=name, choices=choices, first=data.get("archive", ""))


def _place_form(
    request: HttpRequest, tenant: Tenant, given: QueryDict | None, number: int, choices: list[Choice]
) -> PlacementForm:
    vcenter = choices[0].archives[0].vm.vcenter if choices else None
    offered = homes(tenant, vcenter, request.user.is_staff) if vcenter else ([], [])
    return PlacementForm(given, prefix=str(number), homes=offered)


def _times_of_vapp(tenant: Tenant, name: str) -> list[Choice]:
    points = recovery_points(tenant, name)[:MOST_TIMES]
    return [Choice(point.run.pk, point.archives, point.complete) for point in points]


def _times_of_vm(tenant: Tenant, vm: Vm) -> list[Choice]:
    good = Archive.objects.for_tenant(tenant).filter(vm=vm, state=ArchiveState.GOOD).order_by("-backup_time")
    return [Choice(archive.pk, [archive]) for archive in good.select_related("vm__vcenter")[:MOST_TIMES]]


def _complete(options: RecoveryForm, targets: list[Target]) -> bool:
    """All forms are asked, so that every mistake shows at once."""
    if not options.is_valid():
        return False
    as_new = options.cleaned_data["mode"] == RecoveryMode.AS_NEW
    for target in targets:
        target.form.require_name(as_new)
    return sum(not (target.form.is_valid() & target.place.is_valid()) for target in targets) == 0


def _ask(request: HttpRequest, targets: list[Target], options: RecoveryForm) -> HttpResponse:
    return render(request, "recoveries/choose.html", {"targets": targets, "options": options})


def _orders(targets: list[Target], options: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "mode": options["mode"],
            "vapp_name": target.vapp_name,
            "new_name": target.form.cleaned_data["new_name"] if options["mode"] == RecoveryMode.AS_NEW else "",
            "power_on": options["power_on"],
            "placement": target.place.placement() if options["mode"] == RecoveryMode.AS_NEW else Placement(),
        }
        for target in targets
    ]


def _say(request: HttpRequest, targets: list[Target], options: dict[str, Any]) -> HttpResponse:
    plans = [
        {
            "target": target,
            "archives": target.chosen.archives,
            "backup_time": min(archive.backup_time for archive in target.chosen.archives),
            "bytes": sum(archive.bytes_total for archive in target.chosen.archives),
            "told": consequences(target.chosen.archives, complete=target.chosen.complete, **order),
            "choices": target.place.network_fields(),
        }
        for target, order in zip(targets, _orders(targets, options), strict=True)
    ]
    fields = [(name, value) for name, values in request.GET.lists() for value in values]
    asked = {field.html_name for target in targets for field in target.place.network_fields()}
    context = {
        "plans": plans,
        "fields": fields,
        "kept": [each for each in fields if each[0] not in asked],
        "in_place": options["mode"] == RecoveryMode.IN_PLACE,
    }
    return render(request, "recoveries/review.html", context)


def _start(request: HttpRequest, tenant: Tenant, targets: list[Target], options: dict[str, Any]) -> HttpResponse:
    started: list[Recovery] = []
    everywhere = request.user.is_staff
    for target, order in zip(targets, _orders(targets, options), strict=True):
        started.append(
            start_recovery(request.user, tenant, list(target.chosen.archives), everywhere=everywhere, **order)
        )
    if len(started) == 1:
        return redirect("recovery", tenant.pk, started[0].pk)
    messages.success(request, f"{len(started)} recoveries have started.")
    return redirect("recoveries", tenant.pk)
