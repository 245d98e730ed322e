"""What a run's VMs are expected to write and how long their archives are expected to take, and what follows for the
order."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import F, QuerySet, Window
from django.db.models.functions import RowNumber
from django.utils import timezone

from backups.durations import Last, Pace, Past, correction, expected_bytes, pace
from backups.engine.snapshotting import measure
from backups.load import HISTORY, Metric, predict
from backups.models import Archive, Run, RunItem
from backups.models.archives import ArchiveState
from backups.models.runs import ItemState
from backups.ordering import POLICIES, Candidate
from backups.platform import Load, Platform
from backups.services.history import histories, record

PASTS_OF_A_VM = 5
PASTS_OF_A_REPOSITORY = 100
SHORTEST_S = 0.1


def measure_items(platform: Platform, items: list[RunItem]) -> None:
    """Measures the VMs of one run's items, and stores what follows for their loads over the hold that is expected."""
    if not items:
        return
    now, run = timezone.now(), Run.objects.get(pk=items[0].run_id)
    loads = measure(platform, [item.vm.ref for item in items], settings.HOTFIRST_LOAD_WINDOW_S)
    measured = {item.vm_id: loads[item.vm.ref] for item in items}
    expect_durations(run, items, now)
    predict_items(run, items, measured, now)
    RunItem.objects.bulk_update(items, ["load_kbps", "load", "load_reason", "load_at"])
    record(measured, now)


def set_priorities(policy: str, items: list[RunItem]) -> None:
    """Stores what the policy makes of the loads of one run's items, and of how long their archives are expected to
    take by now; the highest priority is archived first."""
    if not items:
        return
    expect_durations(Run.objects.get(pk=items[0].run_id), items, timezone.now())
    candidates = [
        Candidate(
            id=str(item.pk),
            name=item.vm_name,
            load_kbps=item.load_kbps,
            load=item.load,
            expected_s=item.expected_s,
        )
        for item in items
    ]
    priorities = POLICIES[policy](candidates)
    for item in items:
        item.priority = priorities[str(item.pk)].value
    RunItem.objects.bulk_update(items, ["priority", "expected_s", "bytes_expected"])


def predict_items(run: Run, items: Sequence[RunItem], measured: Mapping[UUID, Load], now: datetime) -> None:
    """Sets the loads of items that have an `expected_s`; saves nothing. `measured` may lack any VM."""
    hold_s = _expected_hold_s(run, items)
    known = histories([item.vm_id for item in items], now, hold_s)
    for item in items:
        load = measured.get(item.vm_id)
        on = item.vm.powered_on or bool(load and load.samples)
        asked: dict[str, Any] = {"now": now, "hold_s": hold_s, "powered_on": on}
        ranked = predict(known.get(item.vm_id, []), load, metric=Metric(run.metric), **asked)
        written = predict(known.get(item.vm_id, []), load, metric=Metric.WRITE_KBPS, **asked)
        item.load, item.load_kbps, item.load_reason = ranked.value, written.value, ranked.reason
        if item.vm.powered_on and item.vm_id not in known and not (load and load.samples):
            _as_last_seen(item)
        item.load_at = now


def _as_last_seen(item: RunItem) -> None:
    """Better what it wrote when it was last looked at, whenever that was, than nothing."""
    item.load = item.load_kbps = item.vm.write_kbps
    item.load_reason = f"{item.load_kbps:,.1f} KB/s written when it was last measured"


def _expected_hold_s(run: Run, items: Sequence[RunItem]) -> float:
    """Of a VM in the middle of its batch."""
    mean_s = sum(item.expected_s for item in items) / len(items)
    together = min(run.batch_size or len(items), len(items))
    return mean_s * (1 + (together - 1) / run.readers / 2)


def expect_durations(run: Run, items: Sequence[RunItem], now: datetime) -> None:
    """Sets `expected_s` of one run's items, and `bytes_expected` of those whose changes nobody has counted yet; saves
    nothing. What the run has finished by now corrects the rest."""
    lasts = _lasts(run, items, now)
    done = list(_ended(run.repository_id, now).filter(run=run))
    own = _own_pasts(run, [item.vm_id for item in [*items, *done]], now)
    others = _pasts(_ended(run.repository_id, now).exclude(run=run).order_by("-finished_at")[:PASTS_OF_A_REPOSITORY])

    def pace_of(item: RunItem) -> Pace:
        return pace(own.get(item.vm_id, []), others)

    factor = correction(
        [(pace_of(item).seconds(past.bytes_read), past.seconds) for item in done for past in _pasts([item])]
    )
    for item in items:
        if item.state == ItemState.QUEUED:
            write_kbps = item.load_kbps if item.load_at else item.vm.write_kbps
            item.bytes_expected = expected_bytes(item.bytes_total, lasts.get(item.vm_id), write_kbps)
        item.expected_s = max(pace_of(item).seconds(item.bytes_expected) * factor, SHORTEST_S)


def _lasts(run: Run, items: Iterable[RunItem], now: datetime) -> dict[UUID, Last]:
    """What the next archives will be compared with."""
    good = Archive.objects.filter(
        vm__in=[item.vm_id for item in items],
        tenant=run.tenant_id,
        repository=run.repository_id,
        state=ArchiveState.GOOD,
    )
    newest = good.annotate(place=Window(RowNumber(), partition_by="vm", order_by="-backup_time")).filter(place=1)
    return {
        archive.vm_id: Last(
            bytes_read=archive.bytes_read,
            full=archive.full,
            age_s=max((now - archive.backup_time).total_seconds(), 0.0),
        )
        for archive in newest.defer("vapp_config", "change_ids")
    }


def _ended(repository_id: UUID, now: datetime) -> QuerySet[RunItem]:
    """Items whose archives tell how quick this repository is."""
    ended = RunItem.objects.filter(state=ItemState.SUCCEEDED, run__repository=repository_id)
    return ended.filter(finished_at__gt=now - HISTORY, archiving_at__isnull=False, removed_at__isnull=False)


def _own_pasts(run: Run, vm_ids: Sequence[UUID], now: datetime) -> dict[UUID, list[Past]]:
    mine = _ended(run.repository_id, now).filter(vm__in=vm_ids).exclude(run=run)
    ranked = mine.annotate(place=Window(RowNumber(), partition_by="vm", order_by=F("finished_at").desc()))
    found: dict[UUID, list[Past]] = {}
    for item in ranked.filter(place__lte=PASTS_OF_A_VM):
        found.setdefault(item.vm_id, []).extend(_pasts([item]))
    return found


def _pasts(items: Iterable[RunItem]) -> list[Past]:
    return [
        Past(bytes_read=item.bytes_read, seconds=(item.removed_at - item.archiving_at) / timedelta(seconds=1))
        for item in items
        if item.removed_at and item.archiving_at
    ]
