"""What of a VM's configuration comes back, and what is said of the rest."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pyVmomi import vim

from backups.platform import VmConfig
from tests.contract.test_recovery import here
from tests.contract.worlds import NUMBERS, LabWorld
from tests.lab.client import Client
from vsphere.lab.pools import default_resources

device: Any = vim.vm.device


@pytest.fixture
def client(lab_world: LabWorld) -> Client:
    return Client(lab_world.lab.endpoint).login()


def add(client: Client, vm_ref: str, *devices: Any) -> None:
    changes = [device.VirtualDeviceSpec(operation="add", device=each) for each in devices]
    vm = vim.VirtualMachine(vm_ref, client.stub)
    client.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=changes)))


def card(network: str) -> Any:
    return device.VirtualE1000e(
        key=-1,
        addressType="generated",
        backing=device.VirtualEthernetCard.NetworkBackingInfo(deviceName=network),
        connectable=device.VirtualDevice.ConnectInfo(startConnected=True, allowGuestControl=True, connected=False),
    )


@pytest.fixture
def config(lab_world: LabWorld, client: Client) -> VmConfig:
    """A VM with two cards, one of them on a network that has gone since, a CD drive and a serial port."""
    vm = lab_world.new_vm(on=False)
    cdrom = device.VirtualCdrom(key=-2, controllerKey=200, unitNumber=0)
    add(client, vm.ref, card("old DMZ"), cdrom, device.VirtualSerialPort(key=-3))
    return lab_world.platform.describe(vm.ref)


def recovered(world: LabWorld, config: VmConfig, **target: Any) -> VmConfig:
    name = f"back-{next(NUMBERS)}"
    ref = world.platform.create_vm(config, name, name, replace(here(world.platform), **target))
    return world.platform.describe(ref)


def test_what_is_left_out_is_named_and_the_rest_comes_back(lab_world: LabWorld, config: VmConfig) -> None:
    told = lab_world.platform.recovery_warnings(config, here(lab_world.platform))
    assert len(config.left_out) == 2
    assert [label in sentence for label, sentence in zip(config.left_out, told, strict=False)] == [True, True]
    assert told[2:] == ("There is no network old DMZ at the target, so network adapter 2 is left out.",)
    made = recovered(lab_world, config)
    assert [each["network"] for each in made.settings["networks"]] == ["VM Network"]
    assert made.left_out == ()


def test_networks_are_mapped(lab_world: LabWorld, config: VmConfig) -> None:
    target = replace(here(lab_world.platform), network_map={"old DMZ": "VM Network"})
    assert len(lab_world.platform.recovery_warnings(config, target)) == 2
    made = recovered(lab_world, config, network_map={"old DMZ": "VM Network"})
    assert [(each["kind"], each["network"]) for each in made.settings["networks"]] == [
        ("VirtualVmxnet3", "VM Network"),
        ("VirtualE1000e", "VM Network"),
    ]


def test_a_copy_beside_its_original_has_addresses_of_its_own(lab_world: LabWorld, config: VmConfig) -> None:
    made = recovered(lab_world, config, network_map={"old DMZ": "VM Network"})
    ours, theirs = ({each["mac"] for each in c.identity["addresses"]} for c in (made, config))
    assert len(ours) == 2
    assert not ours & theirs
    assert made.identity["bios_uuid"] != config.identity["bios_uuid"]


def test_a_vm_that_takes_its_originals_place_keeps_its_addresses(lab_world: LabWorld, config: VmConfig) -> None:
    original = next(vm for vm in lab_world.platform.inventory().vms if vm.uuid == config.uuid)
    lab_world.platform.destroy_vm(original.ref)
    made = recovered(lab_world, config, same_identity=True, network_map={"old DMZ": "VM Network"})
    assert (made.uuid, made.identity) == (config.uuid, config.identity)


@pytest.fixture
def nested(lab_world: LabWorld, client: Client) -> Iterator[tuple[Any, Any]]:
    """A vApp, and one in it that starts after the VMs."""
    resources, config = default_resources(), vim.vApp.VAppConfigSpec()
    resources.cpuAllocation.reservation = 500
    outer = client.pool.CreateVApp(f"outer-{next(NUMBERS)}", resources, config, client.vm_folder)
    inner = outer.CreateVApp("inner", resources, config, None)
    entry = vim.vApp.EntityConfigInfo(key=inner, startOrder=3, startDelay=7, startAction="powerOn")
    outer.UpdateVAppConfig(vim.vApp.VAppConfigSpec(entityConfig=[entry]))
    yield outer, inner
    client.done(outer.Destroy_Task())


def test_a_vapp_is_made_again_where_it_was_nested(lab_world: LabWorld, client: Client, nested: tuple[Any, Any]) -> None:
    platform, (outer, inner) = lab_world.platform, nested
    config = platform.describe_vapp(inner._moId)
    assert config.settings["within"] == [outer.name]
    made = platform.create_vapp(config, "inner again", here(platform).host_ref)
    assert vim.VirtualApp(made, client.stub).parentVApp == outer
    assert platform.create_vapp(config, "inner again", here(platform).host_ref) == made
    platform.configure_vapp(made, config, {})
    assert platform.describe_vapp(made).settings == config.settings
    assert config.settings["cpu"]["reservation"] == 500


def test_a_vapp_that_was_nested_in_one_that_has_gone_stands_alone(
    lab_world: LabWorld, client: Client, nested: tuple[Any, Any]
) -> None:
    platform, (_, inner) = lab_world.platform, nested
    config = platform.describe_vapp(inner._moId)
    elsewhere = replace(config, settings=config.settings | {"within": ["gone"]})
    made = vim.VirtualApp(platform.create_vapp(elsewhere, "alone", here(platform).host_ref), client.stub)
    assert (made.parentVApp, made.parentFolder) == (None, client.vm_folder)
    client.done(made.Destroy_Task())


def test_a_nested_vapp_keeps_its_place_in_the_order(
    lab_world: LabWorld, client: Client, nested: tuple[Any, Any]
) -> None:
    platform, (outer, _) = lab_world.platform, nested
    config = platform.describe_vapp(outer._moId)
    assert [(e["vapp"], e["start_order"], e["start_delay_s"]) for e in config.settings["nested"]] == [("inner", 3, 7)]
    made = vim.VirtualApp(platform.create_vapp(config, "outer again", here(platform).host_ref), client.stub)
    made.CreateVApp("inner", default_resources(), vim.vApp.VAppConfigSpec(), None)
    platform.configure_vapp(made._moId, config, {})
    assert platform.describe_vapp(made._moId).settings == config.settings
    client.done(made.Destroy_Task())
