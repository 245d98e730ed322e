from uuid import UUID

from django.contrib import messages
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST

from backups.errors import HotfirstError
from backups.models import Plan, Role, Tenant
from backups.schedule import Schedule, check_schedule, next_starts
from backups.services import plans as service
from backups.services.runs import start_run
from portal.access import tenant_view
from portal.forms import PlanForm, ScheduleForm, schedule_of
from portal.schedules import in_words
from portal.views.feedback import accepted, told
from portal.views.paging import page_of


@tenant_view(Role.VIEWER)
def plans(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    mine = Plan.objects.for_tenant(tenant).select_related("repository")
    counted = mine.annotate(vapp_count=Count("vapps", distinct=True), vm_count=Count("vms", distinct=True))
    page = page_of(request, counted.order_by("name"))
    for plan in page:
        plan.schedule = in_words(plan.cron)
    return render(request, "plans/list.html", {"page": page})


@tenant_view(Role.ADMIN, Role.ADMIN)
def new_plan(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    return _edit(request, tenant, None)


@tenant_view(Role.ADMIN, Role.ADMIN)
def edit_plan(request: HttpRequest, tenant: Tenant, plan_id: UUID) -> HttpResponse:
    return _edit(request, tenant, get_object_or_404(Plan.objects.for_tenant(tenant), pk=plan_id))


def _edit(request: HttpRequest, tenant: Tenant, plan: Plan | None) -> HttpResponse:
    form = PlanForm(request.POST or None, instance=plan)
    schedule = schedule_of(plan, request.POST or None)
    # Both are asked, so that every mistake shows at once.
    timed, filled_in = schedule.is_valid(), form.is_valid()
    if timed and filled_in and accepted(form, lambda: _save(request, tenant, plan, form, schedule)):
        messages.success(request, f"The plan {form.cleaned_data['name']} is saved. Now choose what it backs up.")
        return redirect("vapps", tenant.pk)
    context = {"form": form, "schedule": schedule, "plan": plan, "starts": _starts(schedule)}
    return render(request, "plans/edit.html", context)


def _save(request: HttpRequest, tenant: Tenant, plan: Plan | None, form: PlanForm, schedule: ScheduleForm) -> None:
    options = form.options() | {name: schedule.cleaned_data[name] for name in ("cron", "time_zone")}
    if plan:
        plan.version = form.cleaned_data["version"] or 0
        service.change_plan(request.user, plan, **options)
    else:
        service.create_plan(request.user, tenant, **options)


@tenant_view(Role.ADMIN)
def plan_starts(request: HttpRequest, _tenant: Tenant) -> HttpResponse:
    """The next starts of the schedule that the form holds now."""
    schedule = ScheduleForm(request.GET)
    return render(request, "plans/_starts.html", {"starts": _starts(schedule), "schedule": schedule})


def _starts(schedule: ScheduleForm) -> dict[str, object]:
    """`at` and `zone`, or in `told` why there are none."""
    filled = schedule if schedule.is_bound else ScheduleForm({"time_zone": "UTC", **schedule.initial})
    if not filled.is_valid():
        return {"told": "Complete the schedule to see when it starts."}
    cron, zone = filled.cleaned_data["cron"], filled.cleaned_data["time_zone"]
    if not cron:
        return {"told": "It starts only when somebody presses “Back up now”."}
    try:
        timed = Schedule(cron=cron, time_zone=zone)
        check_schedule(timed)
        return {"at": next_starts(timed, timezone.now(), 5), "zone": zone}
    except HotfirstError as error:
        return {"told": str(error)}


@tenant_view(Role.ADMIN, Role.ADMIN)
@told
def delete_plan(request: HttpRequest, tenant: Tenant, plan_id: UUID) -> HttpResponse:
    plan = get_object_or_404(Plan.objects.for_tenant(tenant), pk=plan_id)
    if request.method == "POST":
        service.delete_plan(request.user, plan)
        messages.success(request, f"The plan {plan.name} is deleted. Its archives stay.")
        return redirect("plans", tenant.pk)
    return render(request, "plans/delete.html", {"plan": plan, "vms": service.vms_of(plan).count()})


@tenant_view(Role.OPERATOR, Role.OPERATOR)
@require_POST
@told
def run_plan(request: HttpRequest, tenant: Tenant, plan_id: UUID) -> HttpResponse:
    run = start_run(request.user, get_object_or_404(Plan.objects.for_tenant(tenant), pk=plan_id))
    return redirect("run", tenant.pk, run.pk)
