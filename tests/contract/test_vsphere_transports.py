"""The ways by which disks are read: which is chosen and why, and that each gives what the snapshot holds."""

import json
import random
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from backups.errors import DiskUnreadable, NotFound
from backups.platform import DiskReader, Snapshot, Vm
from tests.contract.test_recovery import copy_of
from tests.contract.test_snapshots import take
from tests.contract.worlds import MIB, LabWorld
from tests.unit.vsphere.test_nbd import SERVERS, serving
from vsphere.disks import leases, nfc
from vsphere.lab import folder
from vsphere.lab.snapshots import Snapshot as LabSnapshot

GRAIN = 65536


@pytest.fixture
def faults(lab_world: LabWorld) -> Iterator[Path]:
    path = lab_world.lab.folder / "faults.json"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def vm(lab_world: LabWorld) -> Vm:
    made = lab_world.new_vm((8 * MIB, MIB))
    chance = random.Random(9)
    for start in (0, 3 * MIB + 777, 8 * MIB - 100_000):
        lab_world.guest_writes(made, 2000, start, chance.randbytes(100_000))
    return made


def truth(world: LabWorld, vm: Vm, key: int = 2000) -> bytes:
    disk = world.disk(vm, key)
    return bytes(disk.read(0, disk.meta.capacity_bytes))


def opened(world: LabWorld, snapshot: Snapshot, vm: Vm, number: int = 0) -> DiskReader:
    return world.platform.open_disk(snapshot, vm.disks[number])


def held(world: LabWorld) -> list[Any]:
    return list(world.lab.lab.leases.values())


def no_ranges(world: LabWorld, status: int = 500) -> None:
    world.lab.lab.faults.want({"folder_status": {"*": status}})


@pytest.mark.parametrize(("status", "why"), [(500, "could not open"), (200, "as a whole only"), (404, "no file")])
def test_a_datastore_without_ranges_falls_over_to_nfc(lab_world: LabWorld, vm: Vm, status: int, why: str) -> None:
    wanted = truth(lab_world, vm)
    snapshot = take(lab_world.platform, vm)
    lab_world.guest_writes(vm, 2000, 0, b"later")
    no_ranges(lab_world, status)
    with opened(lab_world, snapshot, vm) as disk:
        assert disk.transport == "nfc"
        assert disk.transport_reason.startswith("not datastore: ")
        assert why in disk.transport_reason
        assert disk.read(0, disk.capacity_bytes) == wanted
    assert held(lab_world) == []


def test_older_snapshots_are_left_alone_and_read_through(lab_world: LabWorld, vm: Vm) -> None:
    take(lab_world.platform, vm, "before the upgrade")
    lab_world.guest_writes(vm, 2000, 3 * MIB, b"the upgrade")
    wanted = truth(lab_world, vm)
    snapshot = take(lab_world.platform, vm)
    lab_world.guest_writes(vm, 2000, 3 * MIB, b"after the backup began")
    with opened(lab_world, snapshot, vm) as disk:
        assert (disk.transport, disk.read(0, len(wanted))) == ("nfc", wanted)
        assert "older snapshots lie below" in disk.transport_reason
    lab_world.platform.remove_snapshot(snapshot.name, vm.ref)
    assert [each.name for each in lab_world.platform.find_snapshots("") if each.vm_ref == vm.ref] == [
        "before the upgrade"
    ]


def test_each_disk_of_a_vm_is_told_from_the_others(lab_world: LabWorld, vm: Vm) -> None:
    lab_world.guest_writes(vm, 2001, 5000, b"the second disk")
    wanted = truth(lab_world, vm, 2001)
    snapshot = take(lab_world.platform, vm)
    no_ranges(lab_world)
    with opened(lab_world, snapshot, vm, 0), opened(lab_world, snapshot, vm, 1) as second:
        assert second.read(0, MIB) == wanted


