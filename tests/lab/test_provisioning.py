import pytest
from pyVmomi import vim

from tests.lab.client import MIB, Client, disk, flat_url, new_vm_spec


def test_a_new_vm_has_the_hardware_asked_for_and_empty_disks(idle: Client) -> None:
    vm = idle.done(idle.vm_folder.CreateVM_Task(new_vm_spec("alice-copy", MIB, 2 * MIB), idle.pool))
    assert vm.name == "alice-copy"
    assert vm.runtime.powerState == "poweredOff"
    assert (vm.config.hardware.numCPU, vm.config.hardware.memoryMB) == (2, 2048)
    assert disk(vm.config, 2001).capacityInBytes == 2 * MIB
    assert idle.read_flat(vm, 2001) == bytes(2 * MIB)
    with pytest.raises(vim.fault.DuplicateName):
        idle.done(idle.vm_folder.CreateVM_Task(new_vm_spec("alice-copy", MIB), idle.pool))


def test_an_instance_uuid_can_be_chosen_but_not_twice(idle: Client) -> None:
    taken = idle.vm("stray").config.instanceUuid
    wanted = "52d3cb3a-0000-4000-8000-000000000001"
    uuids = []
    for name, uuid in (("one", wanted), ("two", taken)):
        spec = new_vm_spec(name, MIB)
        spec.instanceUuid = uuid
        uuids.append(idle.done(idle.vm_folder.CreateVM_Task(spec, idle.pool)).config.instanceUuid)
    assert uuids[0] == wanted
    assert uuids[1] != taken


def test_a_vm_is_reconfigured(idle: Client) -> None:
    vm = idle.vm("stray")
    change = vim.vm.ConfigSpec(
        memoryMB=4096,
        numCPUs=4,
        annotation="grown",
        extraConfig=[vim.option.OptionValue(key="hotfirst.marker", value="42")],
    )
    idle.done(vm.ReconfigVM_Task(change))
    config = vm.config
    assert (config.hardware.memoryMB, config.hardware.numCPU, config.annotation) == (4096, 4, "grown")
    assert {o.key: o.value for o in config.extraConfig} == {"disk.EnableUUID": "TRUE", "hotfirst.marker": "42"}


def test_a_vm_is_renamed_but_not_to_a_name_that_is_taken(idle: Client) -> None:
    vm = idle.vm("stray")
    idle.done(vm.Rename_Task("found"))
    assert (vm.name, vm.config.name) == ("found", "found")
    with pytest.raises(vim.fault.DuplicateName):
        idle.done(vm.Rename_Task("alice-app"))


def test_disks_are_added_grown_and_removed(idle: Client) -> None:
    vm = idle.vm("stray")
    device = vim.vm.device
    idle.done(vm.PowerOffVM_Task())
    new = device.VirtualDisk(
        key=-1,
        controllerKey=1000,
        capacityInKB=1024,
        backing=device.VirtualDisk.FlatVer2BackingInfo(fileName="", diskMode="persistent"),
    )
    add = device.VirtualDeviceSpec(operation="add", fileOperation="create", device=new)
    idle.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[add])))
    added = disk(vm.config, 2001)
    url = flat_url(vm, 2001)

    added.capacityInKB, added.capacityInBytes = 2048, 2 * MIB
    grow = device.VirtualDeviceSpec(operation="edit", device=added)
    idle.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[grow])))
    assert idle.read_flat(vm, 2001) == bytes(2 * MIB)

    remove = device.VirtualDeviceSpec(operation="remove", fileOperation="destroy", device=added)
    idle.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[remove])))
    assert [d.key for d in vm.config.hardware.device if isinstance(d, device.VirtualDisk)] == [2000]
    assert idle.request("GET", url)[0] == 404


def test_a_vapp_is_made_filled_ordered_started_and_destroyed(idle: Client) -> None:
    resources = vim.ResourceConfigSpec(
        cpuAllocation=vim.ResourceAllocationInfo(reservation=500, limit=2000, expandableReservation=True,
                                                 shares=vim.SharesInfo(level="high", shares=8000)),
        memoryAllocation=vim.ResourceAllocationInfo(reservation=0, limit=-1, expandableReservation=True,
                                                    shares=vim.SharesInfo(level="normal", shares=4000)),
    )  # fmt: skip
    vapp = idle.pool.CreateVApp("alice-again", resources, vim.vApp.VAppConfigSpec(), idle.vm_folder)
    assert vapp.config.cpuAllocation.reservation == 500
    names = ("db", "web")
    vms = [idle.done(vapp.CreateChildVM_Task(new_vm_spec(name, MIB))) for name in names]
    assert [vm.parentVApp for vm in vms] == [vapp, vapp]
    entries = [
        vim.vApp.EntityConfigInfo(key=vm, startOrder=order, startAction="powerOn") for order, vm in enumerate(vms, 1)
    ]
    vapp.UpdateVAppConfig(vim.vApp.VAppConfigSpec(entityConfig=entries))
    assert [(e.key, e.startOrder) for e in vapp.vAppConfig.entityConfig] == [(vms[0], 1), (vms[1], 2)]

    idle.done(vapp.PowerOnVApp_Task())
    assert {vm.runtime.powerState for vm in vms} == {"poweredOn"}
    assert vapp.summary.vAppState == "started"
    with pytest.raises(vim.fault.InvalidPowerState):
        idle.done(vapp.Destroy_Task())
    idle.done(vapp.PowerOffVApp_Task(True))
    idle.done(vapp.Destroy_Task())
    assert "alice-again" not in {found.name for found in idle.all(vim.VirtualApp)}
    assert "db" not in {vm.name for vm in idle.all(vim.VirtualMachine)}


def test_vapps_nest(idle: Client) -> None:
    outer = idle.find(vim.VirtualApp, "alice-app")
    inner = outer.CreateVApp("inner", outer.config, vim.vApp.VAppConfigSpec(), None)
    vm = idle.done(inner.CreateChildVM_Task(new_vm_spec("deep", MIB)))
    assert inner.parentVApp == outer
    assert idle.vm("deep") == vm
    assert inner in [entry.key for entry in outer.vAppConfig.entityConfig]


def test_a_vm_is_destroyed_only_when_it_is_off_and_leaves_no_disk(idle: Client) -> None:
    vm = idle.vm("stray")
    url = flat_url(vm)
    with pytest.raises(vim.fault.InvalidPowerState):
        idle.done(vm.Destroy_Task())
    idle.done(vm.PowerOffVM_Task())
    with pytest.raises(vim.fault.InvalidPowerState):
        idle.done(vm.PowerOffVM_Task())
    idle.done(vm.Destroy_Task())
    assert "stray" not in {found.name for found in idle.all(vim.VirtualMachine)}
    assert idle.request("GET", url)[0] == 404
