from uuid import UUID

from django.contrib import messages
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from backups.models import Plan, Role, Tenant
from backups.retention import PERIODS
from backups.services import plans as service
from backups.services.runs import start_run
from portal.access import tenant_view
from portal.plan_forms import PlanForm, RetentionForm, ScheduleForm, schedule_form
from portal.schedules import in_words
from portal.views.feedback import accepted, told
from portal.views.paging import page_of
from portal.views.promises import kept_by, starts_of
from portal.views.selection import found


@tenant_view(Role.VIEWER)
def plans(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    mine = Plan.objects.for_tenant(tenant).select_related("repository")
    counted = mine.annotate(vapp_count=Count("vapps", distinct=True), vm_count=Count("vms", distinct=True))
    page = page_of(request, counted.order_by("name"))
    for plan in page:
        plan.schedule = in_words(plan.cron, plan.every_weeks)
        kept = {rule: getattr(plan, f"keep_{rule}") for rule in PERIODS}
        plan.grandfathers = ", ".join(f"{count} {rule}" for rule, count in kept.items() if count)
    return render(request, "plans/list.html", {"page": page})


@tenant_view(Role.ADMIN, Role.ADMIN)
def new_plan(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    return _edit(request, tenant, None)


@tenant_view(Role.ADMIN, Role.ADMIN)
def edit_plan(request: HttpRequest, tenant: Tenant, plan_id: UUID) -> HttpResponse:
    return _edit(request, tenant, get_object_or_404(Plan.objects.for_tenant(tenant), pk=plan_id))


def _edit(request: HttpRequest, tenant: Tenant, plan: Plan | None) -> HttpResponse:
    sent = request.POST or None
    form, schedule = PlanForm(sent, instance=plan), schedule_form(plan, sent)
    retention = RetentionForm(sent, instance=plan)
    # All are asked, so that every mistake shows at once.
    parts = [schedule.is_valid(), retention.is_valid(), form.is_valid()]
    if all(parts) and accepted(form, lambda: _save(request, tenant, plan, form, schedule, retention)):
        messages.success(request, f"The plan {form.cleaned_data['name']} is saved. Now choose what it backs up.")
        return redirect("vapps", tenant.pk)
    context = {"form": form, "schedule": schedule, "retention": retention, "plan": plan, "starts": starts_of(schedule)}
    return render(request, "plans/edit.html", context)


def _save(
    request: HttpRequest, tenant: Tenant, plan: Plan | None, form: PlanForm, schedule: ScheduleForm, kept: RetentionForm
) -> None:
    options = form.options() | schedule.options() | kept.options()
    if plan:
        plan.version = form.cleaned_data["version"] or 0
        service.change_plan(request.user, plan, **options)
    else:
        service.create_plan(request.user, tenant, **options)


@tenant_view(Role.ADMIN)
def plan_starts(request: HttpRequest, _tenant: Tenant) -> HttpResponse:
    """The next starts of the schedule that the form holds now."""
    schedule = ScheduleForm(request.GET)
    return render(request, "plans/_starts.html", {"starts": starts_of(schedule), "schedule": schedule})


@tenant_view(Role.ADMIN)
def plan_kept(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    """What the form's schedule and retention would keep, and of a plan that exists, what they would delete."""
    plans = found(Plan.objects.for_tenant(tenant), request.GET.getlist("plan")[:1])
    kept = kept_by(ScheduleForm(request.GET), RetentionForm(request.GET), tenant, next(iter(plans), None))
    return render(request, "plans/_kept.html", {"kept": kept})


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
