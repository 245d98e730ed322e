"""What the platform in memory keeps of a VM and of a snapshot."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from backups.platform import Disk, Host, Load, Snapshot, Vm, VmConfig
from tests.fakes.disks import MemoryDisk, changed_bytes

NETWORKS = ("network1", "network2")
HOSTS = tuple(Host(ref=f"host-{n}", name=f"host{n}", pool_ref="pool-1", networks=NETWORKS) for n in (1, 2))


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
    left_out: tuple[str, ...] = ()
    epoch: int = 1
    tracking_id: str = field(default_factory=lambda: str(uuid4()))
    snapshots: dict[str, HeldSnapshot] = field(default_factory=dict)

    def has(self, snapshot: Snapshot) -> bool:
        held = self.snapshots.get(snapshot.name)
        return held is not None and held.snapshot.ref == snapshot.ref

    def config(self) -> VmConfig:
        disks = tuple(replace(disk, datastore="", path="") for disk in self.vm.disks)
        kept = copy.deepcopy(self.settings)
        return VmConfig(name=self.vm.name, uuid=self.vm.uuid, settings=kept, disks=disks, left_out=self.left_out)

    def growth_bytes(self) -> int:
        """Whole blocks, as vSphere's deltas grow."""
        if not self.snapshots:
            return 0
        first = next(iter(self.snapshots.values()))
        return sum(changed_bytes(disk, first.epoch) for disk in self.disks.values())


def new_config(name: str, capacities: Sequence[int], network: str) -> VmConfig:
    disks = tuple(
        Disk(key=2000 + n, label=f"Hard disk {n + 1}", capacity_bytes=size, datastore="", path="")
        for n, size in enumerate(capacities)
    )
    cards = [{"network": network, "start_connected": True}]
    settings = {"cpus": 2, "memory_mb": 512, "networks": cards}
    return VmConfig(name=name, uuid=str(uuid4()), settings=settings, disks=disks)


def on_networks(config: VmConfig, wanted: Mapping[str, str]) -> VmConfig:
    cards = config.settings.get("networks", [])
    moved = [card | {"network": wanted.get(card["network"], card["network"])} for card in cards]
    return replace(config, settings=config.settings | {"networks": moved})


def networks_of(settings: dict[str, Any]) -> tuple[str, ...]:
    return tuple(sorted({card["network"] for card in settings.get("networks", ())}))


def placed(disk: Disk, datastore: str, name: str) -> Disk:
    return replace(disk, datastore=datastore, path=f"[{datastore}] {name}/{name}_{disk.key}.vmdk")
