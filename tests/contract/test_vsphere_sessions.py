"""Sessions that end and answers that are lost, at the worst moments."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pyVmomi import vim
from pyVmomi.SoapAdapter import SoapStubAdapter

from backups.errors import PlatformUnreachable, SnapshotFailed
from backups.platform import Quiesce, SnapshotOrder
from tests.contract.test_recovery import copy_of, here
from tests.contract.test_snapshots import names_of, take
from tests.contract.worlds import MIB, NUMBERS, LabWorld
from vsphere import recovery, snapshots
from vsphere.lab.pools import ResourcePool


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "LOOK_AGAIN_S", (0, 0.1, 0.1))
    monkeypatch.setattr(recovery, "LOOK_AGAIN_S", (0, 0.1, 0.1))


def break_once(monkeypatch: pytest.MonkeyPatch, method: str, *, arrives: bool) -> list[str]:
    """The connection breaks at the next call of `method`, before or after vCenter has got it. Returns the calls."""
    real, calls = SoapStubAdapter.InvokeMethod, []

    def invoke(self: Any, mo: Any, info: Any, args: Any, outer: Any = None) -> Any:
        if info.wsdlName != method:
            return real(self, mo, info, args, outer)
        calls.append(method)
        if len(calls) > 1:
            return real(self, mo, info, args, outer)
        if arrives:
            real(self, mo, info, args, outer)
        raise ConnectionResetError("cut")

    monkeypatch.setattr(SoapStubAdapter, "InvokeMethod", invoke)
    return calls


@pytest.fixture
def killing(lab_world: LabWorld) -> Iterator[Callable[[], int]]:
    """Ends every session again and again; gives the number of times so far."""
    stop, kills = threading.Event(), []

    def kill() -> None:
        while not stop.wait(0.3):
            lab_world.lab.sessions.end_all()
            kills.append(time.monotonic())

    thread = threading.Thread(target=kill)
    thread.start()
    yield lambda: len(kills)
    stop.set()
    thread.join()


def test_work_in_four_threads_survives_sessions_that_keep_ending(
    lab_world: LabWorld, killing: Callable[[], int]
) -> None:
    platform = lab_world.platform
    vm = lab_world.new_vm()
    snapshot = take(platform, vm)

    def work(number: int) -> bool:
        seen = any(other.ref == vm.ref for other in platform.inventory().vms)
        with platform.open_disk(snapshot, vm.disks[0]) as disk:
            read = disk.read(number, 4096) == bytes(4096)
        return seen and read and snapshot in platform.find_snapshots("hotfirst-")

    with ThreadPoolExecutor(4) as threads:
        results: list[bool] = []
        while killing() < 8:
            results += threads.map(work, range(8))
    assert all(results)
    assert len(results) >= 8


def test_tasks_are_waited_for_over_the_end_of_the_session(lab_world: LabWorld, killing: Callable[[], int]) -> None:
    vm = lab_world.new_vm()
    while killing() < 4:
        name = f"hotfirst-{killing()}"
        take(lab_world.platform, vm, name)
        lab_world.platform.remove_snapshot(name, vm.ref)
    assert names_of(lab_world.platform, vm) == []


def test_a_lost_answer_to_create_snapshot_leaves_one_snapshot(
    lab_world: LabWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = lab_world.new_vm()
    calls = break_once(monkeypatch, "CreateSnapshot_Task", arrives=True)
    snapshot = take(lab_world.platform, vm)
    assert snapshot.name == "hotfirst-a-1"
    assert names_of(lab_world.platform, vm) == ["hotfirst-a-1"]
    assert len(calls) == 1


def test_a_snapshot_request_that_never_arrived_is_not_sent_blindly_again(
    lab_world: LabWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = lab_world.new_vm()
    calls = break_once(monkeypatch, "CreateSnapshot_Task", arrives=False)
    orders = [SnapshotOrder(vm_ref=vm.ref, name="hotfirst-a-1")]
    failed = lab_world.platform.create_snapshots(orders)[vm.ref]
    assert isinstance(failed, PlatformUnreachable)
    assert failed.retryable
    assert len(calls) == 1
    take(lab_world.platform, vm)
    assert names_of(lab_world.platform, vm) == ["hotfirst-a-1"]


@pytest.mark.parametrize("arrives", [True, False])
def test_a_lost_answer_to_remove_snapshot_is_looked_after(
    lab_world: LabWorld, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    vm = lab_world.new_vm()
    take(lab_world.platform, vm)
    break_once(monkeypatch, "RemoveSnapshot_Task", arrives=arrives)
    lab_world.platform.remove_snapshot("hotfirst-a-1", vm.ref)
    assert names_of(lab_world.platform, vm) == []


@pytest.fixture
def _no_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an account that may import nothing."""

    def refuse(*_: Any, **__: Any) -> None:
        raise vim.fault.NoPermission(object=vim.ResourcePool("resgroup-1"), privilegeId="VApp.Import")

    monkeypatch.setattr(ResourcePool, "ImportVApp", refuse)


