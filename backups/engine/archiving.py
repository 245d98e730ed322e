"""Step 6 of a run: a VM's archive from its snapshot."""

import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from backups.archive.maps import CHUNK_BYTES, DiskMap, chunk_count, touched
from backups.archive.reader import ArchiveReader
from backups.archive.writer import ArchiveWriter
from backups.engine.watch import Watch
from backups.errors import ChangeTrackingUnusable
from backups.platform import Area, DiskReader, Platform, Snapshot, SnapshotDisk

FIRST = "The first archive of this VM."
SAMPLED_SHARE = 1 / 1024
MAX_SAMPLED_CHUNKS = 16
"""Of each disk: chunks that change tracking calls unchanged and that are read again all the same, in every run."""


@dataclass(frozen=True, kw_only=True)
class DiskPlan:
    """What to read of a disk. `areas` None: everything. `reason` says why not only changes are read."""

    source: SnapshotDisk
    areas: Sequence[Area] | None
    base: DiskMap | None
    reason: str

    @property
    def bytes_expected(self) -> int:
        if self.areas is None:
            return self.source.disk.capacity_bytes
        return len(_chunks(self.areas, self.source.disk.capacity_bytes)) * CHUNK_BYTES


@dataclass(frozen=True, kw_only=True)
class Archived:
    full: bool
    reason: str
    transport: str
    bytes_read: int
    bytes_new: int
    bytes_stored: int
    change_ids: dict[str, str]
    """Disk key to change id, of the disks that have one."""


def archive_vm(
    *,
    platform: Platform,
    snapshot: Snapshot,
    writer: ArchiveWriter,
    archive_id: str,
    previous: ArchiveReader | None,
    why_full: str = FIRST,
    extra: dict[str, Any],
    watch: Watch,
) -> Archived:
    """Everything of the VM at its snapshot time; what has not changed since `previous` is referenced, not read.
    The archive is durable when this returns, and does not exist if it raises. Raises ArchiveDamaged if `previous` is:
    then `why_full` is the reason to give for an archive without it."""
    config = platform.describe(snapshot.vm_ref, snapshot)
    plans = [_plan(platform, snapshot, source, previous, why_full) for source in platform.snapshot_disks(snapshot)]
    watch.report(bytes_expected=sum(plan.bytes_expected for plan in plans))
    transports: list[str] = []
    reasons: list[str] = []
    bytes_read = 0
    for plan in plans:
        with closing(platform.open_disk(snapshot, plan.source.disk)) as disk:
            audited = _audited(plan, disk, writer)
            reasons += [audited.reason] if audited.reason else []
            transports.append(f"{disk.transport}: {disk.transport_reason}")
            bytes_read += _write(audited, disk, writer, watch, bytes_read)
    watch.check()
    stats = writer.commit(
        archive_id=archive_id,
        backup_time=snapshot.taken_at,
        config={
            "name": config.name,
            "uuid": config.uuid,
            "settings": config.settings,
            "identity": config.identity,
            "left_out": list(config.left_out),
        },
        extra=extra,
    )
    return Archived(
        full=bool(reasons),
        reason=reasons[0] if reasons else "",
        transport=transports[0] if transports else "",
        bytes_read=stats.bytes_read,
        bytes_new=stats.bytes_new,
        bytes_stored=stats.bytes_stored,
        change_ids={str(p.source.disk.key): p.source.change_id for p in plans if p.source.change_id},
    )


def bytes_expected(platform: Platform, snapshot: Snapshot, since: Mapping[str, str]) -> int:
    """What an archive will read if the last one had the change ids `since`, by disk key."""
    return sum(_expected(platform, snapshot, source, since) for source in platform.snapshot_disks(snapshot))


def _expected(platform: Platform, snapshot: Snapshot, source: SnapshotDisk, since: Mapping[str, str]) -> int:
    try:
        areas = list(platform.changed_areas(snapshot, source.disk, since.get(str(source.disk.key))))
    except ChangeTrackingUnusable:
        return source.disk.capacity_bytes
    return len(_chunks(areas, source.disk.capacity_bytes)) * CHUNK_BYTES


def _plan(
    platform: Platform, snapshot: Snapshot, source: SnapshotDisk, previous: ArchiveReader | None, why_full: str
) -> DiskPlan:
    before, reason = _before(source, previous) if previous else (None, why_full)
    if before is not None and previous is not None:
        try:
            areas = list(platform.changed_areas(snapshot, source.disk, before))
            return DiskPlan(source=source, areas=areas, base=previous.disk_map(source.disk.key), reason="")
        except ChangeTrackingUnusable as error:
            reason = str(error)
    try:
        allocated = list(platform.changed_areas(snapshot, source.disk, None))
        return DiskPlan(source=source, areas=allocated, base=None, reason=reason)
    except ChangeTrackingUnusable as error:
        return DiskPlan(source=source, areas=None, base=None, reason=f"{reason} {error}".strip())


def _before(source: SnapshotDisk, previous: ArchiveReader) -> tuple[str | None, str]:
    """The change id to compare with; or None and the reason why there is none."""
    disk = next((d for d in previous.disks if d.key == source.disk.key), None)
    if disk is None:
        return None, f"{source.disk.label} is new."
    if disk.capacity_bytes != source.disk.capacity_bytes:
        return None, f"{source.disk.label} was resized."
    if disk.change_id is None:
        return None, "Change tracking was not on at the last archive."
    return disk.change_id, ""


def _audited(plan: DiskPlan, disk: DiskReader, writer: ArchiveWriter) -> DiskPlan:
    """Re-reads a random sample of what change tracking calls unchanged. One difference and nothing it says of this
    disk is believed: builds of vSphere have lost changes (Broadcom KB 317933, KB 310751)."""
    if plan.base is None or plan.areas is None:
        return plan
    for chunk in _sample(_chunks(plan.areas, disk.capacity_bytes), chunk_count(disk.capacity_bytes)):
        start = chunk * CHUNK_BYTES
        data = disk.read(start, min(CHUNK_BYTES, disk.capacity_bytes - start))
        if writer.chunk_id(data) != plan.base.chunk_id(chunk):
            reason = f"Change tracking missed a change at byte {start} of {plan.source.disk.label}."
            return DiskPlan(source=plan.source, areas=None, base=None, reason=reason)
    return plan


def _sample(changed: set[int], total: int) -> list[int]:
    wanted = min(max(1, round(total * SAMPLED_SHARE)), MAX_SAMPLED_CHUNKS)
    drawn = random.sample(range(total), min(total, wanted * 4))
    # Ascending, because some transports cannot go back without beginning anew.
    return sorted([chunk for chunk in drawn if chunk not in changed][:wanted])


def _chunks(areas: Sequence[Area], capacity_bytes: int) -> set[int]:
    pages = touched(areas, capacity_bytes)
    return {chunk for page in pages for chunks in page.ranges for chunk in chunks}


def _write(plan: DiskPlan, disk: DiskReader, writer: ArchiveWriter, watch: Watch, read_before: int) -> int:
    source = plan.source
    stats = writer.write_disk(
        key=source.disk.key,
        label=source.disk.label,
        capacity_bytes=source.disk.capacity_bytes,
        read=disk.read,
        areas=plan.areas,
        base=plan.base,
        change_id=source.change_id,
        check=watch.check,
        progress=lambda done: watch.report(bytes_read=read_before + done),
    )
    return stats.bytes_read
