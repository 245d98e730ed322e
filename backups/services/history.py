"""Each VM's own load history: sampled every few minutes, raw for a day, then hourly means, kept for thirty days."""

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Avg, DateTimeField, Exists, Func, Max, OuterRef, Q, QuerySet, Subquery

from backups.engine.snapshotting import measure
from backups.errors import HotfirstError
from backups.load import HISTORY, HOUR, RECENT, Sample, covered_hours, hour_of
from backups.locks import exclusive
from backups.models import LoadSample, VCenter, Vm
from backups.platform import Load
from backups.services.vcenters import connect

log = logging.getLogger(__name__)
SAMPLED_EVERY = timedelta(minutes=5)
JITTER = timedelta(seconds=30)
"""A tick may come so much early."""
RAW_KEPT = timedelta(days=1)
SHOWN = timedelta(days=7)
HOURS_ASKED_FOR = 240
"""Of each VM: a long hold covers so many hours of the day that fewer days will do, a week at least."""
RATES = ("write_kbps", "read_kbps", "write_iops", "read_iops")


class Hour(Func):
    """The hour in which a time lies, UTC. On SQLite times are text."""

    output_field = DateTimeField()

    def as_sqlite(self, compiler: Any, connection: Any, **extra_context: Any) -> Any:
        return self.as_sql(compiler, connection, template="substr(%(expressions)s, 1, 13) || ':00:00'", **extra_context)

    def as_postgresql(self, compiler: Any, connection: Any, **extra_context: Any) -> Any:
        return self.as_sql(compiler, connection, template="date_trunc('hour', %(expressions)s, 'UTC')", **extra_context)


def sample_all(now: datetime) -> None:
    """The loads of all running VMs of all vCenters, if they are due; nothing to do if another tick was first."""
    sampled = [_sample(vcenter, now) for vcenter in VCenter.objects.all()]
    if any(sampled) and now - hour_of(now) < SAMPLED_EVERY:
        thin_samples(now)


def _sample(vcenter: VCenter, now: datetime) -> bool:
    due = Q(sampled_at=None) | Q(sampled_at__lte=now - SAMPLED_EVERY + JITTER)
    if not VCenter.objects.filter(due, pk=vcenter.pk).update(sampled_at=now):
        return False
    refs = dict(_due(vcenter, now).values_list("pk", "ref"))
    if not refs:
        return False
    try:
        with connect(vcenter) as platform:
            loads = measure(platform, list(refs.values()), int(SAMPLED_EVERY.total_seconds()))
    except HotfirstError as error:
        log.warning("loads of %s: %s", vcenter, error)
        return False
    with exclusive(f"load samples of {vcenter.pk}"):
        still_due = set(_due(vcenter, now).values_list("pk", flat=True))
        record({vm_id: loads[ref] for vm_id, ref in refs.items() if vm_id in still_due}, now)
    return True


def _due(vcenter: VCenter, now: datetime) -> QuerySet[Vm]:
    sampled = LoadSample.objects.filter(vm=OuterRef("pk"), at__gt=now - SAMPLED_EVERY + JITTER)
    return Vm.objects.filter(~Exists(sampled), vcenter=vcenter, vanished_at=None, powered_on=True)


def record(loads: Mapping[UUID, Load], at: datetime) -> None:
    """By VM. A load without samples is none."""
    measured = {vm_id: load for vm_id, load in loads.items() if load.samples}
    LoadSample.objects.bulk_create(
        LoadSample(vm_id=vm_id, at=at, **{rate: getattr(load, rate) for rate in RATES})
        for vm_id, load in measured.items()
    )
    newest = LoadSample.objects.filter(vm=OuterRef("pk"), at=at)
    Vm.objects.filter(pk__in=measured).update(
        write_kbps=Subquery(newest.values("write_kbps")[:1]), read_kbps=Subquery(newest.values("read_kbps")[:1])
    )


def thin_samples(now: datetime) -> None:
    """Hourly means instead of what is older than a day; what is older than thirty days goes."""
    LoadSample.objects.filter(at__lt=hour_of(now - HISTORY)).delete()
    old = LoadSample.objects.filter(at__lt=hour_of(now - RAW_KEPT)).exclude(at=Hour("at")).order_by()
    means, values = old.values("vm_id", hour=Hour("at")).annotate(**_averages()).query.sql_with_params()
    names = ", ".join(connection.ops.quote_name(name) for name in ("vm_id", "at", *RATES))
    with exclusive("load samples"):
        newest = LoadSample.objects.aggregate(pk=Max("pk"))["pk"] or 0
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {LoadSample._meta.db_table} ({names}) {means}", values)
        old.filter(pk__lte=newest).delete()


def _averages() -> dict[str, Avg]:
    return {f"mean_{rate}": Avg(rate) for rate in RATES}


def histories(vm_ids: Collection[UUID], now: datetime, hold_s: float) -> dict[UUID, list[Sample]]:
    """Of each VM what a prediction for the next `hold_s` seconds asks for: the last samples, and those of the hours
    that the hold covers on earlier days."""
    covered = covered_hours(now, hold_s)
    this_hour, yesterday = hour_of(now), timedelta(days=1)
    days = max(7, min(HISTORY.days, HOURS_ASKED_FOR // len(covered)))
    earlier = [this_hour - n * HOUR for n in range(1, days * 24 + 1)]
    end = hour_of(now + timedelta(seconds=min(hold_s, 86_400))) + HOUR
    asked_for = (
        Q(at__gt=now - RECENT)
        | Q(at__gte=this_hour - yesterday, at__lt=end - yesterday)
        | Q(at__in=[at for at in earlier if at.hour in covered])
    )
    rows = LoadSample.objects.filter(asked_for, vm__in=vm_ids, at__lte=now)
    return _by_vm(rows.values_list("vm_id", "at", *RATES))


def recent_loads(vm_ids: Collection[UUID], now: datetime) -> dict[UUID, list[Sample]]:
    """Of each VM its hourly means of the last seven days, the oldest first. One query for any number of VMs."""
    rows = LoadSample.objects.filter(vm__in=vm_ids, at__gte=hour_of(now - SHOWN), at__lte=now)
    hourly = rows.values("vm_id", hour=Hour("at")).annotate(**_averages()).order_by("hour")
    return _by_vm(hourly.values_list("vm_id", "hour", *_averages()))


def _by_vm(rows: "QuerySet[LoadSample, Any]") -> dict[UUID, list[Sample]]:
    found: dict[UUID, list[Sample]] = defaultdict(list)
    for vm_id, at, write_kbps, read_kbps, write_iops, read_iops in rows.iterator():
        sample = Sample(at=at, write_kbps=write_kbps, read_kbps=read_kbps, write_iops=write_iops, read_iops=read_iops)
        found[vm_id].append(sample)
    return dict(found)
