"""What a virtualization platform must do for the engine. vSphere implements it, and so does the in-memory fake;
one contract suite holds for both.

Every `ref` is the platform's own handle (a vSphere managed object id): opaque here, stable until the object goes.
Identity over time is `Vm.uuid` (vCenter's instanceUuid), never a name. Every call raises only errors of
`backups.errors`. Unless a docstring says otherwise a call may be repeated without harm.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, Self


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where a vCenter is and how to log in. `certificate_pem` is the one certificate that is accepted."""

    host: str
    port: int = 443
    username: str
    password: str = field(repr=False)
    certificate_pem: str


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A virtual disk of a VM."""

    key: int
    label: str
    capacity_bytes: int
    datastore: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Vm:
    ref: str
    uuid: str
    name: str
    vapp_ref: str | None
    host: str
    datastore: str
    powered_on: bool
    change_tracking: bool
    disks: tuple[Disk, ...]
    folder: str = ""
    """The inventory path of its folder, `/datacenter/vm/…`; a vApp's VM lies in the vApp's folder."""
    pool: str = ""
    """The inventory path of its resource pool or vApp, `/datacenter/host/cluster/Resources/…`."""
    tags: tuple[str, ...] = ()
    """`category/tag`, sorted."""
    template: bool = False
    networks: tuple[str, ...] = ()
    """The names of those that its cards are on, sorted."""

    @property
    def capacity_bytes(self) -> int:
        return sum(disk.capacity_bytes for disk in self.disks)


@dataclass(frozen=True, kw_only=True)
class VApp:
    ref: str
    name: str
    parent_ref: str | None
    """The vApp that this one is nested in."""
    folder: str = ""
    pool: str = ""
    """Its own inventory path among the pools."""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Host:
    ref: str
    name: str
    pool_ref: str
    """The root resource pool of the host's compute resource."""
    networks: tuple[str, ...] = ()
    """The names of those that it has, sorted."""


@dataclass(frozen=True, kw_only=True)
class Datastore:
    ref: str
    name: str
    capacity_bytes: int
    free_bytes: int
    latency_ms: float | None = None
    """The mean of read and write latency over the last minute; None: not known."""


@dataclass(frozen=True, kw_only=True)
class Inventory:
    instance_uuid: str
    """vCenter's own identity."""
    vapps: tuple[VApp, ...]
    vms: tuple[Vm, ...]
    hosts: tuple[Host, ...]
    datastores: tuple[Datastore, ...]
    templates: tuple[Vm, ...] = ()
    """They are not backed up, and keep their identity when they become VMs again."""


@dataclass(frozen=True, kw_only=True)
class InventoryChange:
    version: str
    """For the next `watch`."""
    full: bool
    """`seen` is all that there is, and what it lacks has gone; else it holds only what is new or different."""
    seen: Inventory
    gone: frozenset[str] = frozenset()
    """Refs of what has left since the version asked for."""

    @property
    def is_empty(self) -> bool:
        seen = self.seen
        return not (self.full or self.gone or seen.vapps or seen.vms or seen.hosts or seen.datastores or seen.templates)


@dataclass(frozen=True, kw_only=True)
class MissingPrivilege:
    privilege: str
    """vCenter's id of it."""
    purpose: str
    """`back up` or `recover`."""
    places: tuple[str, ...]
    """The datacenters where the account lacks it."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Means over the window asked for. A powered-off VM, or one without samples, has none of it."""

    write_kbps: float = 0.0
    read_kbps: float = 0.0
    write_iops: float = 0.0
    read_iops: float = 0.0
    samples: int = 0


