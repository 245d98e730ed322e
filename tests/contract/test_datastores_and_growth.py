import time

from backups.errors import SnapshotFailed
from backups.platform import Platform, SnapshotOrder, Vm
from tests.contract.worlds import MIB, World

BLOCK = 65536


def latency_of(platform: Platform, name: str) -> float:
    return next(store.latency_ms or 0.0 for store in platform.datastores() if store.name == name)


def take(world: World, vm: Vm, name: str = "hotfirst-g-1") -> None:
    result = world.platform.create_snapshots([SnapshotOrder(vm_ref=vm.ref, name=name)])[vm.ref]
    assert not isinstance(result, Exception), result


def growth(world: World, vm: Vm) -> int:
    return world.platform.snapshot_growth([vm.ref])[vm.ref]


def test_the_datastores_are_those_of_the_inventory(platform: Platform) -> None:
    stores = platform.datastores()
    assert {store.ref: store.name for store in stores} == {s.ref: s.name for s in platform.inventory().datastores}
    assert all(0 < store.free_bytes <= store.capacity_bytes for store in stores)


def test_a_datastore_that_becomes_slow_is_seen(world: World) -> None:
    name = world.new_vm().datastore
    before = latency_of(world.platform, name)
    world.slow_down(name, 600)
    deadline = time.monotonic() + 10
    while latency_of(world.platform, name) < before + 5:
        assert time.monotonic() < deadline, "no counter tells of it"
        time.sleep(0.2)


def test_a_datastore_that_fills_is_seen_and_takes_no_snapshot(world: World) -> None:
    vm = world.new_vm()
    world.fill(vm.datastore)
    assert [store.free_bytes for store in world.platform.datastores() if store.name == vm.datastore] == [0]
    error = world.platform.create_snapshots([SnapshotOrder(vm_ref=vm.ref, name="hotfirst-full")])[vm.ref]
    assert isinstance(error, SnapshotFailed)
    assert str(error) == f"The datastore {vm.datastore} is full; free some space on it."
    assert world.platform.find_snapshots("hotfirst-full") == []


def test_without_a_snapshot_there_is_no_growth(world: World) -> None:
    vm = world.new_vm()
    world.guest_writes(vm, 2000, 0, b"x" * BLOCK)
    assert growth(world, vm) == 0


def test_a_snapshot_grows_by_what_the_guest_writes_on_all_disks(world: World) -> None:
    vm = world.new_vm((MIB, MIB))
    world.guest_writes(vm, 2000, 0, b"x" * 8 * BLOCK)
    take(world, vm)
    assert growth(world, vm) == 0
    world.guest_writes(vm, 2000, 0, b"y" * 3 * BLOCK)
    assert growth(world, vm) == 3 * BLOCK
    world.guest_writes(vm, 2000, 0, b"z" * BLOCK)
    world.guest_writes(vm, 2001, 0, b"z" * BLOCK)
    assert growth(world, vm) == 4 * BLOCK


def test_a_chain_of_snapshots_grows_as_a_whole(world: World) -> None:
    vm = world.new_vm()
    take(world, vm, "before the upgrade")
    world.guest_writes(vm, 2000, 0, b"x" * 2 * BLOCK)
    take(world, vm)
    world.guest_writes(vm, 2000, 8 * BLOCK, b"x" * BLOCK)
    assert growth(world, vm) == 3 * BLOCK


def test_a_removed_snapshot_has_no_growth_left(world: World) -> None:
    vm = world.new_vm()
    take(world, vm)
    world.guest_writes(vm, 2000, 0, b"x" * BLOCK)
    world.platform.remove_snapshot("hotfirst-g-1", vm.ref)
    assert growth(world, vm) == 0


def test_growth_is_told_of_the_vms_that_still_exist(world: World) -> None:
    vm, gone = world.new_vm(), world.new_vm()
    world.platform.destroy_vm(gone.ref)
    assert world.platform.snapshot_growth([gone.ref, vm.ref, vm.ref]) == {vm.ref: 0}
    assert world.platform.snapshot_growth([]) == {}
