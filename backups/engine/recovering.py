"""Archives back into VMs. Every step may be repeated: a recovery that was killed is simply done again."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

from backups.archive.maps import CHUNK_BYTES, chunk_count, touched
from backups.archive.reader import ArchivedDisk, ArchiveReader
from backups.engine.watch import Watch
from backups.errors import ChangeTrackingUnusable, RecoveryRefused
from backups.platform import Disk, DiskWriter, Inventory, Platform, Target, VmConfig

ZEROS = bytes(CHUNK_BYTES)
SAMPLED_CHUNKS = 64
"""Of each disk, looked at before change tracking is believed."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What of a VM that is recovered as new is to differ from its archive; empty: as it was, or where there is room."""

    host: str = ""
    datastore: str = ""
    networks: Mapping[str, str | None] = field(default_factory=dict)
    """The name of an archived network to that of the one to use instead; None: its cards stay disconnected."""
    same_identity: bool = False


@dataclass(frozen=True, kw_only=True)
class Recovered:
    vm_ref: str
    bytes_written: int


def config_of(archive: ArchiveReader) -> VmConfig:
    disks = tuple(
        Disk(key=d.key, label=d.label, capacity_bytes=d.capacity_bytes, datastore="", path="") for d in archive.disks
    )
    kept = archive.config
    return VmConfig(
        name=kept["name"],
        uuid=kept["uuid"],
        settings=kept["settings"],
        disks=disks,
        identity=kept.get("identity", {}),  # archives of earlier versions have neither of the two
        left_out=tuple(kept.get("left_out", ())),
    )


def networks_of(config: VmConfig) -> set[str]:
    return {card["network"] for card in config.settings.get("networks", ()) if card["network"]}


def connected_as(config: VmConfig, placement: Placement) -> VmConfig:
    """With the cards disconnected whose network is to be left; they can be connected again by hand."""
    left = {name for name, instead in placement.networks.items() if instead is None}
    if not left & networks_of(config):
        return config
    kept = config.settings["networks"]
    cards = [card | {"start_connected": card["start_connected"] and card["network"] not in left} for card in kept]
    return replace(config, settings=config.settings | {"networks": cards})


def recover_as_new(
    platform: Platform,
    archive: ArchiveReader,
    *,
    config: VmConfig,
    name: str,
    marker: str,
    target: Target,
    created: Callable[[str], None],
    watch: Watch,
) -> Recovered:
    """A new, powered-off VM. `marker` finds it again if an earlier attempt made it already; `created` is told its
    ref before the first byte is written."""
    vm_ref = platform.create_vm(config, name, marker, target)
    created(vm_ref)
    written = 0
    for disk in archive.disks:
        with platform.open_disk_for_writing(vm_ref, disk.key) as writer:
            for start, data in archive.runs(disk.key):
                watch.check()
                writer.write(start, data)
                written += len(data)
                watch.report(bytes_done=written)
    return Recovered(vm_ref=vm_ref, bytes_written=written)


def recover_in_place(platform: Platform, archive: ArchiveReader, *, vm_ref: str, watch: Watch) -> Recovered:
    """Brings the powered-off VM back to what it was; only what differs is written. What change tracking says of the
    time since the archive is compared, and a sample of the rest; without it, everything."""
    platform.consolidate(vm_ref)
    platform.reconfigure_vm(vm_ref, config_of(archive))
    suspects = {disk.key: _suspects(platform, archive, disk, vm_ref) for disk in archive.disks}
    written, before = 0, 0
    for disk in archive.disks:
        with platform.open_disk_for_writing(vm_ref, disk.key) as writer:
            chunks = _chunks_of(archive, disk, suspects[disk.key])
            written += _write_differences(platform, chunks, disk, vm_ref, writer, watch, before)
        before += disk.capacity_bytes
    return Recovered(vm_ref=vm_ref, bytes_written=written)


def _suspects(platform: Platform, archive: ArchiveReader, disk: ArchivedDisk, vm_ref: str) -> list[range] | None:
    """The chunks that may differ, in runs; None: all of them."""
    if disk.change_id is None:
        return None
    try:
        areas = list(platform.changed_since(vm_ref, disk.key, disk.change_id))
    except ChangeTrackingUnusable:
        return None
    runs = [chunks for page in touched(areas, disk.capacity_bytes) for chunks in page.ranges]
    return runs if _sample_is_equal(platform, archive, disk, vm_ref, runs) else None


def _sample_is_equal(
    platform: Platform, archive: ArchiveReader, disk: ArchivedDisk, vm_ref: str, suspects: list[range]
) -> bool:
    """Builds of vSphere have lost changes (Broadcom KB 317933): what it calls unchanged is not believed unseen."""
    total = chunk_count(disk.capacity_bytes)
    drawn = sorted(random.sample(range(total), min(total, SAMPLED_CHUNKS)))
    chunks = [chunk for chunk in drawn if not any(chunk in run for run in suspects)]
    with closing(platform.open_current_disk(vm_ref, disk.key)) as current:
        wanted = ((chunk * CHUNK_BYTES, archive.read(disk.key, chunk * CHUNK_BYTES, CHUNK_BYTES)) for chunk in chunks)
        return all(current.read(start, len(data)) == data for start, data in wanted)


