import random
from dataclasses import replace

import pytest

from backups.errors import NotFound, RecoveryRefused
from backups.platform import Platform, Target, Vm
from tests.contract.test_snapshots import take
from tests.contract.worlds import MIB, NUMBERS, World, vm_named


def here(platform: Platform, vapp_ref: str | None = None) -> Target:
    seen = platform.inventory()
    return Target(host_ref=seen.hosts[0].ref, datastore=seen.datastores[0].name, vapp_ref=vapp_ref)


def copy_of(platform: Platform, vm: Vm, vapp_ref: str | None = None) -> str:
    name = f"copy-{next(NUMBERS)}"
    return platform.create_vm(platform.describe(vm.ref), name, f"item-{name}", here(platform, vapp_ref))


def content(platform: Platform, vm_ref: str, disk_key: int) -> bytes:
    with platform.open_current_disk(vm_ref, disk_key) as disk:
        return disk.read(0, disk.capacity_bytes)


def test_a_recovered_vm_is_configured_like_its_original(world: World) -> None:
    vm = world.new_vm((MIB, 2 * MIB))
    original = world.platform.describe(vm.ref)
    recovered = world.platform.describe(copy_of(world.platform, vm))
    assert recovered.settings == original.settings
    assert recovered.disks == original.disks
    assert recovered.uuid != original.uuid


def test_a_new_vm_is_off_and_its_disks_are_empty(world: World) -> None:
    ref = copy_of(world.platform, world.new_vm())
    assert not next(vm for vm in world.platform.inventory().vms if vm.ref == ref).powered_on
    assert content(world.platform, ref, 2000) == bytes(MIB)


def test_what_is_written_in_any_order_is_read_back(world: World) -> None:
    ref = copy_of(world.platform, world.new_vm())
    chance = random.Random(11)
    wanted = bytearray(MIB)
    with world.platform.open_disk_for_writing(ref, 2000) as writer:
        for start in (900_000, 0, 300_001, 299_000, MIB - 77):
            data = chance.randbytes(min(70_000, MIB - start))
            writer.write(start, data)
            writer.write(start, data)
            wanted[start : start + len(data)] = data
    assert content(world.platform, ref, 2000) == wanted


def test_what_is_not_written_stays(world: World) -> None:
    ref = copy_of(world.platform, world.new_vm())
    for start, data in ((1000, b"first"), (200_000, b"second")):
        with world.platform.open_disk_for_writing(ref, 2000) as writer:
            writer.write(start, data)
    found = content(world.platform, ref, 2000)
    assert found[1000:1005] == b"first"
    assert found[200_000:200_006] == b"second"
    assert not found[1005:200_000].strip(b"\0")


def test_a_snapshot_recovered_as_new_is_equal_byte_for_byte(world: World) -> None:
    vm = world.new_vm()
    world.guest_writes(vm, 2000, 100, random.Random(3).randbytes(500_000))
    snapshot = take(world.platform, vm)
    ref = copy_of(world.platform, vm)
    with world.platform.open_disk(snapshot, vm.disks[0]) as source:
        data = source.read(0, MIB)
    with world.platform.open_disk_for_writing(ref, 2000) as writer:
        writer.write(0, data)
    assert content(world.platform, ref, 2000) == data


def test_a_recovered_vm_may_have_its_originals_identity_once_that_has_gone(world: World) -> None:
    vm = world.new_vm(on=False)
    config = world.platform.describe(vm.ref)
    target = replace(here(world.platform), same_identity=True)
    with pytest.raises(RecoveryRefused, match="in place"):
        world.platform.create_vm(config, f"{vm.name}-again", f"item-{vm.name}", target)
    world.platform.destroy_vm(vm.ref)
    found = world.platform.describe(world.platform.create_vm(config, vm.name, f"item-{vm.name}", target))
    assert (found.uuid, found.identity) == (config.uuid, config.identity)


def test_a_vm_is_on_networks_that_its_host_has(world: World) -> None:
    vm, seen = world.new_vm(), world.platform.inventory()
    host = next(host for host in seen.hosts if host.name == vm.host)
    networks = next(each.networks for each in seen.vms if each.ref == vm.ref)
    assert set(networks) <= set(host.networks)
    assert {card["network"] for card in world.platform.describe(vm.ref).settings["networks"]} <= set(networks)


def test_what_a_recovered_vm_will_lack_is_told_beforehand(world: World) -> None:
    config = world.platform.describe(world.new_vm().ref)
    target = here(world.platform)
    assert world.platform.recovery_warnings(config, target) == ()
    told = world.platform.recovery_warnings(replace(config, left_out=("CD/DVD drive 1",)), target)
    assert ["CD/DVD drive 1" in sentence for sentence in told] == [True]


