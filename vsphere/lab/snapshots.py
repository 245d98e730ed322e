"""Snapshots of a VM. They form one chain: reverting, which would make branches, is not modelled."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from vsphere.lab import exports, wire
from vsphere.lab.registry import Managed, refs
from vsphere.lab.sessions import Call
from vsphere.lab.state import Record
from vsphere.lab.tasks import Task

if TYPE_CHECKING:
    from vsphere.lab.config import Config
    from vsphere.lab.vm import VirtualMachine

MOST_SNAPSHOTS = 32


class Snapshot(Managed):
    wsdl = vim.vm.Snapshot

    def __init__(self, vm: "VirtualMachine", number: int, config: "Config", about: Record) -> None:
        """`about`: name, description, created (ISO), power, quiesced."""
        self.vm, self.number, self.config, self.about = vm, number, config, about
        super().__init__(vm.registry, f"snapshot-{number}")

    @classmethod
    def take(cls, vm: "VirtualMachine", name: str, description: str, *, quiesce: bool) -> "Snapshot":
        vm.lab.faults.before_snapshot(vm.name)
        if len(vm.snapshots) >= MOST_SNAPSHOTS:
            raise vim.fault.TooManySnapshotLevels(msg="A VM can have at most 32 snapshots.")
        number = vm.registry.next_serial()
        with vm.stunned() as disks:
            if vm.lab.shelf.witness:
                vm.lab.shelf.witness.record(name, {device.key: disk for device, disk in vm.disks()})
            for disk in disks:
                disk.snapshot(number)
            created = wire.now()
        about = {
            "name": name,
            "description": description,
            "created": created.isoformat(),
            "power": vm.power,
            "quiesced": quiesce and vm.running,
        }
        with vm.registry.lock:
            snapshot = cls(vm, number, vm.config, about)
            vm.snapshots.append(snapshot)
            vm.changed()
        return snapshot

    def record(self) -> Record:
        return self.about | {"number": self.number, "config": self.config.xml}

    def detach(self) -> None:
        """It leaves the tree; its layers wait to be consolidated."""
        with self.registry.lock:
            self.vm.snapshots.remove(self)
            self.registry.remove(self)
            self.vm.changed()
        for _, disk in self.vm.disks(self.config):
            disk.remove_snapshot(self.number)

    def p_config(self) -> Any:
        return self.vm.shown_config(self.config, self.number)

    def p_vm(self) -> Any:
        return self.vm.ref

    def p_childSnapshot(self) -> list[Any]:
        index = self.vm.snapshots.index(self)
        return refs(self.vm.snapshots[index + 1 : index + 2])

    def ExportSnapshot(self, call: Call) -> Any:
        return exports.of_snapshot(self, call)

    def RemoveSnapshot_Task(self, call: Call, removeChildren: bool, consolidate: bool | None = None) -> Any:
        def work(task: Task) -> None:
            if self not in self.vm.snapshots:
                raise wire.gone(self.ref)
            index = self.vm.snapshots.index(self)
            for snapshot in self.vm.snapshots[index:] if removeChildren else [self]:
                snapshot.detach()
            self.vm.lab.faults.in_task("consolidation", self.vm.name)
            if consolidate is not False:
                self.vm.consolidate(task)

        return self.vm.task("RemoveSnapshot_Task", work)

    def RenameSnapshot(self, call: Call, name: str | None = None, description: str | None = None) -> None:
        with self.registry.lock:
            new = {"name": name or self.about["name"], "description": description or self.about["description"]}
            self.about = self.about | new
            self.vm.changed()


def tree(chain: list[Snapshot]) -> list[Any]:
    """The chain, oldest first, as nested SnapshotTree lists."""
    below: list[Any] = []
    for snapshot in reversed(chain):
        about = snapshot.about
        below = [
            vim.vm.SnapshotTree(
                snapshot=snapshot.ref,
                vm=snapshot.vm.ref,
                name=about["name"],
                description=about["description"],
                id=snapshot.number,
                createTime=datetime.fromisoformat(about["created"]),
                state=about["power"],
                quiesced=about["quiesced"],
                childSnapshotList=below,
            )
        ]
    return below
