"""What the platform in memory keeps of a VM and of a snapshot."""

from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from backups.platform import Disk, Load, Snapshot, Vm, VmConfig
from tests.fakes.disks import MemoryDisk, changed_bytes


@dataclass
class HeldSnapshot:
    snapshot: Snapshot
    epoch: int
    """What is written later carries a higher one."""
    data: dict[int, bytes]
    epochs: dict[int, dict[int, int]]
    change_id: str | None
    config: VmConfig
    disks: tuple[Disk, ...]


@dataclass
class FakeVm:
    vm: Vm
    settings: dict[str, Any]
    disks: dict[int, MemoryDisk]
    load: Load
    marker: str = ""
    epoch: int = 1
    tracking_id: str = field(default_factory=lambda: str(uuid4()))
    snapshots: dict[str, HeldSnapshot] = field(default_factory=dict)

    def has(self, snapshot: Snapshot) -> bool:
        held = self.snapshots.get(snapshot.name)
        return held is not None and held.snapshot.ref == snapshot.ref

    def growth_bytes(self) -> int:
        """Whole blocks, as vSphere's deltas grow."""
        if not self.snapshots:
            return 0
        first = next(iter(self.snapshots.values()))
        return sum(changed_bytes(disk, first.epoch) for disk in self.disks.values())


def placed(disk: Disk, datastore: str, name: str) -> Disk:
    return replace(disk, datastore=datastore, path=f"[{datastore}] {name}/{name}_{disk.key}.vmdk")
