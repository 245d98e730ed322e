"""What a VM shows beside its configuration: runtime, summary, files, guest."""

from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from vsphere.lab import hardware, wire

if TYPE_CHECKING:
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
        consolidationNeeded=any(disk.needs_consolidation for _, disk in vm.disks()),
    )


def summary(vm: "VirtualMachine") -> Any:
    config = vm.config.info
    return vim.vm.Summary(
        vm=vm.ref,
        runtime=runtime(vm),
        config=vim.vm.Summary.ConfigSummary(
            name=vm.name,
            template=False,
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
    """The files of the disks. The sizes of the deltas show how far the snapshots have grown."""
    files: list[Any] = []
    chains: list[Any] = []

    def add(name: str, size: int) -> int:
        files.append(
            vim.vm.FileLayoutEx.FileInfo(
                key=len(files), name=name, type="diskExtent", size=size, uniqueSize=size, accessible=True
            )
        )
        return len(files) - 1

    for device, disk in vm.disks():
        stem = device.backing.fileName.removesuffix(".vmdk")
        units = [[add(f"{stem}-flat.vmdk", disk.flat.stat().st_blocks * 512)]]
        units += [[add(f"{stem}-{n:06d}-delta.vmdk", size)] for n, size in disk.delta_bytes().items()]
        chain = [vim.vm.FileLayoutEx.DiskUnit(fileKey=keys) for keys in units]
        chains.append(vim.vm.FileLayoutEx.DiskLayout(key=device.key, chain=chain))
    return vim.vm.FileLayoutEx(file=files, disk=chains, timestamp=wire.now())


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
