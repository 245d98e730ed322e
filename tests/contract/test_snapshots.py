from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from backups.errors import DiskUnreadable, NotFound
from backups.platform import Platform, Quiesce, Snapshot, SnapshotOrder, Vm
from tests.contract.worlds import MIB, World


def take(platform: Platform, vm: Vm, name: str = "hotfirst-a-1", **options: object) -> Snapshot:
    result = platform.create_snapshots([SnapshotOrder(vm_ref=vm.ref, name=name)], **options)[vm.ref]  # type: ignore[arg-type]
    assert isinstance(result, Snapshot), result
    return result


def names_of(platform: Platform, vm: Vm) -> list[str]:
    return sorted(snapshot.name for snapshot in platform.find_snapshots("") if snapshot.vm_ref == vm.ref)


def test_a_snapshot_has_the_vms_own_time(world: World) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    snapshot = take(world.platform, world.new_vm())
    assert before <= snapshot.taken_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert snapshot.name == "hotfirst-a-1"


def test_a_repeated_order_is_answered_with_the_snapshot_that_exists(world: World) -> None:
    vm = world.new_vm()
    assert take(world.platform, vm) == take(world.platform, vm)
    assert names_of(world.platform, vm) == ["hotfirst-a-1"]


def test_snapshots_wait_for_the_common_time(world: World) -> None:
    first, second = world.new_vm(), world.new_vm()
    at = datetime.now(UTC) + timedelta(seconds=0.6)
    orders = [SnapshotOrder(vm_ref=vm.ref, name="hotfirst-common") for vm in (first, second)]
    results = world.platform.create_snapshots(orders, at=at)
    assert all(result.taken_at >= at for result in results.values() if isinstance(result, Snapshot))
    assert len([r for r in results.values() if isinstance(r, Snapshot)]) == 2


def test_one_vm_that_has_gone_fails_alone(world: World) -> None:
    vm, gone = world.new_vm(), world.new_vm()
    world.platform.destroy_vm(gone.ref)
    orders = [SnapshotOrder(vm_ref=ref, name="hotfirst-b") for ref in (gone.ref, vm.ref)]
    results = world.platform.create_snapshots(orders)
    assert isinstance(results[gone.ref], NotFound)
    assert isinstance(results[vm.ref], Snapshot)


def test_no_orders_no_snapshots(platform: Platform) -> None:
    assert platform.create_snapshots([]) == {}


def test_the_level_of_quiescing_is_told(world: World) -> None:
    assert not take(world.platform, world.new_vm(), quiesce=Quiesce.NO).quiesced
    assert take(world.platform, world.new_vm(), quiesce=Quiesce.REQUIRE).quiesced


def test_snapshots_are_found_by_the_beginning_of_their_name(world: World) -> None:
    vm = world.new_vm()
    ours, theirs = take(world.platform, vm, "hotfirst-c-1"), take(world.platform, vm, "before the upgrade")
    found = world.platform.find_snapshots("hotfirst-c-")
    assert found == [ours]
    assert theirs in world.platform.find_snapshots("")


def test_removal_never_touches_a_snapshot_of_another_name(world: World) -> None:
    vm = world.new_vm()
    take(world.platform, vm, "before the upgrade")
    take(world.platform, vm, "hotfirst-d-1")
    take(world.platform, vm, "after the upgrade")
    world.platform.remove_snapshot("hotfirst-d-1", vm.ref)
    world.platform.remove_snapshot("hotfirst-d-1", vm.ref)
    world.platform.remove_snapshot("hotfirst-d", vm.ref)
    assert names_of(world.platform, vm) == ["after the upgrade", "before the upgrade"]


def test_there_is_nothing_to_remove_from_a_vm_that_has_gone(world: World) -> None:
    vm = world.new_vm()
    world.platform.destroy_vm(vm.ref)
    world.platform.remove_snapshot("hotfirst-e-1", vm.ref)


def test_a_vm_without_trouble_needs_no_consolidation(world: World) -> None:
    assert world.platform.consolidate(world.new_vm().ref) is False


def test_removal_keeps_what_the_guest_wrote_meanwhile(world: World) -> None:
    vm = world.new_vm()
    take(world.platform, vm)
    world.guest_writes(vm, 2000, 5000, b"written while the snapshot stood")
    world.platform.remove_snapshot("hotfirst-a-1", vm.ref)
    world.platform.power(vm.ref, False)
    with world.platform.open_current_disk(vm.ref, 2000) as disk:
        assert disk.read(5000, 32) == b"written while the snapshot stood"


def test_a_snapshot_is_read_as_it_was_while_the_guest_goes_on_writing(world: World) -> None:
    vm = world.new_vm((MIB, MIB))
    world.guest_writes(vm, 2001, 70_000, b"before")
    snapshot = take(world.platform, vm)
    world.guest_writes(vm, 2001, 70_000, b"after!")
    disk = world.platform.snapshot_disks(snapshot)[1].disk
    with world.platform.open_disk(snapshot, disk) as reader:
        assert reader.capacity_bytes == MIB
        assert reader.transport == world.transport
        assert reader.transport_reason
        assert reader.read(70_000, 6) == b"before"
        assert reader.read(0, 70_000) == bytes(70_000)


def test_a_disk_is_read_by_several_threads_at_once(world: World) -> None:
    vm = world.new_vm()
    content = b"".join(number.to_bytes(4, "big") for number in range(MIB // 4))
    world.guest_writes(vm, 2000, 0, content)
    snapshot = take(world.platform, vm)
    starts = list(range(0, MIB, 16_384)) * 3
    with world.platform.open_disk(snapshot, vm.disks[0]) as reader, ThreadPoolExecutor(4) as threads:
        pieces = list(threads.map(lambda start: reader.read(start, 16_384), starts))
    assert b"".join(pieces) == content * 3


def test_bytes_outside_the_disk_are_refused(world: World) -> None:
    vm = world.new_vm()
    with world.platform.open_disk(take(world.platform, vm), vm.disks[0]) as reader:
        with pytest.raises(DiskUnreadable):
            reader.read(MIB - 10, 11)
        assert reader.read(MIB - 10, 10) == bytes(10)


def test_a_removed_snapshot_cannot_be_opened(world: World) -> None:
    vm = world.new_vm()
    snapshot = take(world.platform, vm)
    world.platform.remove_snapshot(snapshot.name, vm.ref)
    with pytest.raises(NotFound):
        world.platform.open_disk(snapshot, vm.disks[0])
    with pytest.raises(NotFound):
        world.platform.snapshot_disks(snapshot)
    with pytest.raises(NotFound):
        world.platform.describe(vm.ref, snapshot)


def test_the_description_at_the_snapshot_is_that_of_the_vm(world: World) -> None:
    vm = world.new_vm()
    now = world.platform.describe(vm.ref)
    assert world.platform.describe(vm.ref, take(world.platform, vm)) == now
    assert world.platform.describe(vm.ref) == now
