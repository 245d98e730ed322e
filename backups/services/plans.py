from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import Any
from zoneinfo import ZoneInfo

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from backups.errors import Conflict, InvalidRequest
from backups.models import Plan, Tenant, VApp, Vm
from backups.retention import Rules, Verdict, preview
from backups.schedule import Schedule, check_schedule, next_starts, read_blackouts, starts
from backups.services import audit
from backups.services.audit import Actor

PREVIEWED, MOST_PREVIEWED = timedelta(days=365), 4500
OPTIONS = (
    "name",
    "cron",
    "time_zone",
    "every_weeks",
    "first_week",
    "blackouts",
    "keep_count",
    "keep_days",
    "keep_daily",
    "keep_weekly",
    "keep_monthly",
    "keep_yearly",
    "gfs_weekday",
    "repository",
    "policy",
    "metric",
    "batch_size",
    "vapps_whole",
    "hold_budget_s",
    "over_budget",
    "readers",
    "quiesce",
)


def create_plan(actor: Actor, tenant: Tenant, **options: Any) -> Plan:
    plan = Plan(tenant=tenant, **options)
    _prepare(plan)
    with transaction.atomic():
        plan.save(force_insert=True)
        audit.record(actor, tenant, "plan.create", plan.name, **_readable(options))
    return plan


def change_plan(actor: Actor, plan: Plan, **options: Any) -> Plan:
    """Raises Conflict if somebody changed the plan since it was read."""
    unknown = set(options) - set(OPTIONS)
    if unknown:
        raise InvalidRequest(f"A plan has no option {', '.join(sorted(unknown))}.")
    for name, value in options.items():
        setattr(plan, name, value)
    _prepare(plan)
    values = {name: getattr(plan, name) for name in (*OPTIONS, "next_start_at")}
    with transaction.atomic():
        mine = Plan.objects.filter(pk=plan.pk, version=plan.version)
        if not mine.update(**values, version=F("version") + 1):
            raise Conflict("Somebody else changed this plan meanwhile; reload it and try again.")
        audit.record(actor, plan.tenant, "plan.change", plan.name, **_readable(options))
    plan.version += 1
    return plan


def _prepare(plan: Plan) -> None:
    check_schedule(schedule_of(plan))
    if plan.every_weeks > 1 and plan.first_week is None:
        plan.first_week = timezone.now().astimezone(ZoneInfo(plan.time_zone)).date()
    coming = next_starts(schedule_of(plan), timezone.now(), 1)
    plan.next_start_at = coming[0] if coming else None
    try:
        plan.full_clean(exclude=["next_start_at"])
    except ValidationError as error:
        raise InvalidRequest(_sentence(error)) from error


def schedule_of(plan: Plan) -> Schedule:
    """Raises InvalidRequest if the blackouts are not understood."""
    return Schedule(
        cron=plan.cron,
        time_zone=plan.time_zone,
        every_weeks=plan.every_weeks,
        first_week=plan.first_week,
        blackouts=read_blackouts(plan.blackouts),
    )


def rules_of(plan: Plan) -> Rules:
    return Rules(
        count=plan.keep_count,
        days=plan.keep_days,
        daily=plan.keep_daily,
        weekly=plan.keep_weekly,
        monthly=plan.keep_monthly,
        yearly=plan.keep_yearly,
        weekday=plan.gfs_weekday,
        time_zone=plan.time_zone,
    )


@dataclass(frozen=True)
class Promise:
    """What there will be of each VM at `until`, newest first, after so many starts."""

    starts: int
    until: datetime
    kept: list[tuple[datetime, Verdict]]


def retention_preview(plan: Plan, now: datetime) -> Promise | None:
    """Of the coming year, or as far as MOST_PREVIEWED starts reach; None for a plan that starts by hand only. The
    plan need not be saved. Raises InvalidRequest if its schedule is none."""
    schedule = schedule_of(plan)
    check_schedule(schedule)
    coming = takewhile(lambda start: start <= now + PREVIEWED, starts(schedule, now))
    made = list(islice(coming, MOST_PREVIEWED))
    return Promise(len(made), made[-1], preview(rules_of(plan), made, made[-1])) if made else None


def _sentence(error: ValidationError) -> str:
    told = []
    for field, messages in error.message_dict.items():
        name = "" if field == NON_FIELD_ERRORS else f"{getattr(Plan._meta.get_field(field), 'verbose_name', field)}: "
        told.append(f"{name}{' '.join(messages)}")
    sentence = " ".join(told)
    return sentence[0].upper() + sentence[1:]


def _readable(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, int | list | None) else str(value) for name, value in options.items()}


@transaction.atomic
def delete_plan(actor: Actor, plan: Plan) -> None:
    """Its archives and runs stay; what it was applied to is without a plan afterwards."""
    audit.record(actor, plan.tenant, "plan.delete", plan.name)
    plan.delete()


@transaction.atomic
def apply_plan(actor: Actor, plan: Plan, vapps: Iterable[VApp] = (), vms: Iterable[Vm] = ()) -> None:
    """A vApp's own VMs follow it: a plan applied to one of them singly before gives way."""
    vapps, vms = list(vapps), list(vms)
    if any(thing.tenant_id != plan.tenant_id for thing in (*vapps, *vms)):
        raise InvalidRequest("The plan and what it is applied to belong to different tenants.")
    _set_plan(plan.tenant, vapps, vms, plan)
    for thing in (*vapps, *vms):
        audit.record(actor, plan.tenant, "plan.apply", thing.name, plan=plan.name)


@transaction.atomic
def revoke_plan(actor: Actor, tenant: Tenant, vapps: Iterable[VApp] = (), vms: Iterable[Vm] = ()) -> None:
    vapps, vms = list(vapps), list(vms)
    _set_plan(tenant, vapps, vms, None)
    for thing in (*vapps, *vms):
        audit.record(actor, tenant, "plan.revoke", thing.name)


def _set_plan(tenant: Tenant, vapps: list[VApp], vms: list[Vm], plan: Plan | None) -> None:
    VApp.objects.for_tenant(tenant).filter(pk__in=[vapp.pk for vapp in vapps]).update(plan=plan)
    Vm.objects.for_tenant(tenant).filter(vapp__in=vapps).update(plan=None)
    Vm.objects.for_tenant(tenant).filter(pk__in=[vm.pk for vm in vms]).update(plan=plan)


def vms_of(plan: Plan) -> QuerySet[Vm]:
    """The VMs that the plan protects now: its own, and those of its vApps without a plan of their own."""
    return _applied(plan).filter(vanished_at=None)


def gone_from(plan: Plan) -> QuerySet[Vm]:
    """The VMs that the plan would protect were they still in vCenter."""
    return _applied(plan).exclude(vanished_at=None)


def _applied(plan: Plan) -> QuerySet[Vm]:
    applied = Q(plan=plan) | Q(plan=None, vapp__plan=plan)
    return Vm.objects.for_tenant(plan.tenant).filter(applied).select_related("vapp", "vcenter")
