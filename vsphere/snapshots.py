"""Snapshots: started together, found again by name, never made twice, removed until the disks are consolidated."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from pyVmomi import vim, vmodl

from backups.errors import NotFound, PlatformError, PlatformUnreachable, SnapshotFailed
from backups.platform import Quiesce, Snapshot, SnapshotDisk, SnapshotOrder
from vsphere.faults import detail, translated
from vsphere.inventory import disk_of, disks_of
from vsphere.properties import read, read_all, read_many
from vsphere.session import Session
from vsphere.tasks import running, wait, wait_all

CREATE_TIMEOUT_S = 30 * 60
REMOVE_TIMEOUT_S = 12 * 3600
LOOK_AGAIN_S = (0, 1, 2, 4)
"""Pauses between looks for a snapshot whose request may have arrived although the connection broke."""
STARTERS = 8
LONGEST_SLEEP_S = 30
"""Clocks drift apart, and are set."""
CREATING = frozenset({"virtualmachine.createsnapshot"})
CONSOLIDATING = frozenset({"virtualmachine.consolidatevmdisks", "vm.consolidate"})
REMOVING = frozenset({"vm.snapshot.remove", "virtualmachine.removesnapshot"})
DESCRIPTION = "Taken for a backup, and removed by it. Please leave it alone."
NOT_QUIESCED = (vim.fault.ApplicationQuiesceFault, vim.fault.FilesystemQuiesceFault, vim.fault.ToolsUnavailable)

Results = dict[str, Snapshot | Exception]


def create(session: Session, orders: Sequence[SnapshotOrder], at: datetime | None, quiesce: Quiesce) -> Results:
    """By VM ref. What exists is looked up before the common time, so that only the starts come after it."""
    results = _existing(session, orders)
    rest = [order for order in orders if order.vm_ref not in results]
    _wait_until(session, at)
    results |= _attempt(session, rest, quiesced=quiesce != Quiesce.NO)
    if quiesce == Quiesce.TRY:
        again = [order for order in rest if _is_about_quiescing(results[order.vm_ref])]
        results |= _attempt(session, again, quiesced=False)
    if quiesce == Quiesce.REQUIRE:
        results |= _refuse_unquiesced(session, rest, results)
    return {ref: _outcome(result) for ref, result in results.items()}


def _existing(session: Session, orders: Sequence[SnapshotOrder]) -> Results:
    """Snapshots of these names, also those that an earlier call has started and not seen end."""
    recent = read_many(session, vim.VirtualMachine, [o.vm_ref for o in orders], "recentTask")
    for order in orders:
        if recent.get(order.vm_ref, {}).get("recentTask"):
            wait_all(session, running(session, order.vm_ref, CREATING), CREATE_TIMEOUT_S)
    return _named(session, orders)


def _named(session: Session, orders: Sequence[SnapshotOrder]) -> Results:
    names = {order.vm_ref: order.name for order in orders}
    trees = read_many(session, vim.VirtualMachine, list(names), "snapshot.rootSnapshotList")
    found = (each for ref, values in trees.items() for each in _walk(ref, values.get("snapshot.rootSnapshotList")))
    return {each.vm_ref: each for each in found if each.name == names[each.vm_ref]}


def _wait_until(session: Session, at: datetime | None) -> None:
    """By vCenter's clock, which is the one that the snapshots' own times are told by."""
    while at is not None and (left_s := (at - _now(session)).total_seconds()) > 0:
        time.sleep(min(left_s, LONGEST_SLEEP_S))


def _now(session: Session) -> datetime:
    now: datetime = session.call(lambda stub: vim.ServiceInstance("ServiceInstance", stub).CurrentTime())
    return now


def _attempt(session: Session, orders: Sequence[SnapshotOrder], *, quiesced: bool) -> Results:
    if not orders:
        return {}
    with ThreadPoolExecutor(min(STARTERS, len(orders))) as starters:
        started = dict(zip(orders, starters.map(lambda o: _start(session, o, quiesced), orders), strict=True))
    tasks = [task for task in started.values() if isinstance(task, vim.Task)]
    ended = wait_all(session, tasks, CREATE_TIMEOUT_S)
    faults = {o.vm_ref: _failure(task, ended) for o, task in started.items()}
    return {ref: fault for ref, fault in faults.items() if fault} | _named(session, orders)


def _start(session: Session, order: SnapshotOrder, quiesced: bool) -> Any:
    """The task; None if the snapshot turned out to exist after a broken connection; or the error."""
    try:
        return session.call(
            lambda stub: vim.VirtualMachine(order.vm_ref, stub).CreateSnapshot_Task(
                order.name, DESCRIPTION, False, quiesced
            ),
            repeatable=False,
        )
    except vmodl.MethodFault as fault:
        return fault
    except PlatformUnreachable as error:
        return _look_again(session, order, error)


def _look_again(session: Session, order: SnapshotOrder, error: PlatformUnreachable) -> Exception | None:
    """The request may have arrived. It is not sent again: the next attempt, under its own name, is the caller's."""
    for pause_s in LOOK_AGAIN_S:
        time.sleep(pause_s)
        try:
            if _existing(session, [order]):
                return None
        except PlatformUnreachable:
            continue
    return error


def _failure(started: Any, ended: dict[str, Any]) -> Exception | None:
    outcome = ended.get(started._moId) if isinstance(started, vim.Task) else started
    if isinstance(outcome, Exception):
        return outcome
    return SnapshotFailed("vCenter reports the snapshot as taken but does not list it; look at the VM in vCenter.")