class Quiesce(StrEnum):
    REQUIRE = "require"
    TRY = "try"
    NO = "no"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A snapshot that exists. `taken_at` is the VM's own snapshot time, which is the archive's backup time."""

    vm_ref: str
    ref: str
    name: str
    taken_at: datetime
    quiesced: bool


@dataclass(frozen=True, kw_only=True)
class SnapshotOrder:
    """What to snapshot under which name. The name is unique for ever: it is how a lost snapshot is found again."""

    vm_ref: str
    name: str


@dataclass(frozen=True, kw_only=True)
class SnapshotDisk:
    """A disk as the snapshot holds it. `change_id` marks its state for the next run's `changed_areas`; None where
    change tracking was not on when the snapshot was taken."""

    disk: Disk
    change_id: str | None


@dataclass(frozen=True, kw_only=True, order=True)
class Area:
    """Bytes [start, start + length) of a disk."""

    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


class DiskReader(Protocol):
    """Random access to a disk's bytes at its snapshot time; safe to call from several threads. Close it."""

    transport: str
    """Which way the bytes travel: `datastore`, `nfc`, `nbd`, `memory`."""
    transport_reason: str
    capacity_bytes: int

    def read(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises DiskUnreadable."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class DiskWriter(Protocol):
    """Writes a disk of a powered-off VM. Areas may come in any order; what is never written stays as it was
    (zeros on a new disk)."""

    def write(self, start: int, data: bytes) -> None:
        """Raises PlatformError. Writing the same bytes again is harmless."""

    def close(self) -> None:
        """Durable when it returns."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


@dataclass(frozen=True, kw_only=True)
class VmConfig:
    """All that is needed to make the VM again. `settings` is JSON: hardware version, guest id, CPUs, memory,
    controllers, network cards, firmware and extra options of an allow-list. Equal VMs have equal configs, so
    nothing in it depends on where the VM lies or when it was read."""

    name: str
    uuid: str
    settings: dict[str, Any]
    disks: tuple[Disk, ...]
    identity: dict[str, Any] = field(default_factory=dict)
    """JSON: what guests and networks know the VM by, besides `uuid`: its BIOS's UUID, its cards' addresses. Unequal in
    VMs that are otherwise equal."""
    left_out: tuple[str, ...] = ()
    """Labels of devices that are not kept."""


@dataclass(frozen=True, kw_only=True)
class VAppConfig:
    """A vApp's resource settings and start order. `settings` is JSON; its start order names VMs by uuid."""

    name: str
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a recovered VM goes."""

    host_ref: str
    datastore: str
    vapp_ref: str | None = None
    network_map: Mapping[str, str] = field(default_factory=dict)
    """The name of an archived network to that of the one to use instead; others keep theirs."""
    same_identity: bool = False
    """As its original, which must have gone; else the VM gets an identity of its own."""


class Platform(Protocol):
    def close(self) -> None:
        """Logs out. The object is not used afterwards."""

    def inventory(self) -> Inventory:
        """Everything there is now."""

    def watch(self, since: str | None, wait_s: float) -> InventoryChange:
        """What has changed since the version `since`, as soon as there is something, after `wait_s` at the latest.
        None, and every version but the last that this object has told, are answered with everything at once; so is
        the last one when the platform has lost track. Tags may lag by a minute."""

    def missing_privileges(self) -> tuple[MissingPrivilege, ...]:
        """What the account may not do although the product needs it, in the order of need."""

    def load(self, vm_refs: Sequence[str], window_s: int) -> dict[str, Load]:
        """The mean load of each VM over the last `window_s` seconds, in bulk; every ref asked for is a key."""

    def datastores(self) -> tuple[Datastore, ...]:
        """Free space and latency of all datastores now; cheap enough to be asked every 20 seconds. `inventory` leaves
        their latency out."""

    def snapshot_growth(self, vm_refs: Sequence[str]) -> dict[str, int]:
        """The bytes that each VM's delta files occupy now, 0 without a snapshot; in bulk. Every ref asked for that
        still exists is a key."""

    def enable_change_tracking(self, vm_ref: str) -> bool:
        """True if it is on afterwards. It counts from the VM's next snapshot."""

    def create_snapshots(
        self, orders: Sequence[SnapshotOrder], *, at: datetime | None = None, quiesce: Quiesce = Quiesce.TRY
    ) -> "dict[str, Snapshot | Exception]":
        """Starts all snapshots together at the common time `at` (None: now), waits for all, and answers per VM ref
        with the snapshot or the error it failed with. An order whose name already exists on its VM is answered
        with that snapshot: a repeated call never makes a second one."""

    def find_snapshots(self, prefix: str) -> list[Snapshot]:
        """Every snapshot of every VM whose name starts with `prefix`."""

    def remove_snapshot(self, snapshot_name: str, vm_ref: str) -> None:
        """Removes the snapshot by name and waits until its disks are consolidated; nothing to do if the VM or the
        snapshot has gone. Never removes a snapshot of another name."""

    def snapshot_disks(self, snapshot: Snapshot) -> tuple[SnapshotDisk, ...]:
        """Raises NotFound."""

    def open_disk(self, snapshot: Snapshot, disk: Disk) -> DiskReader:
        """Chooses the transport by probing and says why. Raises DiskUnreadable, NotFound."""

    def changed_areas(self, snapshot: Snapshot, disk: Disk, since: str | None) -> Iterator[Area]:
        """Areas that may differ from the state that `since` marks, ascending, not overlapping, covering the whole
        disk's changes. `since` None: the areas that are allocated at all, where that can be trusted. Raises
        ChangeTrackingUnusable with the reason when everything must be read instead."""

    def changed_since(self, vm_ref: str, disk_key: int, since: str) -> Iterator[Area]:
        """As `changed_areas`, up to now, of a VM that is powered off. Ask for all of a VM's disks before any of them is
        opened for writing, which may end the tracking. Raises ChangeTrackingUnusable."""

    def describe(self, vm_ref: str, snapshot: Snapshot | None = None) -> VmConfig:
        """The configuration at the snapshot, or now."""

    def describe_vapp(self, vapp_ref: str) -> VAppConfig: ...

    def create_vapp(self, config: VAppConfig, name: str, host_ref: str) -> str:
        """Makes an empty vApp and returns its ref; one of that name under the same parent is returned as it is."""

    def configure_vapp(self, vapp_ref: str, config: VAppConfig, vm_refs: dict[str, str]) -> None:
        """Sets start order and resources once its VMs exist. `vm_refs`: archived VM uuid to new ref."""

    def create_vm(self, config: VmConfig, name: str, marker: str, target: Target) -> str:
        """Makes a powered-off VM with empty disks and returns its ref. `marker` is unique and kept on the VM: a VM
        that already carries it is returned instead of making a second one. Raises RecoveryRefused."""

    def recovery_warnings(self, config: VmConfig, target: Target) -> tuple[str, ...]:
        """What of `config` a VM made at `target` will lack, in sentences."""

    def reconfigure_vm(self, vm_ref: str, config: VmConfig) -> None:
        """Brings an existing, powered-off VM back to `config` (disks of the same key keep their files; missing
        ones are made). Raises RecoveryRefused."""

    def open_disk_for_writing(self, vm_ref: str, disk_key: int) -> DiskWriter:
        """Raises RecoveryRefused while the VM is powered on or has snapshots."""

    def open_current_disk(self, vm_ref: str, disk_key: int) -> DiskReader:
        """Reads the disk of a powered-off VM as it is now, to compare it with its archive."""

    def power(self, vm_ref: str, on: bool) -> None:
        """Nothing to do if it is so already."""

    def destroy_vm(self, vm_ref: str) -> None:
        """Deletes the VM and its disks; nothing to do if it has gone. Used to clean up a recovery that failed."""

    def consolidate(self, vm_ref: str) -> bool:
        """Repairs a VM that needs consolidation; False if it did not need it."""
