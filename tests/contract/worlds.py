"""The platforms that the contract suite runs on, with what a test must be able to do that the contract does not offer:
make a VM to play with, and write as its guest would."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from backups.errors import PlatformUnreachable
from backups.platform import Connection, Disk, Platform, Target, Vm, VmConfig
from tests.fakes.platform import FakePlatform
from vsphere.lab.content import LabSpec, VmSpec
from vsphere.lab.server import LabServer
from vsphere.platform import connect

MIB = 2**20
NUMBERS = count(1)


class World(Protocol):
    platform: Platform
    transport: str

    def new_vm(self, disks: Sequence[int] = (MIB,), *, on: bool = True) -> Vm: ...

    def guest_writes(self, vm: Vm, disk_key: int, start: int, data: bytes) -> None: ...

    def slow_down(self, datastore: str, latency_ms: int) -> None: ...

    def fill(self, datastore: str) -> None:
        """Until the test ends."""


def vm_named(platform: Platform, name: str) -> Vm:
    return next(vm for vm in platform.inventory().vms if vm.name == name)


class FakeWorld:
    transport = "memory"

    def __init__(self) -> None:
        self.platform = fake = FakePlatform()
        self._fake = fake
        shop = fake.add_vapp("shop")
        fake.add_vm("shop-db", vapp_ref=shop, disks=(MIB, MIB), write_kbps=900.0)
        fake.add_vm("shop-web", vapp_ref=shop)
        fake.add_vm("stray", write_kbps=0.0)

    def new_vm(self, disks: Sequence[int] = (MIB,), *, on: bool = True) -> Vm:
        name = f"vm-{next(NUMBERS)}"
        self._fake.power(self._fake.add_vm(name, disks=disks), on)
        return vm_named(self.platform, name)

    def guest_writes(self, vm: Vm, disk_key: int, start: int, data: bytes) -> None:
        self._fake.write(vm.ref, disk_key, start, data)

    def slow_down(self, datastore: str, latency_ms: int) -> None:
        self._fake.set_latency(datastore, latency_ms)

    def fill(self, datastore: str) -> None:
        self._fake.set_free(datastore, 0)


LAB = LabSpec(
    vms=(
        VmSpec(name="shop-db", vapp="shop", disk_bytes=(MIB, MIB), start_order=1, write_kbps=900.0, filesystem=False),
        VmSpec(name="shop-web", vapp="shop", disk_bytes=(MIB,), start_order=2, write_kbps=20.0, filesystem=False),
        VmSpec(name="stray", disk_bytes=(MIB,), write_kbps=0.0, filesystem=False),
    )
)


def start_lab(folder: Path) -> LabServer:
    return LabServer(folder, spec=LAB, sample_s=1.0).start()


def connection_to(lab: LabServer) -> Connection:
    endpoint = lab.endpoint
    return Connection(
        host=endpoint.host,
        port=endpoint.port,
        username=endpoint.username,
        password=endpoint.password,
        certificate_pem=endpoint.certificate_pem,
    )


class LabWorld:
    """vSphere's adapter on the lab vCenter, over the wire. VMs that a test makes are quiet: only it writes."""

    transport = "datastore"

    def __init__(self, lab: LabServer) -> None:
        self.lab = lab
        self.platform = connect(connection_to(lab))
        self._like = self.platform.describe(vm_named(self.platform, "stray").ref)
        self._target = Target(host_ref=self.platform.inventory().hosts[0].ref, datastore="ssd1")
        self._stay = set(lab.lab.vms)

    def new_vm(self, disks: Sequence[int] = (MIB,), *, on: bool = True) -> Vm:
        name = f"vm-{next(NUMBERS)}"
        while True:
            with suppress(PlatformUnreachable):  # tests end sessions
                ref = self.platform.create_vm(with_disks(self._like, disks), name, name, self._target)
                self.platform.power(ref, False)
                self.platform.power(ref, on)
                return vm_named(self.platform, name)

    def guest_writes(self, vm: Vm, disk_key: int, start: int, data: bytes) -> None:
        self.disk(vm, disk_key).write(start, data)

    def slow_down(self, datastore: str, latency_ms: int) -> None:
        self.lab.lab.faults.want({"datastore_latency_ms": {datastore: latency_ms}})

    def fill(self, datastore: str) -> None:
        self.lab.lab.faults.want({"datastore_free_bytes": {datastore: 0}})

    def clear(self) -> None:
        """Takes away the VMs that the test made, and the trouble."""
        self.lab.lab.faults.want({})
        for ref in set(self.lab.lab.vms) - self._stay:
            self.platform.destroy_vm(ref)

    def disk(self, vm: Vm, disk_key: int) -> Any:
        return next(disk for device, disk in self.lab.lab.vms[vm.ref].disks() if device.key == disk_key)


def with_disks(like: VmConfig, sizes: Sequence[int]) -> VmConfig:
    disks = tuple(
        Disk(key=2000 + n, label=f"Hard disk {n + 1}", capacity_bytes=size, datastore="", path="")
        for n, size in enumerate(sizes)
    )
    placed = [
        {"key": d.key, "controller": 1000, "unit": n, "mode": "persistent", "thin": True} for n, d in enumerate(disks)
    ]
    return replace(like, settings=like.settings | {"disks": placed}, disks=disks)
