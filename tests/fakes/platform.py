"""A platform in memory that passes the same contract suite as vSphere does. Thread-safe."""

import copy
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from backups.errors import ChangeTrackingUnusable, HotfirstError, NotFound, RecoveryRefused, SnapshotFailed
from backups.platform import (
    Area,
    Datastore,
    Disk,
    Inventory,
    InventoryChange,
    Load,
    MissingPrivilege,
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
from tests.fakes.disks import MemoryDisk, MemoryReader, MemoryWriter, areas_since
from tests.fakes.locking import locked
from tests.fakes.told import Told
from tests.fakes.vms import HOSTS, FakeVm, HeldSnapshot, networks_of, new_config, on_networks, placed


class FakePlatform:
    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._instance_uuid = str(uuid4())
        self._vms: dict[str, FakeVm] = {}
        self._vapps: dict[str, VApp] = {}
        self._datastores = {
            name: Datastore(ref=f"ds-{n}", name=name, capacity_bytes=2**40, free_bytes=2**39)
            for n, name in enumerate(("store1", "store2"), 1)
        }
        self._vapp_settings: dict[str, dict[str, Any]] = {}
        self._failures: dict[str, list[HotfirstError]] = {}
        self._told = Told()
        self.lacking: tuple[MissingPrivilege, ...] = ()
        self.calls: list[tuple[str, Any, float]] = []
        """Call, what it was about, and when (monotonic seconds), in the order they came."""

    # What tests set up

    @locked
    def add_vapp(self, name: str, parent_ref: str | None = None) -> str:
        ref = f"vapp-{len(self._vapps) + 1}"
        self._vapps[ref] = VApp(ref=ref, name=name, parent_ref=parent_ref)
        self._vapp_settings[ref] = {"start_order": []}
        return ref

    @locked
    def add_vm(
        self,
        name: str,
        *,
        vapp_ref: str | None = None,
        disks: Sequence[int] = (2**20,),
        write_kbps: float = 0.0,
        host: str = "host1",
        datastore: str = "store1",
        network: str = "network1",
    ) -> str:
        """`disks`: capacities in bytes; their keys are 2000, 2001, …"""
        ref = self._make(new_config(name, disks, network), name, vapp_ref, datastore)
        vm = self._vms[ref]
        vm.vm = replace(vm.vm, powered_on=True, host=host)
        vm.load = Load(write_kbps=write_kbps, samples=10)
        return ref

    def _make(self, config: VmConfig, name: str, vapp_ref: str | None, datastore: str) -> str:
        ref = f"vm-{uuid4()}"
        disks = tuple(placed(disk, datastore, name) for disk in config.disks)
        vm = Vm(
            ref=ref,
            uuid=config.uuid,
            name=name,
            vapp_ref=vapp_ref,
            host="host1",
            datastore=datastore,
            powered_on=False,
            change_tracking=False,
            disks=disks,
            networks=networks_of(config.settings),
        )
        kept = {disk.key: MemoryDisk.empty(disk) for disk in disks}
        self._vms[ref] = FakeVm(vm, copy.deepcopy(config.settings), kept, Load())
        if vapp_ref:
            self._vapp_settings[vapp_ref]["start_order"].append({"vm": config.uuid, "start_order": 1})
        return ref

    @locked
    def write(self, vm_ref: str, disk_key: int, start: int, data: bytes) -> None:
        vm = self._get(vm_ref)
        vm.disks[disk_key].write(start, data, vm.epoch)

    @locked
    def write_untracked(self, vm_ref: str, disk_key: int, data: bytes) -> None:
        """As the builds of vSphere do that lose changes."""
        self._get(vm_ref).disks[disk_key].data[: len(data)] = data

    def _named(self, name: str) -> FakeVm:
        return next(vm for vm in self._vms.values() if vm.vm.name == name)

    def _alter(self, which: str, **fields: Any) -> None:
        vm = self._named(which)
        vm.vm = replace(vm.vm, **fields)

    def set_load(self, name: str, write_kbps: float, read_kbps: float = 0.0) -> None:
        self._named(name).load = Load(write_kbps=write_kbps, read_kbps=read_kbps, samples=10)

    def set_latency(self, datastore: str, latency_ms: float | None) -> None:
        self._datastores[datastore] = replace(self._datastores[datastore], latency_ms=latency_ms)

    def set_free(self, datastore: str, free_bytes: int) -> None:
        self._datastores[datastore] = replace(self._datastores[datastore], free_bytes=free_bytes)

    def rename(self, name: str, new_name: str) -> None:
        self._alter(name, name=new_name)

    def move(self, name: str, vapp_ref: str) -> None:
        self._alter(name, vapp_ref=vapp_ref)

    def make_template(self, name: str) -> None:
        self._alter(name, template=True, powered_on=False)

    def leave_out(self, name: str, *labels: str) -> None:
        self._named(name).left_out = labels

    def fail_next(self, call: str, error: HotfirstError) -> None:
        self._failures.setdefault(call, []).append(error)

    def _called(self, call: str, subject: Any) -> None:
        with self._lock:
            self.calls.append((call, subject, time.monotonic()))
            if self._failures.get(call):
                raise self._failures[call].pop(0)

    def _get(self, vm_ref: str) -> FakeVm:
        try:
            return self._vms[vm_ref]
        except KeyError:
            raise NotFound("This VM is no longer in vCenter.") from None

    # Platform

    def close(self) -> None: ...

    @locked
    def inventory(self) -> Inventory:
        self._called("inventory", None)
        return Inventory(
            instance_uuid=self._instance_uuid,
            vapps=tuple(self._vapps.values()),
            vms=tuple(v.vm for v in self._vms.values() if not v.vm.template),
            hosts=HOSTS,
            datastores=tuple(replace(store, latency_ms=None) for store in self._datastores.values()),
            templates=tuple(v.vm for v in self._vms.values() if v.vm.template),
        )

    def watch(self, since: str | None, wait_s: float) -> InventoryChange:
        self._called("watch", since)
        deadline = time.monotonic() + wait_s
        while True:
            change = self._change(since)
            if not change.is_empty or time.monotonic() >= deadline:
                return change
            time.sleep(0.01)

    @locked
    def _change(self, since: str | None) -> InventoryChange:
        return self._told.since(since, self.inventory())

    def missing_privileges(self) -> tuple[MissingPrivilege, ...]:
        return self.lacking

    @locked
    def datastores(self) -> tuple[Datastore, ...]:
        self._called("datastores", None)
        return tuple(self._datastores.values())

    @locked
    def snapshot_growth(self, vm_refs: Sequence[str]) -> dict[str, int]:
        self._called("snapshot_growth", tuple(vm_refs))
        return {ref: self._vms[ref].growth_bytes() for ref in vm_refs if ref in self._vms}

    @locked
    def load(self, vm_refs: Sequence[str], window_s: int) -> dict[str, Load]:
        self._called("load", tuple(vm_refs))
        running = {ref: vm.load for ref, vm in self._vms.items() if vm.vm.powered_on}
        return {ref: running.get(ref, Load()) for ref in vm_refs}

    @locked
    def enable_change_tracking(self, vm_ref: str) -> bool:
        vm = self._get(vm_ref)
        vm.vm = replace(vm.vm, change_tracking=True)
        return True

    def create_snapshots(
        self, orders: Sequence[SnapshotOrder], *, at: datetime | None = None, quiesce: Quiesce = Quiesce.TRY
    ) -> dict[str, Snapshot | Exception]:
        if at is not None:
            time.sleep(max(0.0, (at - datetime.now(UTC)).total_seconds()))
        results: dict[str, Snapshot | Exception] = {}
        for order in orders:
            try:
                self._called("create_snapshot", order.vm_ref)
                results[order.vm_ref] = self._snapshot(order, quiesce)
            except HotfirstError as error:
                results[order.vm_ref] = error
        return results

    @locked
    def _snapshot(self, order: SnapshotOrder, quiesce: Quiesce) -> Snapshot:
        vm = self._get(order.vm_ref)
        if order.name in vm.snapshots:
            return vm.snapshots[order.name].snapshot
        if not self._datastores[vm.vm.datastore].free_bytes:
            raise SnapshotFailed(f"The datastore {vm.vm.datastore} is full; free some space on it.")
        snapshot = Snapshot(
            vm_ref=order.vm_ref,
            ref=f"snapshot-{uuid4()}",
            name=order.name,
            taken_at=datetime.now(UTC),
            quiesced=quiesce != Quiesce.NO,
        )
        vm.snapshots[order.name] = HeldSnapshot(
            snapshot=snapshot,
            epoch=vm.epoch,
            data={key: bytes(disk.data) for key, disk in vm.disks.items()},
            epochs={key: dict(disk.epochs) for key, disk in vm.disks.items()},
            change_id=f"{vm.tracking_id}/{vm.epoch}" if vm.vm.change_tracking else None,
            config=self.describe(order.vm_ref),
            disks=vm.vm.disks,
        )
        vm.epoch += 1
        return snapshot

    @locked
    def find_snapshots(self, prefix: str) -> list[Snapshot]:
        found = [s.snapshot for vm in self._vms.values() for s in vm.snapshots.values()]
        return [snapshot for snapshot in found if snapshot.name.startswith(prefix)]

    @locked
    def remove_snapshot(self, snapshot_name: str, vm_ref: str) -> None:
        self._called("remove_snapshot", snapshot_name)
        if vm_ref in self._vms:
            self._vms[vm_ref].snapshots.pop(snapshot_name, None)

    def _held(self, snapshot: Snapshot) -> HeldSnapshot:
        vm = self._get(snapshot.vm_ref)
        if not vm.has(snapshot):
            raise NotFound("This snapshot is no longer there.")
        return vm.snapshots[snapshot.name]

    @locked
    def snapshot_disks(self, snapshot: Snapshot) -> tuple[SnapshotDisk, ...]:
        held = self._held(snapshot)
        return tuple(SnapshotDisk(disk=disk, change_id=held.change_id) for disk in held.disks)

    @locked
    def open_disk(self, snapshot: Snapshot, disk: Disk) -> MemoryReader:
        self._called("open_disk", (snapshot.vm_ref, disk.key))
        held = self._held(snapshot)
        vm = self._vms[snapshot.vm_ref]
        return MemoryReader(held.data[disk.key], lambda: vm.has(snapshot))

    def changed_areas(self, snapshot: Snapshot, disk: Disk, since: str | None) -> Iterator[Area]:
        yield from self._changed_areas(snapshot, disk, since)

    @locked
    def _changed_areas(self, snapshot: Snapshot, disk: Disk, since: str | None) -> list[Area]:
        held = self._held(snapshot)
        if held.change_id is None:
            raise ChangeTrackingUnusable("Change tracking was not on when the snapshot was taken.")
        tracking_id, _, number = (since or f"{self._vms[snapshot.vm_ref].tracking_id}/0").partition("/")
        if tracking_id != held.change_id.partition("/")[0]:
            raise ChangeTrackingUnusable("Change tracking was reset since the last archive.")
        return areas_since(held.epochs[disk.key], int(number), disk.capacity_bytes)

    def changed_since(self, vm_ref: str, disk_key: int, since: str) -> Iterator[Area]:
        yield from self._changed_since(vm_ref, disk_key, since)

    @locked
    def _changed_since(self, vm_ref: str, disk_key: int, since: str) -> list[Area]:
        vm = self._get(vm_ref)
        tracking_id, _, number = since.partition("/")
        disk = vm.disks.get(disk_key)
        if not vm.vm.change_tracking or disk is None or tracking_id != vm.tracking_id:
            raise ChangeTrackingUnusable("Change tracking was reset since the last archive.")
        return areas_since(disk.epochs, int(number), len(disk.data))

    @locked
    def describe(self, vm_ref: str, snapshot: Snapshot | None = None) -> VmConfig:
        if snapshot is not None:
            return self._held(snapshot).config
        return self._get(vm_ref).config()

    @locked
    def describe_vapp(self, vapp_ref: str) -> VAppConfig:
        if vapp_ref not in self._vapps:
            raise NotFound("This vApp is no longer in vCenter.")
        return VAppConfig(name=self._vapps[vapp_ref].name, settings=copy.deepcopy(self._vapp_settings[vapp_ref]))

    @locked
    def create_vapp(self, config: VAppConfig, name: str, host_ref: str) -> str:
        existing = next((ref for ref, vapp in self._vapps.items() if vapp.name == name), None)
        return existing or self.add_vapp(name)

    @locked
    def configure_vapp(self, vapp_ref: str, config: VAppConfig, vm_refs: dict[str, str]) -> None:
        settings = copy.deepcopy(config.settings)
        settings["start_order"] = [
            entry | {"vm": self._vms[vm_refs[entry["vm"]]].vm.uuid}
            for entry in settings.get("start_order", [])
            if vm_refs.get(entry["vm"]) in self._vms
        ]
        self._vapp_settings[vapp_ref] = settings

    @locked
    def create_vm(self, config: VmConfig, name: str, marker: str, target: Target) -> str:
        self._called("create_vm", name)
        existing = next((ref for ref, vm in self._vms.items() if vm.marker == marker), None)
        if existing:
            return existing
        if any(vm.vm.name == name for vm in self._vms.values()):
            raise RecoveryRefused(f"There is a VM named {name} already; choose another name.")
        twin = any(vm.vm.uuid == config.uuid for vm in self._vms.values())
        if target.same_identity and twin:
            raise RecoveryRefused(f"{config.name} is still there; recover it in place, or with a new identity.")
        uuid = config.uuid if target.same_identity else str(uuid4())
        made = on_networks(replace(config, uuid=uuid), target.network_map)
        ref = self._make(made, name, target.vapp_ref, target.datastore)
        self._vms[ref].marker = marker
        self._alter(name, host=target.host_ref.replace("-", ""))
        return ref

    def recovery_warnings(self, config: VmConfig, target: Target) -> tuple[str, ...]:
        return tuple(f"{label} is of a kind that is not recovered, and is left out." for label in config.left_out)

    @locked
    def reconfigure_vm(self, vm_ref: str, config: VmConfig) -> None:
        vm = self._idle(vm_ref)
        kept = {disk.key: disk.capacity_bytes for disk in vm.vm.disks}
        if any(kept.get(disk.key, 0) > disk.capacity_bytes for disk in config.disks):
            raise RecoveryRefused("A disk has been enlarged since and cannot shrink; recover the VM as new.")
        disks = tuple(placed(disk, vm.vm.datastore, vm.vm.name) for disk in config.disks)
        old = vm.disks
        vm.disks = {disk.key: MemoryDisk.empty(disk) for disk in disks}
        for key, disk in vm.disks.items():
            disk.data[: kept.get(key, 0)] = old[key].data if key in old else b""
            disk.epochs = old[key].epochs if key in old else {}
        vm.vm = replace(vm.vm, disks=disks)
        vm.settings = copy.deepcopy(config.settings)

    def _idle(self, vm_ref: str) -> FakeVm:
        vm = self._get(vm_ref)
        if vm.vm.powered_on:
            raise RecoveryRefused(f"{vm.vm.name} is powered on; power it off first.")
        if vm.snapshots:
            raise RecoveryRefused(f"{vm.vm.name} has snapshots; remove them first.")
        return vm

    @locked
    def open_disk_for_writing(self, vm_ref: str, disk_key: int) -> MemoryWriter:
        self._idle(vm_ref)
        self._called("open_disk_for_writing", vm_ref)
        return MemoryWriter(lambda start, data: self.write(vm_ref, disk_key, start, data))

    @locked
    def open_current_disk(self, vm_ref: str, disk_key: int) -> MemoryReader:
        return MemoryReader(bytes(self._get(vm_ref).disks[disk_key].data), lambda: True)

    @locked
    def power(self, vm_ref: str, on: bool) -> None:
        self._called("power", (vm_ref, on))
        vm = self._get(vm_ref)
        vm.vm = replace(vm.vm, powered_on=on)

    @locked
    def destroy_vm(self, vm_ref: str) -> None:
        self._called("destroy_vm", vm_ref)
        gone = self._vms.pop(vm_ref, None)
        if gone and gone.vm.vapp_ref:
            settings = self._vapp_settings[gone.vm.vapp_ref]
            settings["start_order"] = [entry for entry in settings["start_order"] if entry["vm"] != gone.vm.uuid]

    def consolidate(self, vm_ref: str) -> bool:
        return False
