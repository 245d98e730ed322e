"""What a VM shows beside its configuration: runtime, summary, files, guest."""

from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from vsphere.lab import hardware, wire

if TYPE_CHECKING:
    from vsphere.lab.snapshots import Snapshot
    from vsphere.lab.vm import VirtualMachine


def runtime(vm: "VirtualMachine") -> Any:
    return vim.vm.RuntimeInfo(
        host=vm.host.ref,
        connectionState="connected",
        powerState=vm.power,
        bootTime=vm.boot_time,
        faultToleranceState="notConfigured",
        toolsInstallerMounted=False,
        numMksConnections=0,
        recordReplayState="inactive",
        onlineStandby=False,
        question=vm.question,
        consolidationNeeded=any(disk.needs_consolidation for _, disk in vm.disks()),
    )


def summary(vm: "VirtualMachine") -> Any:
    config = vm.config.info
    return vim.vm.Summary(
        vm=vm.ref,
        runtime=runtime(vm),
        config=vim.vm.Summary.ConfigSummary(
            name=vm.name,
            template=bool(config.template),
            vmPathName=config.files.vmPathName,
            memorySizeMB=config.hardware.memoryMB,
            numCpu=config.hardware.numCPU,
            numVirtualDisks=len(hardware.disks(config)),
            uuid=config.uuid,
            instanceUuid=config.instanceUuid,
            guestId=config.guestId,
            guestFullName=config.guestFullName,
            annotation=config.annotation,
        ),
        storage=_storage(vm),
        quickStats=vim.vm.Summary.QuickStats(guestHeartbeatStatus=vm.p_guestHeartbeatStatus()),
        overallStatus="green",
    )


def _storage(vm: "VirtualMachine") -> Any:
    committed, provisioned = 0, 0
    for _, disk in vm.disks():
        committed += disk.flat.stat().st_blocks * 512 + sum(disk.delta_bytes().values())
        provisioned += disk.meta.capacity_bytes
    return vim.vm.Summary.StorageSummary(
        committed=committed, uncommitted=max(0, provisioned - committed), unshared=committed, timestamp=wire.now()
    )


def layout(vm: "VirtualMachine") -> Any:
    """The files of the disks, now and as each snapshot has them. The sizes of the deltas show how far they grew."""
    kind = vim.vm.FileLayoutEx
    files: list[Any] = []

    def unit(name: str, size: int, content: str = "diskExtent") -> Any:
        files.append(
            kind.FileInfo(key=len(files), name=name, type=content, size=size, uniqueSize=size, accessible=True)
        )
        return kind.DiskUnit(fileKey=[len(files) - 1])

    chains: dict[int, list[Any]] = {}
    for device, disk in vm.disks():
        stem = device.backing.fileName.removesuffix(".vmdk")
        deltas = [unit(f"{stem}-{n:06d}-delta.vmdk", size) for n, size in disk.delta_bytes().items()]
        chains[device.key] = [unit(f"{stem}-flat.vmdk", disk.flat.stat().st_blocks * 512), *deltas]
    home = vm.config.info.files.vmPathName.removesuffix(".vmx")
    snapshots = [
        kind.SnapshotLayout(
            key=snapshot.ref,
            dataKey=unit(f"{home}-Snapshot{snapshot.number}.vmsn", 0, "snapshotData").fileKey[0],
            disk=[kind.DiskLayout(key=key, chain=chains[key][: depth + 1]) for key, depth in _depths(vm, snapshot)],
        )
        for snapshot in vm.snapshots
    ]
    disks = [kind.DiskLayout(key=key, chain=chain) for key, chain in chains.items()]
    return kind(file=files, disk=disks, snapshot=snapshots, timestamp=wire.now())


def _depths(vm: "VirtualMachine", snapshot: "Snapshot") -> list[tuple[int, int]]:
    """Of the VM's present disks that the snapshot holds: key, and deltas below it."""
    held = [(device.key, disk.meta.of_snapshot(snapshot.number)) for device, disk in vm.disks()]
    return [(key, frozen.depth) for key, frozen in held if frozen]


def guest(vm: "VirtualMachine") -> Any:
    running = vm.running
    return vim.vm.GuestInfo(
        toolsStatus="toolsOk" if running else "toolsNotRunning",
        toolsRunningStatus="guestToolsRunning" if running else "guestToolsNotRunning",
        guestId=vm.config.info.guestId,
        guestFullName=vm.config.info.guestFullName,
        hostName=vm.name,
        guestState="running" if running else "notRunning",
    )