@pytest.mark.usefixtures("_no_import")
def test_a_lost_answer_to_create_vm_leaves_one_vm(lab_world: LabWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = lab_world.new_vm()
    calls = break_once(monkeypatch, "CreateVM_Task", arrives=True)
    ref = copy_of(lab_world.platform, vm)
    name = lab_world.platform.describe(ref).name
    assert [v.ref for v in lab_world.platform.inventory().vms if v.name == name] == [ref]
    assert len(calls) == 1


@pytest.mark.parametrize("arrives", [True, False])
def test_a_lost_answer_to_an_import_leaves_one_vm(
    lab_world: LabWorld, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    """The first attempt's lease holds its VM until its time runs out; the next attempt waits for that."""
    config, target = lab_world.platform.describe(lab_world.new_vm().ref), here(lab_world.platform)
    monkeypatch.setattr(lab_world.lab.lab, "lease_timeout_s", 1.5)
    name = f"copy-{next(NUMBERS)}"
    calls = break_once(monkeypatch, "ImportVApp", arrives=arrives)
    with pytest.raises(PlatformUnreachable):
        lab_world.platform.create_vm(config, name, f"item-{name}", target)
    assert len(calls) == 1
    ref = lab_world.platform.create_vm(config, name, f"item-{name}", target)
    assert [v.ref for v in lab_world.platform.inventory().vms if v.name == name] == [ref]


@pytest.mark.usefixtures("_no_import")
def test_a_create_vm_that_never_arrived_is_tried_again_by_the_next_attempt(
    lab_world: LabWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, target = lab_world.platform.describe(lab_world.new_vm().ref), here(lab_world.platform)
    name = f"copy-{next(NUMBERS)}"
    break_once(monkeypatch, "CreateVM_Task", arrives=False)
    with pytest.raises(PlatformUnreachable):
        lab_world.platform.create_vm(config, name, f"item-{name}", target)
    assert lab_world.platform.create_vm(config, name, f"item-{name}", target)


def test_a_lost_answer_to_create_vapp_leaves_one_vapp(lab_world: LabWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    platform, name = lab_world.platform, f"shop-{next(NUMBERS)}"
    shop = next(vapp for vapp in platform.inventory().vapps if vapp.name == "shop")
    break_once(monkeypatch, "CreateVApp", arrives=True)
    ref = platform.create_vapp(platform.describe_vapp(shop.ref), name, here(platform).host_ref)
    assert [vapp.ref for vapp in platform.inventory().vapps if vapp.name == name] == [ref]


@pytest.mark.parametrize("fault", [vim.fault.ApplicationQuiesceFault, vim.fault.ToolsUnavailable])
def test_try_takes_the_snapshot_unquiesced_where_the_guest_does_not_answer(
    lab_world: LabWorld, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    vm = lab_world.new_vm()
    faults = [fault(msg="The guest did not answer.")]
    monkeypatch.setattr(lab_world.lab.lab.faults, "before_snapshot", lambda _: raise_next(faults))
    assert not take(lab_world.platform, vm, quiesce=Quiesce.TRY).quiesced
    assert names_of(lab_world.platform, vm) == ["hotfirst-a-1"]


def test_require_fails_where_the_guest_does_not_answer(lab_world: LabWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = lab_world.new_vm()
    faults = [vim.fault.ApplicationQuiesceFault(msg="The guest did not answer.")]
    monkeypatch.setattr(lab_world.lab.lab.faults, "before_snapshot", lambda _: raise_next(faults))
    orders = [SnapshotOrder(vm_ref=vm.ref, name="hotfirst-q")]
    failed = lab_world.platform.create_snapshots(orders, quiesce=Quiesce.REQUIRE)[vm.ref]
    assert isinstance(failed, SnapshotFailed)
    assert "look at VMware Tools" in str(failed)
    assert "The guest did not answer." in failed.provider_message
    assert names_of(lab_world.platform, vm) == []


def raise_next(faults: list[Exception]) -> None:
    if faults:
        raise faults.pop(0)


def test_consolidation_that_was_left_over_is_made_good(lab_world: LabWorld) -> None:
    vm = lab_world.new_vm()
    snapshot = take(lab_world.platform, vm)
    lab_world.guest_writes(vm, 2000, 0, b"in the delta")
    lab = lab_world.lab.lab
    lab.registry.objects[snapshot.ref].detach()
    assert lab_world.disk(vm, 2000).needs_consolidation
    lab_world.platform.remove_snapshot("hotfirst-a-1", vm.ref)
    assert not lab_world.disk(vm, 2000).needs_consolidation
    assert lab_world.disk(vm, 2000).read(0, 12) == b"in the delta"
    assert lab_world.disk(vm, 2000).meta.capacity_bytes == MIB
