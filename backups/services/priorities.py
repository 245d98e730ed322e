from django.db.models import OuterRef, Subquery

from backups.models import Archive, RunItem
from backups.models.archives import ArchiveState
from backups.ordering import POLICIES, Candidate

ASSUMED_BYTES_PER_S = 50_000_000


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
