"""An item's archive: the engine's work, and the row that makes it count."""

from uuid import UUID, uuid5

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from backups.archive import gc
from backups.archive.reader import ArchiveReader
from backups.archive.store import ObjectStore
from backups.archive.writer import ArchiveWriter
from backups.engine.archiving import FIRST, Archived, archive_vm
from backups.engine.watch import Watch
from backups.errors import ArchiveDamaged, ArchiveMissing, Conflict, Interrupted
from backups.models import Archive, RecoveryItem, RunItem
from backups.models.archives import ArchiveState
from backups.models.recoveries import RecoveryMode
from backups.models.runs import ItemState
from backups.platform import Platform, Snapshot
from backups.services.repositories import open_store
from backups.services.tenants import writing_keys


def archive_item(item: RunItem, platform: Platform, watch: Watch) -> None:
    """Moves the item to `removing`: only then does the archive count, and only then may the snapshot go."""
    if item.vm.tenant_id != item.tenant_id:
        raise Conflict(f"{item.vm_name} no longer belongs to this tenant, so it is not archived for it.")
    store, keys = open_store(item.run.repository), writing_keys(item.tenant)
    _clear_earlier_attempts(item, store)
    vapp = platform.describe_vapp(item.vm.vapp.ref) if item.vm.vapp else None
    vapp_config = {"name": vapp.name, "settings": vapp.settings} if vapp else None
    archive_id = archive_id_of(item, item.attempt)

    def archive(previous: ArchiveReader | None, why_full: str = FIRST) -> Archived:
        with ArchiveWriter(store, keys) as writer:
            return archive_vm(
                platform=platform,
                snapshot=snapshot_of(item),
                writer=writer,
                archive_id=str(archive_id),
                previous=previous,
                why_full=why_full,
                extra={"vm": item.vm.instance_uuid, "vapp": vapp_config},
                watch=watch,
            )

    last, why_full = _last(item), FIRST
    if last and _recovered_since(last):
        last, why_full = None, "The VM was recovered in place since its last archive."
    try:
        archived = archive(ArchiveReader(store, keys, str(last.pk)) if last else None, why_full)
    except (ArchiveDamaged, ArchiveMissing):
        if last is None:
            raise
        Archive.objects.filter(pk=last.pk, state=ArchiveState.GOOD).update(state=ArchiveState.DAMAGED)
        archived = archive(None, f"The archive of {last.backup_time:%Y-%m-%d %H:%M} UTC is damaged.")
    with transaction.atomic():
        row = _record(item, archive_id, archived)
        row.vapp_config = vapp_config
        row.save(force_insert=True)
        _finish(item, row, archived)


def archive_id_of(item: RunItem, attempt: int) -> UUID:
    """Known from the item alone, so that the next attempt can clear away what a dead one left."""
    return uuid5(item.pk, str(attempt))


def _clear_earlier_attempts(item: RunItem, store: ObjectStore) -> None:
    """A worker that died after its manifest and before its row left an archive that nobody knows of."""
    for attempt in range(1, item.attempt):
        gc.delete_archive(store, str(item.tenant_id), str(archive_id_of(item, attempt)))


def _last(item: RunItem) -> Archive | None:
    """The VM's last good archive in this repository from before the item's snapshot: a later one, of another run,
    would put bytes of the future into this archive."""
    good = Archive.objects.filter(
        vm=item.vm, tenant=item.tenant, repository=item.run.repository, state=ArchiveState.GOOD
    )
    if item.snapshot_at:
        good = good.filter(backup_time__lt=item.snapshot_at)
    return good.order_by("-backup_time").first()


def _recovered_since(last: Archive) -> bool:
    """Files that are put on a datastore go past vSphere's change tracking. By our own clock: backup times are
    vCenter's."""
    in_place = RecoveryItem.objects.filter(archive__vm=last.vm_id, recovery__mode=RecoveryMode.IN_PLACE)
    begun = in_place.exclude(started_at=None)
    if last.run is None:
        return begun.exists()
    return begun.filter(Q(finished_at=None) | Q(finished_at__gt=last.run.created_at)).exists()


def snapshot_of(item: RunItem) -> Snapshot:
    if item.snapshot_at is None:
        raise Interrupted("This item has no snapshot.")
    return Snapshot(
        vm_ref=item.vm.ref,
        ref=item.snapshot_ref,
        name=item.snapshot_name,
        taken_at=item.snapshot_at,
        quiesced=item.quiesced,
    )


def _record(item: RunItem, archive_id: UUID, archived: Archived) -> Archive:
    assert item.snapshot_at is not None  # noqa: S101
    return Archive(
        id=archive_id,
        tenant=item.tenant,
        repository=item.run.repository,
        vm=item.vm,
        run=item.run,
        vm_name=item.vm_name,
        vapp_name=item.vapp_name,
        backup_time=item.snapshot_at,
        full=archived.full,
        full_reason=archived.reason,
        bytes_total=item.bytes_total,
        bytes_read=archived.bytes_read,
        bytes_new=archived.bytes_new,
        bytes_stored=archived.bytes_stored,
        change_ids=archived.change_ids,
    )


def _finish(item: RunItem, archive: Archive, archived: Archived) -> None:
    won = item.transition(
        ItemState.REMOVING,
        outcome=ItemState.SUCCEEDED,
        archive=archive,
        archived_at=timezone.now(),
        reason=archived.reason,
        transport=archived.transport[:255],
        bytes_read=archived.bytes_read,
        bytes_new=archived.bytes_new,
        bytes_stored=archived.bytes_stored,
    )
    if not won:
        # Rolls the row back as well; the manifest is cleared away by the attempt that took over.
        raise Interrupted("Another worker has taken this over.")
