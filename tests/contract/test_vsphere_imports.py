"""VMs brought in with their disks: streamed where that is possible, whole or not at all."""

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from backups.errors import PlatformError, PlatformUnreachable
from backups.platform import Target
from tests.contract.test_recovery import content, here
from tests.contract.test_snapshots import take
from tests.contract.worlds import MIB, NUMBERS, LabWorld, connection_to, vm_named, with_disks
from vsphere.imports import ImportWriter
from vsphere.lab import nfc
from vsphere.platform import VSpherePlatform, connect


def begin(world: LabWorld, *sizes: int, name: str = "", target: Target | None = None) -> str:
    name = name or f"new-{next(NUMBERS)}"
    config = with_disks(world.platform.describe(vm_named(world.platform, "stray").ref), sizes)
    return world.platform.create_vm(config, name, f"item-{name}", target or here(world.platform))


def names(world: LabWorld) -> set[str]:
    return {vm.name for vm in world.platform.inventory().vms}


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each disk's stream."""
    sizes: list[int] = []
    take = nfc._take

    def counted(handler: Any, body: Any, *rest: Any) -> None:
        pieces, sizes_of_pieces = body._pieces, []

        def watched() -> Any:
            for piece in pieces:
                sizes_of_pieces.append(len(piece))
                yield piece

        body._pieces = watched()
        take(handler, body, *rest)
        sizes.append(sum(sizes_of_pieces))

    monkeypatch.setattr(nfc, "_take", counted)
    return sizes


def test_disks_are_streamed_without_their_holes_and_no_file_is_touched(
    lab_world: LabWorld, received: list[int]
) -> None:
    lab_world.lab.lab.faults.want({"folder_status": {"*": 500}})
    ref = begin(lab_world, 64 * MIB, MIB)
    data = random.Random(4).randbytes(3 * MIB)
    with lab_world.platform.open_disk_for_writing(ref, 2000) as writer:
        assert isinstance(writer, ImportWriter)
        writer.write(0, b"boot")
        writer.write(10 * MIB + 77, data)
    with lab_world.platform.open_disk_for_writing(ref, 2001) as writer:
        assert isinstance(writer, ImportWriter)
    lab_world.lab.lab.faults.want({})
    assert lab_world.lab.lab.leases == {}, "after the last disk the VM is complete"
    assert content(lab_world.platform, ref, 2000)[10 * MIB + 77 :].startswith(data)
    assert content(lab_world.platform, ref, 2001) == bytes(MIB)
    assert len(received) == 2
    assert received[0] < 3.3 * MIB
    assert received[1] < 100_000


def test_vcenter_is_told_how_far_the_disks_are(lab_world: LabWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_world.lab.lab, "lease_timeout_s", 1.0)
    ref = begin(lab_world, 3 * MIB, MIB)
    (lease,) = lab_world.lab.lab.leases.values()
    with lab_world.platform.open_disk_for_writing(ref, 2000) as writer:
        writer.write(2 * MIB, b"half of all")
        deadline = time.monotonic() + 10
        while lease.percent == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (lease.state, lease.percent) == ("ready", 50)


def test_a_vm_of_a_vapp_is_brought_in_there(lab_world: LabWorld) -> None:
    shop = next(vapp for vapp in lab_world.platform.inventory().vapps if vapp.name == "shop")
    ref = begin(lab_world, MIB, target=here(lab_world.platform, shop.ref))
    with lab_world.platform.open_disk_for_writing(ref, 2000) as writer:
        writer.write(5, b"data")
    assert next(vm for vm in lab_world.platform.inventory().vms if vm.ref == ref).vapp_ref == shop.ref


def test_what_comes_too_late_for_the_stream_is_written_to_the_file(lab_world: LabWorld) -> None:
    ref = begin(lab_world, 2 * MIB, MIB)
    with lab_world.platform.open_disk_for_writing(ref, 2000) as writer:
        writer.write(MIB, b"first")
        writer.write(100, b"second")
        writer.write(MIB + 2, b"RS")
    with lab_world.platform.open_disk_for_writing(ref, 2001) as writer:
        writer.write(7, b"third")
    wanted = bytearray(2 * MIB)
    wanted[MIB : MIB + 5], wanted[100:106] = b"fiRSt", b"second"
    assert content(lab_world.platform, ref, 2000) == wanted
    assert content(lab_world.platform, ref, 2001)[7:12] == b"third"


