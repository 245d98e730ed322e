import json
import time

import pytest
from pyVmomi import vim, vmodl

from tests.lab.client import BLOCK, Client, disk
from vsphere.lab.disk import LabDisk
from vsphere.lab.server import LabServer


def disks(lab: LabServer, name: str) -> list[LabDisk]:
    """The guest's view of a VM's disks."""
    vm = next(vm for vm in lab.lab.vms.values() if vm.name == name)
    return [found for _, found in vm.disks()]


def test_a_snapshot_does_not_change_while_the_guest_writes(client: Client, lab: LabServer) -> None:
    vm = client.vm("alice-db")
    client.snapshot(vm)
    image = client.read_flat(vm)
    time.sleep(0.5)
    assert client.read_flat(vm) == image
    assert disks(lab, "alice-db")[0].read(0, len(image)) != image


def test_a_full_backup_patched_with_the_changed_areas_is_the_next_full_backup(client: Client) -> None:
    vm = client.vm("alice-db")
    client.track_changes(vm)
    first = client.snapshot(vm)
    images = {key: client.read_flat(vm, key) for key in (2000, 2001)}
    marks = {key: disk(first.config, key).backing.changeId for key in images}
    client.done(first.RemoveSnapshot_Task(False))
    time.sleep(0.5)
    second = client.snapshot(vm, "hotfirst-2")
    for key, image in images.items():
        current = client.read_flat(vm, key)
        patched = bytearray(image)
        areas = client.areas(second, key, marks[key])
        for start, length in areas:
            patched[start : start + length] = current[start : start + length]
        assert patched == current
        assert 0 < sum(length for _, length in areas) < len(image) / 4


def test_a_star_covers_all_data_of_the_disk(client: Client) -> None:
    vm = client.vm("alice-web")
    client.track_changes(vm)
    snapshot = client.snapshot(vm)
    image = client.read_flat(vm)
    covered = bytearray(len(image))
    for start, length in client.areas(snapshot, 2000, "*"):
        covered[start : start + length] = image[start : start + length]
    assert covered == image


def test_all_disks_of_a_vm_are_snapshotted_at_one_point(client: Client, lab: LabServer) -> None:
    """The guest numbers its writes: first on one disk, then on the other."""
    first, second = disks(lab, "alice-db")
    import threading

    stop = threading.Event()

    def guest() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            first.write(0, number.to_bytes(8, "little"))
            second.write(0, number.to_bytes(8, "little"))

    thread = threading.Thread(target=guest)
    thread.start()
    try:
        vm = client.vm("alice-db")
        for i in range(5):
            snapshot = client.snapshot(vm, f"hotfirst-{i}")
            a, b = (int.from_bytes(client.read_flat(vm, key)[:8], "little") for key in (2000, 2001))
            assert a - 1 <= b <= a
            client.done(snapshot.RemoveSnapshot_Task(False))
    finally:
        stop.set()
        thread.join()


def test_the_tree_shows_the_chain_and_the_backings_show_the_files(idle: Client) -> None:
    vm = idle.vm("stray")
    first, second = idle.snapshot(vm, "one"), idle.snapshot(vm, "two")
    root = vm.snapshot.rootSnapshotList[0]
    assert (root.name, root.childSnapshotList[0].name) == ("one", "two")
    assert vm.snapshot.currentSnapshot == second
    assert disk(vm.config, 2000).backing.fileName == "[ssd1] stray/stray-000002.vmdk"
    assert disk(vm.config, 2000).backing.parent.fileName == "[ssd1] stray/stray-000001.vmdk"
    assert disk(first.config, 2000).backing.parent is None
    idle.done(first.RemoveSnapshot_Task(False))
    assert disk(second.config, 2000).backing.fileName == "[ssd1] stray/stray.vmdk"
    idle.done(vm.RemoveAllSnapshots_Task())
    assert vm.snapshot is None
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        second.RemoveSnapshot_Task(False)


def test_a_removal_that_is_put_off_needs_a_consolidation(idle: Client, idle_lab: LabServer) -> None:
    vm = idle.vm("stray")
    snapshot = idle.snapshot(vm)
    disks(idle_lab, "stray")[0].write(0, b"after the snapshot")
    idle.done(snapshot.RemoveSnapshot_Task(False, False))
    assert vm.snapshot is None
    assert vm.runtime.consolidationNeeded
    idle.done(vm.ConsolidateVMDisks_Task())
    assert not vm.runtime.consolidationNeeded
    assert disk(vm.config, 2000).backing.parent is None
    assert disks(idle_lab, "stray")[0].flat.read_bytes().startswith(b"after the snapshot")


def test_removal_takes_longer_the_more_was_written(idle: Client, idle_lab: LabServer) -> None:
    (idle_lab.folder / "faults.json").write_text(json.dumps({"consolidation_mib_per_s": 4}))
    vm = idle.vm("stray")
    took_s = []
    for blocks in (1, 32):
        snapshot = idle.snapshot(vm)
        disks(idle_lab, "stray")[0].write(0, b"x" * BLOCK * blocks)
        began = time.monotonic()
        idle.done(snapshot.RemoveSnapshot_Task(False))
        took_s.append(time.monotonic() - began)
    assert took_s[1] > took_s[0] + 0.2


def test_a_foreign_change_id_is_a_file_fault_and_a_wrong_disk_an_invalid_argument(idle: Client) -> None:
    vm, other = idle.vm("stray"), idle.vm("bob-web")
    for each in (vm, other):
        idle.track_changes(each)
    snapshot, foreign = idle.snapshot(vm), idle.snapshot(other)
    with pytest.raises(vim.fault.FileFault):
        vm.QueryChangedDiskAreas(snapshot, 2000, 0, disk(foreign.config, 2000).backing.changeId)
    with pytest.raises(vmodl.fault.InvalidArgument):
        vm.QueryChangedDiskAreas(snapshot, 2007, 0, "*")
    with pytest.raises(vmodl.fault.InvalidArgument):
        vm.QueryChangedDiskAreas(snapshot, 2000, 8 * 2**20, "*")


def test_a_snapshot_fails_for_the_vm_that_was_named(idle: Client, idle_lab: LabServer) -> None:
    faults = {"create_snapshot": {"stray": "Cannot quiesce the virtual machine."}}
    (idle_lab.folder / "faults.json").write_text(json.dumps(faults))
    with pytest.raises(vim.fault.SnapshotFault) as caught:
        idle.snapshot(idle.vm("stray"))
    assert caught.value.msg == "Cannot quiesce the virtual machine."
    assert idle.snapshot(idle.vm("bob-web"))
    (idle_lab.folder / "faults.json").write_text("{}")
    assert idle.snapshot(idle.vm("stray"))
