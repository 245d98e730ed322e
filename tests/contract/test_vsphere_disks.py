"""Disks on datastores: what is refused, with which reason, and what happens without partial writes."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from backups.errors import ChangeTrackingUnusable, DiskUnreadable, PlatformError
from tests.contract.test_recovery import content, copy_of
from tests.contract.test_snapshots import take
from tests.contract.worlds import MIB, LabWorld, vm_named
from vsphere.disks import datastore
from vsphere.disks.spool import SpooledWriter

BLOCK = 65536


@pytest.fixture
def faults(lab_world: LabWorld) -> Iterator[Path]:
    path = lab_world.lab.folder / "faults.json"
    yield path
    path.unlink(missing_ok=True)


def test_a_datastore_that_fails_in_the_middle_is_told_not_hidden(lab_world: LabWorld, faults: Path) -> None:
    vm = lab_world.new_vm()
    with lab_world.platform.open_disk(take(lab_world.platform, vm), vm.disks[0]) as disk:
        disk.read(0, 100)
        faults.write_text(json.dumps({"folder_status": {"*": 503}}))
        with pytest.raises(DiskUnreadable, match="HTTP 503"):
            disk.read(0, 100)


def existing_vm(world: LabWorld) -> str:
    """Powered off, and there to stay."""
    ref = copy_of(world.platform, world.new_vm())
    world.platform.power(ref, False)
    return ref


def test_without_partial_writes_the_whole_file_is_put(lab_world: LabWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datastore, "takes_ranges", lambda *_: False)
    ref = existing_vm(lab_world)
    data = random.Random(5).randbytes(200_000)
    for start in (700_000, 10):
        with lab_world.platform.open_disk_for_writing(ref, 2000) as writer:
            assert isinstance(writer, SpooledWriter)
            writer.write(start, data)
    wanted = bytearray(MIB)
    for start in (700_000, 10):
        wanted[start : start + len(data)] = data
    assert content(lab_world.platform, ref, 2000) == wanted


def test_nothing_is_written_outside_the_disk(lab_world: LabWorld) -> None:
    ref = existing_vm(lab_world)
    with lab_world.platform.open_disk_for_writing(ref, 2000) as writer:
        with pytest.raises(PlatformError, match="outside"):
            writer.write(MIB - 1, b"xx")


def test_a_full_or_locked_datastore_refuses_the_write_with_a_sentence(lab_world: LabWorld, faults: Path) -> None:
    ref = existing_vm(lab_world)
    with lab_world.platform.open_disk_for_writing(ref, 2000) as writer:
        faults.write_text(json.dumps({"folder_status": {"*": 507}}))
        with pytest.raises(PlatformError, match="whether it has room"):
            writer.write(0, b"x")


def test_what_is_put_into_files_makes_tracking_begin_anew(lab_world: LabWorld) -> None:
    """vSphere does not see such writes, so the next backup must not rest on what it tracked before."""
    platform, vm = lab_world.platform, lab_world.new_vm(on=False)
    platform.enable_change_tracking(vm.ref)
    first = take(platform, vm, "hotfirst-1")
    since = platform.snapshot_disks(first)[0].change_id
    platform.remove_snapshot("hotfirst-1", vm.ref)
    with platform.open_disk_for_writing(vm.ref, 2000) as writer:
        assert vm_named(platform, vm.name).change_tracking, "nothing was written yet"
        writer.write(5 * BLOCK, b"recovered")
        assert not vm_named(platform, vm.name).change_tracking, "a kill from here on leaves it off"
    assert vm_named(platform, vm.name).change_tracking
    second = take(platform, vm, "hotfirst-2")
    with pytest.raises(ChangeTrackingUnusable, match="reset"):
        list(platform.changed_areas(second, vm.disks[0], since))
    allocated = list(platform.changed_areas(second, vm.disks[0], None))
    assert any(area.start <= 5 * BLOCK < area.end for area in allocated)


def test_more_changed_areas_than_one_answer_holds_are_all_found(lab_world: LabWorld) -> None:
    blocks = 4400
    vm = lab_world.new_vm((blocks * BLOCK,))
    lab_world.platform.enable_change_tracking(vm.ref)
    first = take(lab_world.platform, vm, "hotfirst-1")
    since = lab_world.platform.snapshot_disks(first)[0].change_id
    lab_world.platform.remove_snapshot("hotfirst-1", vm.ref)
    for block in range(0, blocks, 2):
        lab_world.guest_writes(vm, 2000, block * BLOCK, b"x")
    snapshot = take(lab_world.platform, vm, "hotfirst-2")
    areas = list(lab_world.platform.changed_areas(snapshot, vm.disks[0], since))
    assert [area.start for area in areas] == [block * BLOCK for block in range(0, blocks, 2)]
    lab_world.platform.destroy_vm(vm.ref)
