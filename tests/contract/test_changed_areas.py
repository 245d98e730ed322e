import random
from itertools import pairwise

import pytest

from backups.errors import ChangeTrackingUnusable, NotFound
from backups.platform import Area, Snapshot, Vm
from tests.contract.test_snapshots import take
from tests.contract.worlds import MIB, World

BLOCK = 65536


@pytest.fixture
def vm(world: World) -> Vm:
    """Change tracking was switched on before its first snapshot."""
    vm = world.new_vm((4 * MIB, MIB))
    world.platform.enable_change_tracking(vm.ref)
    return vm


def state(world: World, vm: Vm, name: str) -> tuple[Snapshot, str, bytes]:
    """The snapshot `name`, with its first disk's change id and bytes; no snapshot is left of the one before."""
    for old in world.platform.find_snapshots(""):
        if old.vm_ref == vm.ref:
            world.platform.remove_snapshot(old.name, vm.ref)
    snapshot = take(world.platform, vm, name)
    source = world.platform.snapshot_disks(snapshot)[0]
    assert source.change_id
    with world.platform.open_disk(snapshot, source.disk) as reader:
        return snapshot, source.change_id, reader.read(0, 4 * MIB)


def areas(world: World, snapshot: Snapshot, vm: Vm, since: str | None) -> list[Area]:
    return list(world.platform.changed_areas(snapshot, vm.disks[0], since))


def blocks_of(found: list[Area]) -> set[int]:
    return {block for area in found for block in range(area.start // BLOCK, (area.end - 1) // BLOCK + 1)}


def test_changed_areas_are_the_real_differences(world: World, vm: Vm) -> None:
    chance = random.Random(7)
    _, since, before = state(world, vm, "hotfirst-1")
    for _ in range(40):
        world.guest_writes(vm, 2000, chance.randrange(4 * MIB - 3000), chance.randbytes(3000))
    snapshot, _, after = state(world, vm, "hotfirst-2")
    different = {n for n in range(4 * MIB // BLOCK) if before[n * BLOCK :][:BLOCK] != after[n * BLOCK :][:BLOCK]}
    assert blocks_of(areas(world, snapshot, vm, since)) == different


def test_areas_ascend_do_not_touch_and_lie_inside_the_disk(world: World, vm: Vm) -> None:
    _, since, _ = state(world, vm, "hotfirst-1")
    for block in (5, 4, 60, 63, 20):
        world.guest_writes(vm, 2000, block * BLOCK, b"x")
    snapshot, _, _ = state(world, vm, "hotfirst-2")
    found = areas(world, snapshot, vm, since)
    assert len(found) == 4
    assert all(first.end < second.start for first, second in pairwise(found))
    assert found[-1].end <= 4 * MIB


def test_nothing_written_nothing_changed(world: World, vm: Vm) -> None:
    _, since, _ = state(world, vm, "hotfirst-1")
    snapshot, _, _ = state(world, vm, "hotfirst-2")
    assert areas(world, snapshot, vm, since) == []


def test_changes_are_counted_from_the_archive_asked_for_not_from_the_last_snapshot(world: World, vm: Vm) -> None:
    _, since, _ = state(world, vm, "hotfirst-1")
    world.guest_writes(vm, 2000, 0, b"one")
    state(world, vm, "hotfirst-2")
    world.guest_writes(vm, 2000, 10 * BLOCK, b"two")
    snapshot, _, _ = state(world, vm, "hotfirst-3")
    assert blocks_of(areas(world, snapshot, vm, since)) == {0, 10}


def test_what_is_written_after_the_snapshot_does_not_count(world: World, vm: Vm) -> None:
    _, since, _ = state(world, vm, "hotfirst-1")
    snapshot, _, _ = state(world, vm, "hotfirst-2")
    world.guest_writes(vm, 2000, 0, b"later")
    assert areas(world, snapshot, vm, since) == []


def test_allocated_areas_hold_all_data_also_what_was_there_before_tracking(world: World) -> None:
    vm = world.new_vm((4 * MIB,))
    world.guest_writes(vm, 2000, 30 * BLOCK, b"from before tracking")
    world.platform.enable_change_tracking(vm.ref)
    state(world, vm, "hotfirst-1")
    world.guest_writes(vm, 2000, 2 * BLOCK, b"from after")
    snapshot, _, content = state(world, vm, "hotfirst-2")
    data = {n for n in range(64) if content[n * BLOCK :][:BLOCK].strip(b"\0")}
    assert data == {2, 30}
    assert data <= blocks_of(areas(world, snapshot, vm, None))


def test_without_tracking_everything_must_be_read_and_the_reason_is_told(world: World) -> None:
    vm = world.new_vm()
    snapshot = take(world.platform, vm)
    assert world.platform.snapshot_disks(snapshot)[0].change_id is None
    with pytest.raises(ChangeTrackingUnusable, match="not on"):
        list(world.platform.changed_areas(snapshot, vm.disks[0], None))


def test_the_change_id_of_another_tracking_is_not_trusted(world: World, vm: Vm) -> None:
    snapshot, _, _ = state(world, vm, "hotfirst-1")
    with pytest.raises(ChangeTrackingUnusable, match="reset"):
        areas(world, snapshot, vm, "5e0a9d7e-0000-0000-0000-000000000000/1")


def test_changes_of_a_snapshot_that_has_gone_cannot_be_asked_for(world: World, vm: Vm) -> None:
    snapshot, _, _ = state(world, vm, "hotfirst-1")
    world.platform.remove_snapshot(snapshot.name, vm.ref)
    with pytest.raises(NotFound):
        areas(world, snapshot, vm, None)