def test_a_marked_vm_is_made_once(world: World) -> None:
    vm, name = world.new_vm(), f"copy-{next(NUMBERS)}"
    config, target = world.platform.describe(vm.ref), here(world.platform)
    refs = {world.platform.create_vm(config, name, f"item-{name}", target) for _ in range(2)}
    assert len(refs) == 1
    assert len([vm for vm in world.platform.inventory().vms if vm.name == name]) == 1


def test_a_name_that_is_taken_is_refused_with_advice(world: World) -> None:
    vm = world.new_vm()
    with pytest.raises(RecoveryRefused, match="choose another name"):
        world.platform.create_vm(world.platform.describe(vm.ref), vm.name, "another item", here(world.platform))


def test_a_running_vm_is_not_written_to(world: World) -> None:
    with pytest.raises(RecoveryRefused, match="power it off"):
        world.platform.open_disk_for_writing(world.new_vm().ref, 2000)


def test_a_vm_with_snapshots_is_not_written_to(world: World) -> None:
    vm = world.new_vm(on=False)
    take(world.platform, vm)
    with pytest.raises(RecoveryRefused, match="snapshots"):
        world.platform.open_disk_for_writing(vm.ref, 2000)


def test_a_vm_is_brought_back_to_its_configuration(world: World) -> None:
    vm = world.new_vm((MIB, MIB), on=False)
    with world.platform.open_disk_for_writing(vm.ref, 2000) as writer:
        writer.write(0, b"kept")
    before = world.platform.describe(vm.ref)
    changed = replace(before, settings=before.settings | {"memory_mb": 2048}, disks=before.disks[:1])
    world.platform.reconfigure_vm(vm.ref, changed)
    assert world.platform.describe(vm.ref).settings["memory_mb"] == 2048
    assert [disk.key for disk in world.platform.describe(vm.ref).disks] == [2000]
    world.platform.reconfigure_vm(vm.ref, before)
    world.platform.reconfigure_vm(vm.ref, before)
    assert world.platform.describe(vm.ref) == before
    assert content(world.platform, vm.ref, 2000)[:4] == b"kept"
    assert content(world.platform, vm.ref, 2001) == bytes(MIB)


def test_a_disk_that_was_smaller_in_the_archive_is_refused(world: World) -> None:
    vm = world.new_vm(on=False)
    config = world.platform.describe(vm.ref)
    smaller = replace(config, disks=(replace(config.disks[0], capacity_bytes=MIB // 2),))
    with pytest.raises(RecoveryRefused, match="recover the VM as new"):
        world.platform.reconfigure_vm(vm.ref, smaller)


def test_a_running_vm_is_not_reconfigured(world: World) -> None:
    vm = world.new_vm()
    with pytest.raises(RecoveryRefused):
        world.platform.reconfigure_vm(vm.ref, world.platform.describe(vm.ref))


def test_destroying_twice_is_harmless(world: World) -> None:
    ref = copy_of(world.platform, world.new_vm())
    world.platform.destroy_vm(ref)
    world.platform.destroy_vm(ref)
    with pytest.raises(NotFound):
        world.platform.describe(ref)


def test_a_vapp_is_made_once_and_starts_its_vms_in_the_old_order(world: World) -> None:
    platform = world.platform
    web = vm_named(platform, "shop-web")
    assert web.vapp_ref
    config, name = platform.describe_vapp(web.vapp_ref), f"shop-{next(NUMBERS)}"
    host_ref = here(platform).host_ref
    vapp_ref = platform.create_vapp(config, name, host_ref)
    assert platform.create_vapp(config, name, host_ref) == vapp_ref
    originals = [vm for vm in platform.inventory().vms if vm.vapp_ref == web.vapp_ref]
    copies = {vm.uuid: copy_of(platform, vm, vapp_ref) for vm in originals}
    for _ in range(2):
        platform.configure_vapp(vapp_ref, config, copies)
    made = {vm.uuid: vm for vm in platform.inventory().vms if vm.vapp_ref == vapp_ref}
    uuids = {vm.ref: vm.uuid for vm in made.values()}
    wanted = [entry | {"vm": uuids[copies[entry["vm"]]]} for entry in config.settings["start_order"]]
    found = platform.describe_vapp(vapp_ref)
    assert found.name == name
    assert sorted(found.settings["start_order"], key=str) == sorted(wanted, key=str)
    assert len(wanted) == 2


def test_a_vapp_that_has_gone_cannot_be_described(platform: Platform) -> None:
    with pytest.raises(NotFound):
        platform.describe_vapp("resgroup-gone")
