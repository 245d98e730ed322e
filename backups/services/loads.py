"""What VMs write, and what follows for the order."""

from datetime import datetime

from django.conf import settings
from django.db.models import OuterRef, Subquery
from django.utils import timezone

from backups.engine.snapshotting import measure
from backups.models import Archive, LoadSample, RunItem, Vm
from backups.models.archives import ArchiveState
from backups.ordering import POLICIES, Candidate
from backups.platform import Load, Platform

ASSUMED_BYTES_PER_S = 50_000_000


def measure_items(platform: Platform, items: list[RunItem]) -> None:
    """Stores the loads of items, the newest of their VMs, and a sample of each VM's own history."""
    now = timezone.now()
    loads = measure(platform, [item.vm.ref for item in items], settings.HOTFIRST_LOAD_WINDOW_S)
    for item in items:
        load = loads[item.vm.ref]
        item.load_kbps = load.write_kbps if load.samples or not item.vm.powered_on else item.vm.write_kbps
        item.load_at = now
        if load.samples:
            Vm.objects.filter(pk=item.vm_id).update(write_kbps=load.write_kbps, read_kbps=load.read_kbps)
    RunItem.objects.bulk_update(items, ["load_kbps", "load_at"])
    LoadSample.objects.bulk_create(
        _sample(item, loads[item.vm.ref], now) for item in items if loads[item.vm.ref].samples
    )


def _sample(item: RunItem, load: Load, at: datetime) -> LoadSample:
    return LoadSample(
        vm_id=item.vm_id,
        at=at,
        write_kbps=load.write_kbps,
        read_kbps=load.read_kbps,
        write_iops=load.write_iops,
        read_iops=load.read_iops,
    )


def set_priorities(policy: str, items: list[RunItem]) -> None:
    """Stores what the policy makes of the items' loads; the highest priority is archived first."""
    expected = _expected_bytes(items)
    candidates = [
        Candidate(
            id=str(item.pk),
            name=item.vm_name,
            load_kbps=item.load_kbps,
            expected_s=max(expected[str(item.pk)] / ASSUMED_BYTES_PER_S, 0.1),
        )
        for item in items
    ]
    priorities = POLICIES[policy](candidates)
    for item in items:
        item.priority = priorities[str(item.pk)].value
    RunItem.objects.bulk_update(items, ["priority"])


def _expected_bytes(items: list[RunItem]) -> dict[str, int]:
    """What the last archive read, or all of the VM if there is none."""
    last = Archive.objects.filter(vm=OuterRef("vm"), state=ArchiveState.GOOD).order_by("-backup_time")
    rows = RunItem.objects.filter(pk__in=[item.pk for item in items]).annotate(
        last_full=Subquery(last.values("full")[:1]), last_read=Subquery(last.values("bytes_read")[:1])
    )
    return {str(row.pk): row.bytes_total if row.last_read is None or row.last_full else row.last_read for row in rows}