def test_over_nfc_any_range_is_read_in_any_order(lab_world: LabWorld, vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a spool far smaller than the disk: then a read further back begins a new stream."""
    monkeypatch.setattr(nfc.NfcReader.__init__, "__defaults__", (4 * GRAIN,))
    wanted, chance = truth(lab_world, vm), random.Random(1)
    snapshot = take(lab_world.platform, vm)
    no_ranges(lab_world)
    starts = [chance.randrange(8 * MIB - 2 * GRAIN) for _ in range(30)]
    with opened(lab_world, snapshot, vm) as disk:
        for start in starts:
            length = chance.randrange(2 * GRAIN)
            assert disk.read(start, length) == wanted[start : start + length]
    assert any(later < earlier for earlier, later in pairwise(starts))


def test_what_lies_in_the_spool_is_not_fetched_again(lab_world: LabWorld, vm: Vm) -> None:
    wanted = truth(lab_world, vm)
    snapshot = take(lab_world.platform, vm)
    no_ranges(lab_world)
    with opened(lab_world, snapshot, vm) as disk:
        disk.read(8 * MIB - 10, 10)
        assert held(lab_world) == [], "at the stream's end the VM is let go"
        assert disk.read(0, 8 * MIB) == wanted


def test_threads_share_one_stream(lab_world: LabWorld, vm: Vm) -> None:
    wanted, parts = truth(lab_world, vm), dict[int, bytes]()
    snapshot = take(lab_world.platform, vm)
    no_ranges(lab_world)
    with opened(lab_world, snapshot, vm) as disk:

        def work(first: int) -> None:
            for start in range(first * MIB, 8 * MIB, 2 * MIB):
                parts[start] = disk.read(start, MIB)

        threads = [threading.Thread(target=work, args=(first,)) for first in (1, 0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert b"".join(parts[start] for start in sorted(parts)) == wanted


def test_a_long_transfer_keeps_its_lease_alive(lab_world: LabWorld, vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_world.lab.lab, "lease_timeout_s", 1.0)
    wanted, snapshot = truth(lab_world, vm), take(lab_world.platform, vm)
    no_ranges(lab_world)
    with opened(lab_world, snapshot, vm) as disk:
        disk.read(0, 10)
        (lease,) = held(lab_world)
        threading.Event().wait(2.5)
        assert lease.state == "ready"
        assert disk.read(0, 8 * MIB) == wanted


def test_a_reader_that_is_closed_early_gives_its_lease_up(lab_world: LabWorld, vm: Vm) -> None:
    snapshot = take(lab_world.platform, vm)
    no_ranges(lab_world)
    opened(lab_world, snapshot, vm).close()
    assert held(lab_world) == []
    lab_world.platform.remove_snapshot(snapshot.name, vm.ref)


@pytest.fixture
def large(lab_world: LabWorld) -> Vm:
    """More than fits into the buffers between here and there."""
    made = lab_world.new_vm((48 * MIB,))
    for start in range(0, 48 * MIB, 8 * MIB):
        lab_world.guest_writes(made, 2000, start, random.Random(start).randbytes(8 * MIB))
    return made


def test_a_stream_that_breaks_is_taken_up_again(lab_world: LabWorld, large: Vm) -> None:
    wanted, snapshot = truth(lab_world, large), take(lab_world.platform, large)
    no_ranges(lab_world)
    with opened(lab_world, snapshot, large) as disk:
        assert disk.read(0, MIB) == wanted[:MIB]
        for lease in held(lab_world):
            lease._end("error", vim.fault.Timedout(msg="scripted"))
        assert disk.read(MIB, 47 * MIB) == wanted[MIB:]
    assert held(lab_world) == []


def test_a_session_that_is_killed_costs_only_time(lab_world: LabWorld, large: Vm) -> None:
    wanted, snapshot = truth(lab_world, large), take(lab_world.platform, large)
    no_ranges(lab_world)
    parts = []
    with opened(lab_world, snapshot, large) as disk:
        for start in range(0, 48 * MIB, 4 * MIB):
            lab_world.lab.sessions.end_all()
            parts.append(disk.read(start, 4 * MIB))
    assert b"".join(parts) == wanted


def test_a_snapshot_that_goes_in_the_middle_is_an_error_not_zeros(
    lab_world: LabWorld, large: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nfc, "PAUSE_S", 0.01)
    snapshot = take(lab_world.platform, large)
    no_ranges(lab_world)
    with opened(lab_world, snapshot, large) as disk:
        disk.read(0, MIB)
        for lease in held(lab_world):
            lease._end("error", vim.fault.Timedout(msg="scripted"))
        lab_world.platform.remove_snapshot(snapshot.name, large.ref)
        for _ in range(2):
            with pytest.raises((NotFound, DiskUnreadable)):
                disk.read(40 * MIB, MIB)


def test_a_vm_that_is_busy_for_a_moment_is_waited_for(
    lab_world: LabWorld, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BUSY_PAUSES_S", (0.01,) * 3)
    snapshot = take(lab_world.platform, vm)
    no_ranges(lab_world)
    real, refusals = LabSnapshot.ExportSnapshot, [vim.fault.TaskInProgress(task=vim.Task("task-1"))] * 2

    def busy(self: Any, call: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return real(self, call)

    monkeypatch.setattr(LabSnapshot, "ExportSnapshot", busy)
    with opened(lab_world, snapshot, vm) as disk:
        assert disk.transport == "nfc"
    assert refusals == []


def test_several_ranges_of_a_datastore_are_in_flight_at_once(
    lab_world: LabWorld, large: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, snapshot = truth(lab_world, large), take(lab_world.platform, large)
    together = threading.Barrier(3)
    real = folder._send

    def met(*arguments: Any) -> None:
        together.wait(10)  # nothing is sent before three have been asked for
        real(*arguments)

    with opened(lab_world, snapshot, large) as disk:
        assert disk.transport == "datastore"
        monkeypatch.setattr(folder, "_send", met)
        assert disk.read(0, 6 * MIB) == wanted[: 6 * MIB]


def test_no_way_at_all_names_each_and_why(lab_world: LabWorld, vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = take(lab_world.platform, vm)
    no_ranges(lab_world)
    monkeypatch.setattr("vsphere.lab.nfc._find", lambda handler: None)
    with pytest.raises(DiskUnreadable, match=r"not datastore: .*; not nfc: .*HTTP 404"):
        opened(lab_world, snapshot, vm)
    assert held(lab_world) == []


def test_a_lease_that_never_gets_ready_is_given_up(
    lab_world: LabWorld, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "READY_TIMEOUT_S", 0.3)
    monkeypatch.setattr("vsphere.lab.leases.Lease._become", lambda *_: None)
    snapshot = take(lab_world.platform, vm)
    no_ranges(lab_world)
    with pytest.raises(Exception, match="ready to carry"):
        opened(lab_world, snapshot, vm)


def test_a_powered_off_vm_is_compared_over_nfc_where_there_are_no_ranges(lab_world: LabWorld) -> None:
    ref = copy_of(lab_world.platform, lab_world.new_vm())
    with lab_world.platform.open_disk_for_writing(ref, 2000) as writer:
        writer.write(5000, b"recovered")
    no_ranges(lab_world)
    with lab_world.platform.open_current_disk(ref, 2000) as disk:
        assert disk.transport == "nfc"
        assert disk.read(5000, 9) == b"recovered"


def test_an_nbd_server_is_asked_before_nfc(
    lab_world: LabWorld, vm: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: Path
) -> None:
    snapshot = take(lab_world.platform, vm)
    image = tmp_path / "disk.img"
    image.write_bytes(truth(lab_world, vm))
    faults.write_text(json.dumps({"folder_status": {"*": 500}}))
    with serving(SERVERS["nbdkit"], image) as address:
        monkeypatch.setenv("HOTFIRST_NBD", f"nbd+unix:///?socket={address.unix}")
        with opened(lab_world, snapshot, vm) as disk:
            assert (disk.transport, disk.read(0, 8 * MIB)) == ("nbd", image.read_bytes())
    with opened(lab_world, snapshot, vm) as disk:
        assert disk.transport == "nfc"
        assert "not nbd: The NBD server cannot be reached" in disk.transport_reason
