"""Virtual machines: configuration, power, and how their disks are shown."""

import copy
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from vsphere.lab import changes, exports, hardware, questions, registering, vm_summary, wire
from vsphere.lab.config import Config
from vsphere.lab.disk import LabDisk
from vsphere.lab.entities import Entity, Host, Lab, Network, check_name_is_free
from vsphere.lab.leases import Lease, refuse_leased
from vsphere.lab.loads import IDLE, Profile
from vsphere.lab.registry import Managed, refs
from vsphere.lab.sessions import Call
from vsphere.lab.shelf import split
from vsphere.lab.snapshots import Snapshot, tree
from vsphere.lab.state import Record
from vsphere.lab.tasks import Task

if TYPE_CHECKING:
    from vsphere.lab.pools import ResourcePool

ON, OFF = "poweredOn", "poweredOff"
LAYOUT_AGE = timedelta(minutes=30)


class VirtualMachine(Entity):
    """`parent` is its folder; a VM of a vApp has none, as on vSphere."""

    wsdl = vim.VirtualMachine
    prefix = "vm"

    def __init__(
        self,
        lab: Lab,
        config: Config,
        *,
        folder: Entity | None,
        pool: "ResourcePool",
        host: Host,
        profile: Profile = IDLE,
        power: str = OFF,
        moid: str | None = None,
        importing: bool = False,
    ) -> None:
        """`importing`: it is kept only if the lease that brings it in is completed."""
        self.config, self.pool, self.host, self.profile, self.power = config, pool, host, profile, power
        self.snapshots: list[Snapshot] = []
        self.leases: list[Lease] = []
        self.importing = importing
        self.boot_time: datetime | None = wire.now() if power == ON else None
        self.question: Any = None
        """Until it is answered the guest stands still."""
        self.stunned_until = 0.0
        self._busy = threading.Lock()
        self._layout: Any = None
        self._shown: tuple[tuple[Any, ...], Any] = ((), None)
        super().__init__(lab, config.info.name, folder, moid)
        with lab.registry.lock:
            lab.vms[self.moid] = self
            pool.vms.append(self)
            lab.registry.touch(pool)

    def record(self) -> Record:
        return super().record() | {
            "config": self.config.xml,
            "pool": self.pool.moid,
            "host": self.host.moid,
            "power": self.power,
            "snapshots": [snapshot.record() for snapshot in self.snapshots],
            "importing": self.importing,
            **self.profile.record(),
        }

    @property
    def datastore(self) -> str:
        return split(self.config.info.files.vmPathName)[0]

    def datastore_names(self) -> set[str]:
        return {self.datastore} | {split(d.backing.fileName)[0] for d in hardware.disks(self.config.info)}

    @property
    def running(self) -> bool:
        return self.power == ON

    @property
    def standing_still(self) -> bool:
        return not self.running or self.question is not None or time.monotonic() < self.stunned_until

    def disks(self, config: Config | None = None) -> list[tuple[Any, LabDisk]]:
        """Devices and their files, in the order of the hardware."""
        devices = hardware.disks((config or self.config).info)
        return [(device, self.lab.shelf.get(device.backing.fileName)) for device in devices]

    @contextmanager
    def stunned(self) -> Iterator[list[LabDisk]]:
        """No write gets through to any disk."""
        with ExitStack() as stack:
            disks = [disk for _, disk in self.disks()]
            for disk in disks:
                stack.enter_context(disk.lock)
            yield disks

    def changed(self) -> None:
        """Saves and tells the watchers."""
        with self.registry.lock:
            self._layout = None
            self.save()
            self.registry.touch(self)

    # Properties.

    def p_config(self) -> Any:
        disks = self.disks()
        state = (self.config, *(disk.meta for _, disk in disks))
        if len(state) != len(self._shown[0]) or any(a is not b for a, b in zip(state, self._shown[0], strict=True)):
            self._shown = (state, self.shown_config(self.config, None))
        return self._shown[1]

    def shown_config(self, config: Config, snapshot: int | None) -> Any:
        """The config with its disks' backings as they are now, or as the snapshot holds them."""
        shown = copy.copy(config.info)
        shown.hardware = copy.copy(config.info.hardware)
        files = {device.key: disk for device, disk in self.disks(config)}
        shown.hardware.device = [
            self._shown_disk(device, files[device.key], snapshot) if device.key in files else device
            for device in config.info.hardware.device
        ]
        return shown

    def _shown_disk(self, device: Any, disk: LabDisk, snapshot: int | None) -> Any:
        meta = disk.meta
        frozen = meta.of_snapshot(snapshot) if snapshot is not None else None
        layers = meta.layers[: frozen.depth] if frozen else meta.layers
        change_id = meta.change_id
        if frozen:
            change_id = f"{frozen.tracking}/{frozen.epoch}" if frozen.tracking else None
        base = device.backing.fileName
        chain = [base] + [f"{base.removesuffix('.vmdk')}-{layer.number:06d}.vmdk" for layer in layers]
        return hardware.with_chain(device, chain, change_id, meta.uuid, self.lab.datastores[split(base)[0]].ref)

    def p_runtime(self) -> Any:
        return vm_summary.runtime(self)

    def p_summary(self) -> Any:
        return vm_summary.summary(self)

    def p_layoutEx(self) -> Any:
        """vCenter looks at the sizes when the VM changes, when it is asked to, and now and then."""
        if self._layout is None or wire.now() - self._layout.timestamp > LAYOUT_AGE:
            self._layout = vm_summary.layout(self)
        return self._layout

    def RefreshStorageInfo(self, call: Call) -> None:
        with self.registry.lock:
            self._layout = None
            self.registry.touch(self)

    def p_guest(self) -> Any:
        return vm_summary.guest(self)

    def p_capability(self) -> Any:
        return wire.filled(
            vim.vm.Capability,
            snapshotOperationsSupported=True,
            multipleSnapshotsSupported=True,
            poweredOffSnapshotsSupported=True,
            quiescedSnapshotsSupported=True,
            changeTrackingSupported=True,
        )

    def p_snapshot(self) -> Any:
        if not self.snapshots:
            return None
        return vim.vm.SnapshotInfo(currentSnapshot=self.snapshots[-1].ref, rootSnapshotList=tree(self.snapshots))

    def p_rootSnapshot(self) -> list[Any]:
        return refs(self.snapshots[:1])

    def p_resourcePool(self) -> Any:
        return None if self.config.info.template else self.pool.ref

    def p_parentVApp(self) -> Any:
        return self.pool.ref if isinstance(self.pool.ref, vim.VirtualApp) else None

    def p_datastore(self) -> list[Any]:
        return refs(self.lab.datastores[name] for name in sorted(self.datastore_names()))

    def p_network(self) -> list[Any]:
        return refs(self.lab.of_type(Network))

    def p_guestHeartbeatStatus(self) -> str:
        return "green" if self.running else "gray"

    def children(self) -> list[Managed]:
        return []

    # Methods.

    def task(self, method: str, work: Callable[[Task], Any]) -> Any:
        """Only one task of a VM runs at a time, and none while a lease on it is held."""
        refuse_leased(self)

        def alone(task: Task) -> Any:
            with self._busy:
                if self.moid not in self.registry.objects:
                    raise wire.gone(self.ref)
                return work(task)

        return self.lab.tasks.start(method, self, self.name, alone)

    def CreateSnapshot_Task(
        self, call: Call, name: str, memory: bool, quiesce: bool, description: str | None = None
    ) -> Any:
        def work(_task: Task) -> Any:
            questions.refuse_without_space(self)
            return Snapshot.take(self, name, description or "", quiesce=quiesce).ref

        return self.task("CreateSnapshot_Task", work)

    def RemoveAllSnapshots_Task(self, call: Call, consolidate: bool | None = None, spec: Any = None) -> Any:
        def work(task: Task) -> None:
            for snapshot in tuple(self.snapshots):
                snapshot.detach()
            self.consolidate(task)

        return self.task("RemoveAllSnapshots_Task", work)

    def ConsolidateVMDisks_Task(self, call: Call) -> Any:
        return self.task("ConsolidateVMDisks_Task", self.consolidate)

    def consolidate(self, task: Task) -> None:
        """Merges the layers that no snapshot needs. The guest goes on writing."""
        pace = self.lab.faults.consolidation_bytes_per_s()
        disks = [disk for _, disk in self.disks() if disk.needs_consolidation]
        total = sum(sum(disk.delta_bytes().values()) for disk in disks) or 1
        done = 0
        for disk in disks:
            delta = sum(disk.delta_bytes().values())

            def progress(merged: int, before: int = done) -> None:
                task.progress((before + merged) * 100 // total)

            disk.consolidate(pace, progress)
            done += delta
        self._stun(self.lab.faults.stun_s(done))
        self.changed()

    def _stun(self, seconds: float) -> None:
        self.stunned_until = time.monotonic() + seconds
        time.sleep(seconds)

    def ReconfigVM_Task(self, call: Call, spec: Any) -> Any:
        return self.task("ReconfigVM_Task", lambda _task: self.reconfigure(spec))

    def reconfigure(self, spec: Any) -> None:
        change = hardware.Change.of(self.config.info, self.lab.shelf)
        try:
            change.apply(spec)
            self._grow(change.grown)
        except vmodl.MethodFault:
            change.undo()
            raise
        with self.registry.lock:
            self.config = Config.of(change.config)
            self.name = change.config.name
            self._apply_change_tracking()
            self.changed()
        if not self.snapshots:  # They may hold the disk still.
            for file_name in change.doomed:
                self.lab.shelf.delete(file_name)

    def renamed(self, name: str) -> None:
        check_name_is_free(self.parent, name)
        self.reconfigure(vim.vm.ConfigSpec(name=name))

    def _grow(self, grown: list[tuple[str, int]]) -> None:
        for file_name, capacity_bytes in grown:
            try:
                self.lab.shelf.get(file_name).grow(capacity_bytes)
            except ValueError as error:
                raise vim.fault.InvalidDeviceSpec(deviceIndex=0, msg=str(error)) from error

    def _apply_change_tracking(self) -> None:
        for _, disk in self.disks():
            if self.config.info.changeTrackingEnabled:
                disk.enable_tracking(at_next_snapshot=self.running)
            else:
                disk.disable_tracking()

    def QueryChangedDiskAreas(
        self, call: Call, deviceKey: int, startOffset: int, changeId: str, snapshot: Any = None
    ) -> Any:
        taken = self.registry.find(snapshot) if snapshot is not None else None
        if taken is None and self.running:
            raise vim.fault.FileFault(file=self.config.home, msg="The disk of a running VM has no state to compare.")
        if taken is not None and taken not in self.snapshots:
            raise vmodl.fault.InvalidArgument(invalidProperty="snapshot", msg="This is no snapshot of the VM.")
        config = taken.config if taken else None
        disk = next((disk for device, disk in self.disks(config) if device.key == deviceKey), None)
        if disk is None or not 0 <= startOffset < disk.meta.capacity_bytes:
            name = "startOffset" if disk else "deviceKey"
            raise vmodl.fault.InvalidArgument(
                invalidProperty=name, msg=f"A specified parameter was not correct: {name}"
            )
        try:
            length, areas = disk.changed_areas(taken.number if taken else None, startOffset, changeId)
        except changes.ChangeIdInvalid as error:
            raise vim.fault.FileFault(file=disk.flat.name, msg=str(error)) from error
        extent = vim.VirtualMachine.DiskChangeInfo.DiskChangeExtent
        return vim.VirtualMachine.DiskChangeInfo(
            startOffset=startOffset,
            length=length,
            changedArea=[extent(start=start, length=length) for start, length in areas],
        )

    def ExportVm(self, call: Call) -> Any:
        return exports.of_vm(self, call)

    def PowerOnVM_Task(self, call: Call, host: Any = None) -> Any:
        return self.task("PowerOnVM_Task", lambda _task: self.set_power(ON))

    def PowerOffVM_Task(self, call: Call) -> Any:
        return self.task("PowerOffVM_Task", lambda _task: self.set_power(OFF))

    def MarkAsTemplate(self, call: Call) -> None:
        registering.mark(self, template=True)

    def MarkAsVirtualMachine(self, call: Call, pool: Any, host: Any = None) -> None:
        registering.mark(self, template=False)

    def UnregisterVM(self, call: Call) -> None:
        registering.unregister(self)

    def AnswerVM(self, call: Call, questionId: str, answerChoice: str) -> None:
        questions.answer(self, questionId, answerChoice)

    def set_power(self, power: str) -> None:
        if self.power == power:
            raise vim.fault.InvalidPowerState(
                requestedState=power, existingState=self.power, msg="The VM is in that power state already."
            )
        with self.registry.lock:
            self.power, self.question = power, None
            self.boot_time = wire.now() if power == ON else None
            if self.config.info.changeTrackingEnabled:
                for _, disk in self.disks():
                    disk.enable_tracking(at_next_snapshot=False)
            self.changed()

    def Destroy_Task(self, call: Call) -> Any:
        return self.task("Destroy_Task", lambda _task: self.destroy())

    def destroy(self) -> None:
        if self.running:
            raise vim.fault.InvalidPowerState(
                requestedState=OFF, existingState=self.power, msg="Power the VM off before you destroy it."
            )
        files = [device.backing.fileName for device in hardware.disks(self.config.info)]
        self.vanish()
        for file_name in files:
            self.lab.shelf.delete(file_name)

    def vanish(self) -> None:
        with self.registry.lock:
            for snapshot in self.snapshots:
                self.registry.remove(snapshot)
            self.lab.vms.pop(self.moid, None)
            self.pool.vms.remove(self)
            self.registry.touch(self.pool)
            super().vanish()

    def move_to(self, pool: "ResourcePool", folder: Entity | None) -> None:
        with self.registry.lock:
            self.pool.vms.remove(self)
            pool.vms.append(self)
            if self.parent is not None:
                self.parent.kids.remove(self)
            if folder is not None:
                folder.kids.append(self)
            touched = [kin for kin in (self.pool, self.parent, pool, folder) if kin is not None]
            self.pool, self.parent = pool, folder
            self.changed()
            self.registry.touch(*touched)
