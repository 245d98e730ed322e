import time

import pytest

from backups.errors import NotFound
from backups.platform import Load, Platform
from tests.contract.worlds import World, vm_named


def test_vms_lie_in_their_vapps(platform: Platform) -> None:
    inventory = platform.inventory()
    shop = next(vapp for vapp in inventory.vapps if vapp.name == "shop")
    assert {vm.name for vm in inventory.vms if vm.vapp_ref == shop.ref} == {"shop-db", "shop-web"}
    assert vm_named(platform, "stray").vapp_ref is None


def test_every_vm_lies_on_a_host_and_a_datastore_of_the_inventory(platform: Platform) -> None:
    inventory = platform.inventory()
    assert {vm.host for vm in inventory.vms} <= {host.name for host in inventory.hosts}
    assert {vm.datastore for vm in inventory.vms} <= {datastore.name for datastore in inventory.datastores}
    assert all(host.pool_ref for host in inventory.hosts)
    assert all(0 < store.free_bytes <= store.capacity_bytes for store in inventory.datastores)


def test_identities_are_unique_and_stay(platform: Platform) -> None:
    first, second = platform.inventory(), platform.inventory()
    assert len({vm.uuid for vm in first.vms}) == len(first.vms)
    assert {vm.ref: vm.uuid for vm in first.vms} == {vm.ref: vm.uuid for vm in second.vms}
    assert first.instance_uuid == second.instance_uuid != ""


def test_a_vm_has_its_disks_and_their_capacity(world: World) -> None:
    vm = world.new_vm((65536 * 3, 65536))
    assert [(disk.key, disk.capacity_bytes) for disk in vm.disks] == [(2000, 196608), (2001, 65536)]
    assert vm.capacity_bytes == 262144


def test_a_destroyed_vm_leaves_the_inventory(world: World) -> None:
    vm = world.new_vm()
    world.platform.destroy_vm(vm.ref)
    assert vm.ref not in {other.ref for other in world.platform.inventory().vms}


def test_the_power_state_is_seen(world: World) -> None:
    vm = world.new_vm(on=False)
    assert not vm.powered_on
    world.platform.power(vm.ref, True)
    world.platform.power(vm.ref, True)
    assert vm_named(world.platform, vm.name).powered_on


def test_switching_a_vm_that_has_gone_says_so(world: World) -> None:
    vm = world.new_vm()
    world.platform.destroy_vm(vm.ref)
    with pytest.raises(NotFound):
        world.platform.power(vm.ref, True)


def test_the_busier_vm_has_the_higher_load(platform: Platform) -> None:
    busy, idle = vm_named(platform, "shop-db").ref, vm_named(platform, "stray").ref
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        loads = platform.load([busy, idle], 60)
        if loads[busy].write_kbps > 0:
            break
        time.sleep(0.5)
    assert loads[busy].write_kbps > loads[idle].write_kbps
    assert loads[busy].samples > 0


def test_vms_that_are_off_or_gone_have_no_load_but_are_answered(world: World) -> None:
    off, gone = world.new_vm(on=False), world.new_vm()
    world.platform.destroy_vm(gone.ref)
    assert world.platform.load([off.ref, gone.ref, off.ref], 60) == {off.ref: Load(), gone.ref: Load()}


def test_the_load_of_nothing_is_nothing(platform: Platform) -> None:
    assert platform.load([], 60) == {}


def test_change_tracking_is_switched_on_once_and_for_all(world: World) -> None:
    vm = world.new_vm()
    assert not vm.change_tracking
    assert world.platform.enable_change_tracking(vm.ref)
    assert world.platform.enable_change_tracking(vm.ref)
    assert vm_named(world.platform, vm.name).change_tracking