def _chunks_of(archive: ArchiveReader, disk: ArchivedDisk, suspects: list[range] | None) -> Iterator[tuple[int, bytes]]:
    if suspects is None:
        yield from whole_chunks(archive, disk)
        return
    for chunk in (chunk for run in suspects for chunk in run):
        yield chunk * CHUNK_BYTES, archive.read(disk.key, chunk * CHUNK_BYTES, CHUNK_BYTES)


def _write_differences(
    platform: Platform,
    chunks: Iterator[tuple[int, bytes]],
    disk: ArchivedDisk,
    vm_ref: str,
    writer: DiskWriter,
    watch: Watch,
    done_before: int,
) -> int:
    written = 0
    with closing(platform.open_current_disk(vm_ref, disk.key)) as current:
        for start, wanted in chunks:
            watch.check()
            if current.read(start, len(wanted)) != wanted:
                writer.write(start, wanted)
                written += len(wanted)
            watch.report(bytes_done=done_before + start + len(wanted), bytes_written=written)
    return written


def whole_chunks(archive: ArchiveReader, disk: ArchivedDisk) -> Iterator[tuple[int, bytes]]:
    """All of the disk in order, zeros included, a chunk at a time."""
    at = 0
    for start, data in archive.runs(disk.key):
        yield from _zeros(at, start)
        for offset in range(0, len(data), CHUNK_BYTES):
            yield start + offset, bytes(data[offset : offset + CHUNK_BYTES])
        at = start + len(data)
    yield from _zeros(at, disk.capacity_bytes)


def _zeros(start: int, end: int) -> Iterator[tuple[int, bytes]]:
    while start < end:
        length = min(CHUNK_BYTES, end - start)
        yield start, ZEROS[:length]
        start += length


def differences(platform: Platform, archive: ArchiveReader, vm_ref: str) -> list[str]:
    """What of the powered-off VM is not as in the archive, in words: every byte of every disk, and the
    configuration. Empty means equal."""
    found = _config_differences(config_of(archive), platform.describe(vm_ref))
    for disk in archive.disks:
        with closing(platform.open_current_disk(vm_ref, disk.key)) as current:
            if current.capacity_bytes != disk.capacity_bytes:
                found.append(f"{disk.label}: {current.capacity_bytes} bytes instead of {disk.capacity_bytes}")
                continue
            wrong = [s for s, wanted in whole_chunks(archive, disk) if current.read(s, len(wanted)) != wanted]
            found += [f"{disk.label}: differs at byte {start}" for start in wrong[:1]]
    return found


def _config_differences(wanted: VmConfig, got: VmConfig) -> list[str]:
    keys = sorted(set(wanted.settings) | set(got.settings))
    return [
        f"{key}: {got.settings.get(key)!r} instead of {wanted.settings.get(key)!r}"
        for key in keys
        if wanted.settings.get(key) != got.settings.get(key)
    ]


def choose_target(
    platform: Platform, placement: Placement, *, host: str, datastore: str, vapp_ref: str | None, bytes_needed: int
) -> Target:
    """As the placement says; else where the VM lay when it was archived if that is still there, else where there is
    most room."""
    seen = platform.inventory()
    if not seen.hosts or not seen.datastores:
        raise RecoveryRefused("This vCenter has no host or no datastore to recover to.")
    home = next((h for h in seen.hosts if h.name == (placement.host or host)), None)
    if placement.host and home is None:
        raise RecoveryRefused(f"There is no host {placement.host} any more; choose another.")
    return Target(
        host_ref=(home or seen.hosts[0]).ref,
        datastore=_roomy(seen, placement.datastore, datastore, bytes_needed),
        vapp_ref=vapp_ref,
        network_map={name: instead for name, instead in placement.networks.items() if instead is not None},
        same_identity=placement.same_identity,
    )


def _roomy(seen: Inventory, wanted: str, before: str, bytes_needed: int) -> str:
    roomiest = max(seen.datastores, key=lambda d: d.free_bytes)
    chosen = next((d for d in seen.datastores if d.name == (wanted or before)), None)
    if wanted and chosen is None:
        raise RecoveryRefused(f"There is no datastore {wanted} any more; choose another.")
    if chosen is None or (chosen.free_bytes < bytes_needed and not wanted):
        chosen = roomiest
    if chosen.free_bytes < bytes_needed:
        needed, free = bytes_needed // 2**20, chosen.free_bytes // 2**20
        raise RecoveryRefused(f"No datastore has room: {needed} MiB are needed, {chosen.name} has {free} MiB free.")
    return chosen.name
