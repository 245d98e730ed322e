"""vCenter as the platform of the engine."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from backups.platform import (
    Area,
    Connection,
    Datastore,
    Disk,
    DiskReader,
    DiskWriter,
    Inventory,
    InventoryChange,
    Load,
    MissingPrivilege,
    Quiesce,
    Snapshot,
    SnapshotDisk,
    SnapshotOrder,
    Target,
    VAppConfig,
    VmConfig,
)
from vsphere import changes, datastores, inventory, load, privileges, recovery, snapshots, vapps
from vsphere import config as configs
from vsphere.certificates import fetch_certificate, fingerprint
from vsphere.disks import choosing, datastore
from vsphere.disks.folder import FolderClient
from vsphere.faults import translating
from vsphere.imports import Imports
from vsphere.session import Session
from vsphere.watching import InventoryWatch

__all__ = ["VSpherePlatform", "connect", "fetch_certificate", "fingerprint"]


def connect(connection: Connection) -> "VSpherePlatform":
    """Raises PlatformUnreachable, CertificateMismatch, LoginFailed."""
    return VSpherePlatform(Session(connection))


class VSpherePlatform:
    """May be used from several threads."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._folder = FolderClient(session)
        self._imports = Imports()
        self._counters = load.PerfCounters(session)
        self._watch = InventoryWatch(session)

    def close(self) -> None:
        self._imports.close()
        self._folder.close()
        self._session.close()

    @translating()
    def inventory(self) -> Inventory:
        return inventory.read(self._session)

    @translating()
    def watch(self, since: str | None, wait_s: float) -> InventoryChange:
        return self._watch.next(since, wait_s)

    @translating()
    def missing_privileges(self) -> tuple[MissingPrivilege, ...]:
        return privileges.missing(self._session)

    @translating()
    def load(self, vm_refs: Sequence[str], window_s: int) -> dict[str, Load]:
        return load.mean_loads(self._session, self._counters, vm_refs, window_s)

    @translating()
    def datastores(self) -> tuple[Datastore, ...]:
        return datastores.read(self._session, self._counters)

    @translating()
    def snapshot_growth(self, vm_refs: Sequence[str]) -> dict[str, int]:
        return datastores.growth(self._session, vm_refs)

    @translating()
    def enable_change_tracking(self, vm_ref: str) -> bool:
        self._imports.finish(vm_ref)
        return recovery.enable_change_tracking(self._session, vm_ref)

    @translating()
    def create_snapshots(
        self, orders: Sequence[SnapshotOrder], *, at: datetime | None = None, quiesce: Quiesce = Quiesce.TRY
    ) -> dict[str, Snapshot | Exception]:
        self._imports.finish(*(order.vm_ref for order in orders))
        return snapshots.create(self._session, orders, at, quiesce)

    @translating()
    def find_snapshots(self, prefix: str) -> list[Snapshot]:
        return snapshots.find(self._session, prefix)

    @translating()
    def remove_snapshot(self, snapshot_name: str, vm_ref: str) -> None:
        snapshots.remove(self._session, snapshot_name, vm_ref)

    @translating()
    def snapshot_disks(self, snapshot: Snapshot) -> tuple[SnapshotDisk, ...]:
        return snapshots.snapshot_disks(self._session, snapshot)

    @translating()
    def open_disk(self, snapshot: Snapshot, disk: Disk) -> DiskReader:
        return choosing.open_snapshot_disk(self._session, self._folder, snapshot, disk)

    def changed_areas(self, snapshot: Snapshot, disk: Disk, since: str | None) -> Iterator[Area]:
        with translating():
            yield from changes.changed_areas(self._session, snapshot, disk, since)

    def changed_since(self, vm_ref: str, disk_key: int, since: str) -> Iterator[Area]:
        with translating():
            self._imports.finish(vm_ref)
            yield from changes.changed_since(self._session, vm_ref, disk_key, since)

    @translating()
    def describe(self, vm_ref: str, snapshot: Snapshot | None = None) -> VmConfig:
        return configs.describe(self._session, vm_ref, snapshot)

    @translating()
    def describe_vapp(self, vapp_ref: str) -> VAppConfig:
        return vapps.describe(self._session, vapp_ref)

    @translating()
    def create_vapp(self, config: VAppConfig, name: str, host_ref: str) -> str:
        return vapps.create(self._session, config, name, host_ref)

    @translating()
    def configure_vapp(self, vapp_ref: str, config: VAppConfig, vm_refs: dict[str, str]) -> None:
        self._imports.finish(*vm_refs.values())
        vapps.configure(self._session, vapp_ref, config, vm_refs)

    @translating()
    def create_vm(self, config: VmConfig, name: str, marker: str, target: Target) -> str:
        return recovery.create_vm(self._session, self._imports, config, name, marker, target)

    @translating()
    def recovery_warnings(self, config: VmConfig, target: Target) -> tuple[str, ...]:
        return recovery.warnings(self._session, config, target)

    @translating()
    def reconfigure_vm(self, vm_ref: str, config: VmConfig) -> None:
        self._imports.finish(vm_ref)
        recovery.reconfigure_vm(self._session, vm_ref, config)

    @translating()
    def open_disk_for_writing(self, vm_ref: str, disk_key: int) -> DiskWriter:
        def to_files() -> DiskWriter:
            return datastore.open_for_writing(self._session, self._folder, vm_ref, disk_key)

        return self._imports.writer(vm_ref, disk_key, to_files)

    @translating()
    def open_current_disk(self, vm_ref: str, disk_key: int) -> DiskReader:
        self._imports.finish(vm_ref)
        return choosing.open_current_disk(self._session, self._folder, vm_ref, disk_key)

    @translating()
    def power(self, vm_ref: str, on: bool) -> None:
        self._imports.finish(vm_ref)
        recovery.power(self._session, vm_ref, on)

    @translating()
    def destroy_vm(self, vm_ref: str) -> None:
        self._imports.abandon(vm_ref)
        recovery.destroy_vm(self._session, vm_ref)

    @translating()
    def consolidate(self, vm_ref: str) -> bool:
        self._imports.finish(vm_ref)
        return snapshots.consolidate(self._session, vm_ref)