def test_work_that_stops_in_the_middle_leaves_no_vm(lab_world: LabWorld) -> None:
    ref = begin(lab_world, MIB, name="half")

    def work() -> None:
        with lab_world.platform.open_disk_for_writing(ref, 2000) as writer:
            writer.write(0, b"data" * (1 // 0))

    with pytest.raises(ZeroDivisionError):
        work()
    assert "half" not in names(lab_world)
    lab_world.platform.destroy_vm(ref)


def test_a_platform_that_is_closed_leaves_no_half_made_vm(lab_world: LabWorld) -> None:
    other = connect(connection_to(lab_world.lab))
    config = other.describe(vm_named(other, "stray").ref)
    other.create_vm(config, "half", "item-half", here(other))
    assert "half" in names(lab_world)
    other.close()
    assert "half" not in names(lab_world)


def test_a_vm_that_a_killed_worker_has_half_made_is_made_anew(
    lab_world: LabWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease holds it until its time runs out, and nobody else can give that up."""
    monkeypatch.setattr(lab_world.lab.lab, "lease_timeout_s", 1.5)
    monkeypatch.setattr("vsphere.disks.leases.HeldLease._keep_alive", lambda _: None)
    killed = connect(connection_to(lab_world.lab))
    config = killed.describe(vm_named(killed, "stray").ref)
    first = killed.create_vm(config, "again", "item-again", here(killed))
    monkeypatch.undo()
    second = lab_world.platform.create_vm(config, "again", "item-again", here(lab_world.platform))
    assert second != first
    with lab_world.platform.open_disk_for_writing(second, 2000) as writer:
        writer.write(0, b"whole")
    third = lab_world.platform.create_vm(config, "again", "item-again", here(lab_world.platform))
    assert third == second, "once it is whole, it is found"
    killed.close()
    assert content(lab_world.platform, second, 2000)[:5] == b"whole"


def breaking(world: LabWorld, vm_name: str, trouble: Callable[[], None]) -> type[PlatformError]:
    """Sends more than any buffer holds, with `trouble` in the middle."""
    ref = begin(world, 64 * MIB, name=vm_name)
    data = random.Random(2).randbytes(MIB)

    def work() -> None:
        with world.platform.open_disk_for_writing(ref, 2000) as writer:
            for start in range(0, 64 * MIB, MIB):
                writer.write(start, data)
                if start == 8 * MIB:
                    trouble()

    with pytest.raises(PlatformError) as raised:
        work()
    return raised.type


def test_a_session_that_ends_in_the_middle_is_told_and_may_be_tried_again(lab_world: LabWorld) -> None:
    error = breaking(lab_world, "cut", lab_world.lab.sessions.end_all)
    assert issubclass(error, PlatformUnreachable)
    assert error.retryable
    assert "cut" not in names(lab_world)


def test_a_disk_that_is_not_taken_leaves_no_vm(lab_world: LabWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise nfc.DiskUnreadable("No space left.")

    monkeypatch.setattr(nfc, "_take", full)
    ref = begin(lab_world, MIB, name="full")
    with pytest.raises(PlatformError, match="has room"), lab_world.platform.open_disk_for_writing(ref, 2000) as writer:
        writer.write(0, b"data")
    assert "full" not in names(lab_world)


@pytest.mark.parametrize("verb", ["power", "describe", "snapshot", "read"])
def test_whatever_is_done_with_it_next_a_vm_is_there_to_stay(lab_world: LabWorld, verb: str) -> None:
    name = f"kept-{next(NUMBERS)}"
    ref = begin(lab_world, MIB, name=name)
    platform: VSpherePlatform = lab_world.platform
    vm = vm_named(platform, name)
    verbs: dict[str, Callable[[], Any]] = {
        "power": lambda: platform.power(ref, True),
        "describe": lambda: platform.reconfigure_vm(ref, platform.describe(ref)),
        "snapshot": lambda: take(platform, vm),
        "read": lambda: content(platform, ref, 2000),
    }
    verbs[verb]()
    assert lab_world.lab.lab.leases == {}
    assert name in names(lab_world)
