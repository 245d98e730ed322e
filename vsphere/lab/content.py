"""What a lab is filled with on its first start."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from vsphere.lab import filesystem, generator, guests, provisioning
from vsphere.lab.entities import Datastore, Host, Lab, Network
from vsphere.lab.inventory import GIB, Cluster, Datacenter, Folder
from vsphere.lab.loads import Profile, heavy_tailed
from vsphere.lab.pools import ResourcePool, VApp
from vsphere.lab.vm import OFF, ON, VirtualMachine

MIB = 2**20
MEDIAN_KBPS = 160.0
LOAD_SIGMA = 1.3
"""Of the log-normal loads: the busiest quarter of a dozen VMs does about two thirds of the writing."""


@dataclass(frozen=True, kw_only=True)
class VmSpec:
    name: str
    disk_bytes: tuple[int, ...]
    vapp: str | None = None
    start_order: int = 1
    memory_mib: int = 1024
    cpus: int = 1
    filesystem: bool = True
    powered_on: bool = True
    write_kbps: float | tuple[float, ...] | None = None
    """A tuple: in each hour of the lab. None: drawn from the distribution."""
    read_kbps: float | tuple[float, ...] | None = None
    """None: a share of what it writes."""


@dataclass(frozen=True, kw_only=True)
class LabSpec:
    vms: tuple[VmSpec, ...]
    hosts: tuple[str, ...] = ("esx1.lab", "esx2.lab")
    datastores: tuple[str, ...] = ("ssd1", "ssd2")
    datastore_bytes: int = 200 * GIB
    median_kbps: float = MEDIAN_KBPS


def demo() -> LabSpec:
    def vapp(name: str, roles: tuple[str, ...], sizes: tuple[tuple[int, ...], ...]) -> list[VmSpec]:
        return [
            VmSpec(
                name=f"{name}-{role}",
                vapp=name,
                start_order=order,
                disk_bytes=tuple(size * MIB for size in disks),
                memory_mib=2048 if len(disks) > 1 else 1024,
                cpus=2,
            )
            for order, (role, disks) in enumerate(zip(roles, sizes, strict=True), 1)
        ]

    return LabSpec(
        vms=(
            *vapp("acme-web", ("lb", "app1", "app2", "cache"), ((96,), (128,), (144,), (96,))),
            *vapp("acme-data", ("db", "queue", "search", "files"), ((192, 256), (144,), (192,), (128, 192))),
            *vapp("globex-shop", ("db", "app", "web", "mail"), ((192, 128), (144,), (96,), (144,))),
            VmSpec(name="acme-jumphost", disk_bytes=(32 * MIB,)),
            VmSpec(name="globex-build", disk_bytes=(64 * MIB,)),
        )
    )


def small() -> LabSpec:
    return LabSpec(
        vms=(
            VmSpec(name="alice-db", vapp="alice-app", disk_bytes=(8 * MIB, 8 * MIB), start_order=1),
            VmSpec(name="alice-web", vapp="alice-app", disk_bytes=(8 * MIB,), start_order=2),
            VmSpec(name="stray", disk_bytes=(8 * MIB,)),
            VmSpec(name="bob-web", vapp="bob-app", disk_bytes=(8 * MIB,)),
        )
    )


def many(count: int, disk_mib: int = 64) -> LabSpec:
    """Sparse VMs without file systems, for measuring."""
    return LabSpec(
        vms=tuple(
            VmSpec(name=f"vm-{i:04d}", disk_bytes=(disk_mib * MIB,), filesystem=False) for i in range(1, count + 1)
        ),
        median_kbps=4.0,
    )


SPECS = {"demo": demo, "small": small}


def _profile(spec: VmSpec, drawn_kbps: float, read_share: float) -> Profile:
    writes = _hours(drawn_kbps if spec.write_kbps is None else spec.write_kbps)
    reads = tuple(kbps * read_share for kbps in writes) if spec.read_kbps is None else _hours(spec.read_kbps)
    return Profile(write_kbps=writes, read_kbps=reads)


def _hours(kbps: float | tuple[float, ...]) -> tuple[float, ...]:
    return kbps if isinstance(kbps, tuple) else (kbps,)


class Builder:
    def __init__(self, lab: Lab, spec: LabSpec, seed: int) -> None:
        self.lab, self.spec, self.seed = lab, spec, seed

    def build(self) -> None:
        root = Folder(self.lab, "Datacenters", None, ("Folder", "Datacenter"), moid="group-d1")
        root.save()
        datacenter = Datacenter(self.lab, "Lab", root)
        datacenter.save()
        self.vm_folder = self._folder(datacenter, "vm", "Folder", "VirtualMachine", "VirtualApp")
        hosts = self._folder(datacenter, "host", "Folder", "ComputeResource")
        datastores = self._folder(datacenter, "datastore", "Folder", "Datastore")
        networks = self._folder(datacenter, "network", "Folder", "Network")
        cluster = Cluster(self.lab, "cluster1", hosts)
        cluster.save()
        self.pool = ResourcePool(self.lab, "Resources", cluster)
        self.pool.save()
        self.hosts = [Host(self.lab, name, cluster) for name in self.spec.hosts]
        for host in self.hosts:
            host.save()
        for name in self.spec.datastores:
            Datastore(self.lab, name, datastores, self.spec.datastore_bytes).save()
        self.network = Network(self.lab, "VM Network", networks)
        self.network.save()
        self._vms()

    def _folder(self, parent: Datacenter, name: str, *holds: str) -> Folder:
        folder = Folder(self.lab, name, parent, holds)
        folder.save()
        return folder

    def _vms(self) -> None:
        vapps: dict[str, VApp] = {}
        rates = heavy_tailed(len(self.spec.vms), self.spec.median_kbps, LOAD_SIGMA, self.seed)
        made = []
        for index, (vm_spec, rate) in enumerate(zip(self.spec.vms, rates, strict=True)):
            if vm_spec.vapp and vm_spec.vapp not in vapps:
                vapps[vm_spec.vapp] = VApp(self.lab, vm_spec.vapp, self.pool, folder=self.vm_folder)
            made.append((vm_spec, self._vm(vm_spec, rate, vapps.get(vm_spec.vapp or ""), index)))
        for name, vapp in vapps.items():
            self._order(vapp, {spec.name: spec.start_order for spec in self.spec.vms if spec.vapp == name})
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._fill, [vm for spec, vm in made if spec.filesystem]))
        for vm_spec, vm in made:
            if vm_spec.powered_on and not vm.running:
                vm.set_power(ON)

    def _vm(self, spec: VmSpec, rate: float, vapp: VApp | None, index: int) -> VirtualMachine:
        datastore = self.spec.datastores[index % len(self.spec.datastores)]
        return provisioning.create_vm(
            self.lab,
            self._config(spec, datastore),
            None if vapp else self.vm_folder,
            vapp or self.pool,
            self.hosts[index % len(self.hosts)].ref,
            profile=_profile(spec, rate, read_share=0.2 + index % 5 * 0.15),
            power=ON if spec.powered_on and not spec.filesystem else OFF,
        )

    def _fill(self, vm: VirtualMachine) -> None:
        """A file system on all that the generator leaves alone, a third of the disk full."""
        for number, (_, disk) in enumerate(vm.disks()):
            capacity = disk.meta.capacity_bytes
            data_bytes = capacity // 3
            files = {}
            if number == 0:
                shared_bytes = int(data_bytes * guests.SHARED_SHARE)
                files = guests.shared_files(shared_bytes, self.seed)
                data_bytes -= shared_bytes
            files |= guests.own_files(vm.name, number, data_bytes, self.seed)
            filesystem.make(disk.flat, generator.region(capacity)[0], vm.name, files)

    def _config(self, spec: VmSpec, datastore: str) -> Any:
        device = vim.vm.device
        scsi = device.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing")
        card = device.VirtualVmxnet3(
            key=-2,
            addressType="generated",
            backing=device.VirtualEthernetCard.NetworkBackingInfo(
                deviceName=self.network.name, network=self.network.ref
            ),
            connectable=device.VirtualDevice.ConnectInfo(startConnected=True, allowGuestControl=True, connected=True),
        )
        disks = [
            device.VirtualDisk(
                key=-10 - unit,
                controllerKey=-1,
                capacityInBytes=size,
                capacityInKB=size // 1024,
                backing=device.VirtualDisk.FlatVer2BackingInfo(
                    fileName="", diskMode="persistent", thinProvisioned=True
                ),
            )
            for unit, size in enumerate(spec.disk_bytes)
        ]
        added = [device.VirtualDeviceSpec(operation="add", device=new) for new in (scsi, card)]
        added += [device.VirtualDeviceSpec(operation="add", fileOperation="create", device=disk) for disk in disks]
        return vim.vm.ConfigSpec(
            name=spec.name,
            guestId="debian12_64Guest",
            annotation=f"{spec.name} of the lab",
            numCPUs=spec.cpus,
            memoryMB=spec.memory_mib,
            firmware="efi",
            files=vim.vm.FileInfo(vmPathName=f"[{datastore}]"),
            extraConfig=[vim.option.OptionValue(key="disk.EnableUUID", value="TRUE")],
            deviceChange=added,
        )

    @staticmethod
    def _order(vapp: VApp, orders: dict[str, int]) -> None:
        entries = [
            vim.vApp.EntityConfigInfo(
                key=vm.ref,
                tag=vm.name,
                startOrder=orders[vm.name],
                startDelay=10,
                waitingForGuest=False,
                startAction="powerOn",
                stopDelay=10,
                stopAction="powerOff",
                destroyWithParent=False,
            )
            for vm in vapp.vms
        ]
        vapp.configure(vim.vApp.VAppConfigSpec(entityConfig=entries, annotation=f"{vapp.name} of the lab"))
