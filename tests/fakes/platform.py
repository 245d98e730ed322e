"""A platform in memory that passes the same contract suite as vSphere does."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Self
from uuid import uuid4

from backups.errors import ChangeTrackingUnusable, HotfirstError, NotFound, RecoveryRefused
from backups.platform import (
    Area,
    Datastore,
    Disk,
    Host,
    Inventory,
    Load,
    Quiesce,
    Snapshot,
    SnapshotDisk,
    SnapshotOrder,
    Target,
    VApp,
    VAppConfig,
    Vm,
    VmConfig,
)

BLOCK_BYTES = 65536


@dataclass
class _Disk:
    disk: Disk
    data: bytearray
    epochs: dict[int, int] = field(default_factory=dict)
    """Block number to the epoch of its last write."""


@dataclass
class _Snapshot:
    snapshot: Snapshot
    data: dict[int, bytes]
    epochs: dict[int, dict[int, int]]
    change_ids: dict[int, str | None]
    config: VmConfig


@dataclass
class _Vm:
    vm: Vm
    settings: dict[str, object]
    disks: dict[int, _Disk]
    load: Load
    marker: str = ""
    epoch: int = 1
    tracking_id: str = field(default_factory=lambda: str(uuid4()))
    snapshots: dict[str, _Snapshot] = field(default_factory=dict)


class MemoryReader:
    transport = "memory"
    transport_reason = "the fake keeps disks in memory"

    def __init__(self, data: bytes) -> None:
        self._data, self.capacity_bytes = data, len(data)

    def read(self, start: int, length: int) -> bytes:
        return bytes(self._data[start : start + length])

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class MemoryWriter:
    def __init__(self, platform: "FakePlatform", vm_ref: str, disk_key: int) -> None:
        self._platform, self._vm_ref, self._disk_key = platform, vm_ref, disk_key

    def write(self, start: int, data: bytes) -> None:
        self._platform.write(self._vm_ref, self._disk_key, start, data)

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class FakePlatform:
    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._instance_uuid = str(uuid4())
        self._vms: dict[str, _Vm] = {}
        self._vapps: dict[str, VApp] = {}
        self._vapp_settings: dict[str, dict[str, object]] = {}
        self._failures: dict[str, list[HotfirstError]] = {}
        self.calls: list[tuple[str, object, float]] = []

    # What tests set up

    def add_vapp(self, name: str) -> str:
        ref = f"vapp-{len(self._vapps) + 1}"
        self._vapps[ref] = VApp(ref=ref, name=name, parent_ref=None)
        self._vapp_settings[ref] = {"start_order": []}
        return ref

    def add_vm(
        self, name: str, *, vapp_ref: str | None = None, disks: Sequence[int] = (2**20,), write_kbps: float = 0.0
    ) -> str:
        """`disks`: capacities in bytes; their keys are 2000, 2001, …"""
        ref = f"vm-{uuid4()}"
        made = tuple(self._new_disk(name, number, size) for number, size in enumerate(disks))
        vm = Vm(
            ref=ref,
            uuid=str(uuid4()),
            name=name,
            vapp_ref=vapp_ref,
            host="host1",
            datastore="store1",
            powered_on=True,
            change_tracking=False,
            disks=made,
        )
        kept = {disk.key: _Disk(disk, bytearray(disk.capacity_bytes)) for disk in made}
        self._vms[ref] = _Vm(vm, {"cpus": 2, "memory_mb": 512}, kept, Load(write_kbps=write_kbps, samples=10))
        return ref

    def _new_disk(self, name: str, number: int, size: int) -> Disk:
        path = f"[store1] {name}/{name}_{number}.vmdk"
        label = f"Hard disk {number + 1}"
        return Disk(key=2000 + number, label=label, capacity_bytes=size, datastore="store1", path=path)

    def write(self, vm_ref: str, disk_key: int, start: int, data: bytes) -> None:
        with self._lock:
            vm = self._get(vm_ref)
            disk = vm.disks[disk_key]
            disk.data[start : start + len(data)] = data
            for block in range(start // BLOCK_BYTES, (start + max(len(data), 1) - 1) // BLOCK_BYTES + 1):
                disk.epochs[block] = vm.epoch

    def rename(self, name: str, new_name: str) -> None:
        vm = next(v for v in self._vms.values() if v.vm.name == name)
        vm.vm = replace(vm.vm, name=new_name)

    def fail_next(self, call: str, error: HotfirstError) -> None:
        self._failures.setdefault(call, []).append(error)

    def _called(self, call: str, subject: object) -> None:
        self.calls.append((call, subject, time.monotonic()))
        if self._failures.get(call):
            raise self._failures[call].pop(0)

    def _get(self, vm_ref: str) -> _Vm:
        try:
            return self._vms[vm_ref]
        except KeyError:
            raise NotFound("This VM is no longer in vCenter.") from None

    # Platform

    def close(self) -> None: ...

    def inventory(self) -> Inventory:
        self._called("inventory", None)
        return Inventory(
            instance_uuid=self._instance_uuid,
            vapps=tuple(self._vapps.values()),
            vms=tuple(v.vm for v in self._vms.values()),
            hosts=(Host(ref="host-1", name="host1", pool_ref="pool-1"),),
            datastores=(Datastore(ref="ds-1", name="store1", capacity_bytes=2**40, free_bytes=2**39),),
        )

    def load(self, vm_refs: Sequence[str], window_s: int) -> dict[str, Load]:
        self._called("load", tuple(vm_refs))
        idle = Load()
        return {
            ref: self._vms[ref].load if ref in self._vms and self._vms[ref].vm.powered_on else idle for ref in vm_refs
        }

    def enable_change_tracking(self, vm_ref: str) -> bool:
        vm = self._get(vm_ref)
        vm.vm = replace(vm.vm, change_tracking=True)
        return True

    def create_snapshots(
        self, orders: Sequence[SnapshotOrder], *, at: datetime | None = None, quiesce: Quiesce = Quiesce.TRY
    ) -> dict[str, Snapshot | Exception]:
        results: dict[str, Snapshot | Exception] = {}
        for order in orders:
            try:
                self._called("create_snapshot", order.vm_ref)
                results[order.vm_ref] = self._snapshot(order, quiesce)
            except HotfirstError as error:
                results[order.vm_ref] = error
        return results

    def _snapshot(self, order: SnapshotOrder, quiesce: Quiesce) -> Snapshot:
        with self._lock:
            vm = self._get(order.vm_ref)
            if order.name in vm.snapshots:
                return vm.snapshots[order.name].snapshot
            snapshot = Snapshot(
                vm_ref=order.vm_ref,
                ref=f"snapshot-{uuid4()}",
                name=order.name,
                taken_at=datetime.now(UTC),
                quiesced=quiesce != Quiesce.NO,
            )
            change_id = f"{vm.tracking_id}/{vm.epoch}" if vm.vm.change_tracking else None
            vm.snapshots[order.name] = _Snapshot(
                snapshot,
                {key: bytes(disk.data) for key, disk in vm.disks.items()},
                {key: dict(disk.epochs) for key, disk in vm.disks.items()},
                dict.fromkeys(vm.disks, change_id),
                self.describe(order.vm_ref),
            )
            vm.epoch += 1
            return snapshot

    def find_snapshots(self, prefix: str) -> list[Snapshot]:
        found = [s.snapshot for vm in self._vms.values() for s in vm.snapshots.values()]
        return [snapshot for snapshot in found if snapshot.name.startswith(prefix)]

    def remove_snapshot(self, snapshot_name: str, vm_ref: str) -> None:
        self._called("remove_snapshot", snapshot_name)
        if vm_ref in self._vms:
            self._vms[vm_ref].snapshots.pop(snapshot_name, None)

    def _held(self, snapshot: Snapshot) -> _Snapshot:
        try:
            return self._get(snapshot.vm_ref).snapshots[snapshot.name]
        except KeyError:
            raise NotFound("This snapshot is no longer there.") from None

    def snapshot_disks(self, snapshot: Snapshot) -> tuple[SnapshotDisk, ...]:
        held = self._held(snapshot)
        return tuple(SnapshotDisk(disk=d, change_id=held.change_ids[d.key]) for d in held.config.disks)

    def open_disk(self, snapshot: Snapshot, disk: Disk) -> MemoryReader:
        self._called("open_disk", (snapshot.vm_ref, disk.key))
        return MemoryReader(self._held(snapshot).data[disk.key])

    def changed_areas(self, snapshot: Snapshot, disk: Disk, since: str | None) -> Iterator[Area]:
        held = self._held(snapshot)
        if held.change_ids.get(disk.key) is None:
            raise ChangeTrackingUnusable("Change tracking was not on when the snapshot was taken.")
        epoch = 0
        if since is not None:
            tracking_id, _, number = since.partition("/")
            if tracking_id != self._get(snapshot.vm_ref).tracking_id:
                raise ChangeTrackingUnusable("Change tracking was reset since the last archive.")
            epoch = int(number)
        return iter(self._areas(held.epochs[disk.key], epoch, disk.capacity_bytes))

    def _areas(self, epochs: dict[int, int], since: int, capacity_bytes: int) -> list[Area]:
        blocks = sorted(block for block, epoch in epochs.items() if epoch > since)
        starts = (block * BLOCK_BYTES for block in blocks)
        return [Area(start=start, length=min(BLOCK_BYTES, capacity_bytes - start)) for start in starts]

    def describe(self, vm_ref: str, snapshot: Snapshot | None = None) -> VmConfig:
        if snapshot is not None:
            return self._held(snapshot).config
        vm = self._get(vm_ref)
        return VmConfig(name=vm.vm.name, uuid=vm.vm.uuid, settings=dict(vm.settings), disks=vm.vm.disks)

    def describe_vapp(self, vapp_ref: str) -> VAppConfig:
        if vapp_ref not in self._vapps:
            raise NotFound("This vApp is no longer in vCenter.")
        return VAppConfig(name=self._vapps[vapp_ref].name, settings=dict(self._vapp_settings[vapp_ref]))

    def create_vapp(self, config: VAppConfig, name: str, host_ref: str) -> str:
        existing = next((ref for ref, vapp in self._vapps.items() if vapp.name == name), None)
        return existing or self.add_vapp(name)

    def configure_vapp(self, vapp_ref: str, config: VAppConfig, vm_refs: dict[str, str]) -> None:
        self._vapp_settings[vapp_ref] = dict(config.settings)

    def create_vm(self, config: VmConfig, name: str, marker: str, target: Target) -> str:
        self._called("create_vm", name)
        existing = next((ref for ref, vm in self._vms.items() if vm.marker == marker), None)
        if existing:
            return existing
        if any(vm.vm.name == name for vm in self._vms.values()):
            raise RecoveryRefused(f"There is a VM named {name} already; choose another name.")
        ref = self.add_vm(name, vapp_ref=target.vapp_ref, disks=[d.capacity_bytes for d in config.disks])
        made = self._vms[ref]
        made.marker, made.settings = marker, dict(config.settings)
        made.vm = replace(made.vm, powered_on=False)
        return ref

    def reconfigure_vm(self, vm_ref: str, config: VmConfig) -> None:
        self._get(vm_ref).settings = dict(config.settings)

    def open_disk_for_writing(self, vm_ref: str, disk_key: int) -> MemoryWriter:
        vm = self._get(vm_ref)
        if vm.vm.powered_on:
            raise RecoveryRefused(f"{vm.vm.name} is powered on.")
        if vm.snapshots:
            raise RecoveryRefused(f"{vm.vm.name} has snapshots; remove them first.")
        self._called("open_disk_for_writing", vm_ref)
        return MemoryWriter(self, vm_ref, disk_key)

    def open_current_disk(self, vm_ref: str, disk_key: int) -> MemoryReader:
        return MemoryReader(bytes(self._get(vm_ref).disks[disk_key].data))

    def power(self, vm_ref: str, on: bool) -> None:
        self._called("power", (vm_ref, on))
        vm = self._get(vm_ref)
        vm.vm = replace(vm.vm, powered_on=on)

    def destroy_vm(self, vm_ref: str) -> None:
        self._vms.pop(vm_ref, None)

    def consolidate(self, vm_ref: str) -> bool:
        return False
