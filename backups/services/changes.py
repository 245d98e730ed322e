"""How much of a VM its next archive will read, asked of change tracking once its snapshot is there."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from django.db.models import OuterRef, Subquery

from backups.engine.archiving import bytes_expected
from backups.errors import HotfirstError
from backups.models import Archive, RunItem
from backups.models.archives import ArchiveState
from backups.models.runs import ItemState
from backups.platform import Platform
from backups.services.archiving import snapshot_of

AT_ONCE = 8


def expect_changes(platform: Platform, items: Sequence[RunItem]) -> None:
    """Stores `bytes_expected` of items whose snapshots were taken just now; where nothing can be told the old one
    stays. The database is not touched from the threads."""
    waiting = [item for item in items if item.state == ItemState.WAITING]
    since = _change_ids(waiting)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        expected = list(pool.map(lambda item: _ask(platform, item, since.get(item.pk) or {}), waiting))
    told = [(item, count) for item, count in zip(waiting, expected, strict=True) if count is not None]
    for item, count in told:
        item.bytes_expected = count
    RunItem.objects.bulk_update([item for item, _ in told], ["bytes_expected"])


def _change_ids(items: Sequence[RunItem]) -> dict[object, dict[str, str] | None]:
    last = Archive.objects.filter(
        vm=OuterRef("vm"), tenant=OuterRef("tenant"), repository=OuterRef("run__repository"), state=ArchiveState.GOOD
    ).order_by("-backup_time")
    rows = RunItem.objects.filter(pk__in=[item.pk for item in items])
    return dict(rows.annotate(since=Subquery(last.values("change_ids")[:1])).values_list("pk", "since"))


def _ask(platform: Platform, item: RunItem, since: dict[str, str]) -> int | None:
    try:
        return bytes_expected(platform, snapshot_of(item), since)
    except HotfirstError:
        return None