def _is_about_quiescing(result: Snapshot | Exception) -> bool:
    """Some builds report it as a general failure, and only the text tells."""
    if isinstance(result, NOT_QUIESCED):
        return True
    return isinstance(result, vim.fault.SnapshotFault) and "quiesc" in detail(result).lower()


def _refuse_unquiesced(session: Session, orders: Sequence[SnapshotOrder], results: Results) -> Results:
    """A powered-off VM is at rest as it is."""
    states = read_many(session, vim.VirtualMachine, [o.vm_ref for o in orders], "runtime.powerState")
    refused: Results = {}
    for order in orders:
        taken = results[order.vm_ref]
        on = states.get(order.vm_ref, {}).get("runtime.powerState") == "poweredOn"
        if isinstance(taken, Snapshot) and on and not taken.quiesced:
            remove(session, order.name, order.vm_ref)
            refused[order.vm_ref] = SnapshotFailed(
                "The guest was not brought to rest, which the plan requires; look at VMware Tools in the guest."
            )
    return refused


def _outcome(result: Snapshot | Exception) -> Snapshot | Exception:
    if isinstance(result, Snapshot):
        return result
    error = translated(result)
    failed = SnapshotFailed(str(error), provider=error.provider_message)
    return failed if type(error) is PlatformError else error


def find(session: Session, prefix: str) -> list[Snapshot]:
    vms = read_all(session, {vim.VirtualMachine: ("snapshot.rootSnapshotList",)})
    found = (each for vm in vms for each in _walk(vm.ref, vm.values.get("snapshot.rootSnapshotList")))
    return [snapshot for snapshot in found if snapshot.name.startswith(prefix)]


def _walk(vm_ref: str, trees: Sequence[Any] | None) -> Iterator[Snapshot]:
    for tree in trees or ():
        taken_at = tree.createTime.astimezone(UTC)
        yield Snapshot(
            vm_ref=vm_ref, ref=tree.snapshot._moId, name=tree.name, taken_at=taken_at, quiesced=bool(tree.quiesced)
        )
        yield from _walk(vm_ref, tree.childSnapshotList)


def remove(session: Session, name: str, vm_ref: str) -> None:
    order = SnapshotOrder(vm_ref=vm_ref, name=name)
    fault: Exception | None = None
    for pause_s in (*LOOK_AGAIN_S, 0):
        wait_all(session, running(session, vm_ref, REMOVING), REMOVE_TIMEOUT_S)
        found = _named(session, [order]).get(vm_ref)
        if not isinstance(found, Snapshot):
            consolidate(session, vm_ref)
            return
        fault = _ended(session, _removal(found.ref))
        time.sleep(pause_s if fault else 0)
    raise _stuck(f"The snapshot {name} could not be removed", fault)


def _removal(ref: str) -> Callable[[Any], Any]:
    return lambda stub: vim.vm.Snapshot(ref, stub).RemoveSnapshot_Task(False, True)


def _ended(session: Session, request: Callable[[Any], Any]) -> Exception | None:
    """Why the task did not succeed. It may have done its work all the same, or a part: the caller looks again."""
    try:
        wait(session, session.call(request), REMOVE_TIMEOUT_S)
    except (vmodl.MethodFault, PlatformUnreachable) as fault:
        if isinstance(fault, vim.fault.NoPermission):
            raise
        return fault
    return None


def _stuck(what: str, fault: Exception | None) -> SnapshotFailed:
    why = translated(fault).provider_message if fault else "vCenter says nothing of the reason."
    return SnapshotFailed(f"{what}; it is tried again later.", provider=f"{what}: {why} Look at the VM in vCenter.")


def consolidate(session: Session, vm_ref: str) -> bool:
    """A snapshot that has gone from the tree may have left its files in the disks' chains, most often because a file
    was locked for a moment."""
    if not _needs_consolidation(session, vm_ref):
        return False
    fault: Exception | None = None
    for pause_s in (*LOOK_AGAIN_S, 0):
        wait_all(session, running(session, vm_ref, CONSOLIDATING), REMOVE_TIMEOUT_S)
        if not _needs_consolidation(session, vm_ref):
            return True
        fault = _ended(session, lambda stub: vim.VirtualMachine(vm_ref, stub).ConsolidateVMDisks_Task())
        time.sleep(pause_s if fault else 0)
    if not _needs_consolidation(session, vm_ref):
        return True
    raise _stuck("The VM's disks still need consolidation", fault)


def _needs_consolidation(session: Session, vm_ref: str) -> bool:
    needed = "runtime.consolidationNeeded"
    return bool(read_many(session, vim.VirtualMachine, [vm_ref], needed).get(vm_ref, {}).get(needed))


def snapshot_disks(session: Session, snapshot: Snapshot) -> tuple[SnapshotDisk, ...]:
    return tuple(
        SnapshotDisk(disk=disk_of(device), change_id=getattr(device.backing, "changeId", None) or None)
        for device in disk_devices(session, snapshot)
    )


def disk_devices(session: Session, snapshot: Snapshot) -> list[Any]:
    """vSphere's own account of the disks, as the snapshot holds them: the change ids that count are these."""
    try:
        values = read(session, vim.vm.Snapshot, snapshot.ref, "config.hardware.device")
    except vmodl.fault.ManagedObjectNotFound as fault:
        raise NotFound(f"The snapshot {snapshot.name} is no longer in vCenter.") from fault
    return disks_of(values.get("config.hardware.device"))
