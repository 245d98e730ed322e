"""Room on the datastores, their latency as the hosts see it, and the snapshots' growth on them."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import fmean
from typing import Any

from pyVmomi import vim, vmodl

from backups.platform import Datastore
from vsphere.inventory import DATASTORE_PATHS, datastore_of, is_usable_datastore
from vsphere.load import PerfCounters, query_csv, values_of
from vsphere.properties import Found, read_all, read_many
from vsphere.session import Session

LATENCY = frozenset({"datastore.totalReadLatency.average", "datastore.totalWriteLatency.average"})
"""Milliseconds, of real-time counters of hosts; their instance is the datastore's uuid."""
LATENCY_WINDOW_S = 60
REFRESHERS = 6
PATHS: dict[type, tuple[str, ...]] = {
    vim.Datastore: (*DATASTORE_PATHS, "summary.url"),
    vim.HostSystem: ("runtime.connectionState",),
}


def read(session: Session, counters: PerfCounters) -> tuple[Datastore, ...]:
    found = read_all(session, PATHS)
    stores = [each for each in found if is_usable_datastore(each)]
    _refresh_room(session, [each.ref for each in stores])
    room = read_many(session, vim.Datastore, [each.ref for each in stores], *DATASTORE_PATHS)
    latencies = _latencies(session, counters, [each.ref for each in found if _is_connected_host(each)])
    return tuple(
        replace(datastore_of(each.ref, room[each.ref]), latency_ms=latencies.get(_uuid(each.values.get("summary.url"))))
        for each in stores
        if each.ref in room
    )


def _refresh_room(session: Session, refs: Sequence[str]) -> None:
    """vCenter's figure may be minutes old (API reference: RefreshDatastore)."""
    _refresh(session, refs, lambda stub, ref: vim.Datastore(ref, stub).RefreshDatastore())


def _refresh(session: Session, refs: Sequence[str], refresh: Callable[[Any, str], None]) -> None:
    def one(ref: str) -> None:
        try:
            session.call(lambda stub: refresh(stub, ref))
        except vmodl.MethodFault:
            return  # The older figure has to do: the account may only look, or the object has gone.

    if refs:
        with ThreadPoolExecutor(min(REFRESHERS, len(refs))) as refreshers:
            list(refreshers.map(one, refs))


def _is_connected_host(found: Found) -> bool:
    return issubclass(found.kind, vim.HostSystem) and found.values.get("runtime.connectionState") == "connected"


def _uuid(url: str | None) -> str:
    """`ds:///vmfs/volumes/<uuid>/`"""
    return (url or "").rstrip("/").rpartition("/")[2]


def _latencies(session: Session, counters: PerfCounters, host_refs: list[str]) -> dict[str, float]:
    """By uuid, as the host sees it that suffers most. Empty where the account may not read counters."""
    try:
        ids = counters.ids(LATENCY)
        if not ids or not host_refs:
            return {}
        interval_s = counters.interval_s(vim.HostSystem, host_refs)
        answers = query_csv(session, vim.HostSystem, host_refs, ids, LATENCY_WINDOW_S, interval_s)
    except vmodl.RuntimeFault:  # Among them NoPermission, and what servers without counters say.
        return {}
    return worst_latencies(answers)


def worst_latencies(answers: Iterable[Any]) -> dict[str, float]:
    worst: dict[str, float] = {}
    for host in answers:
        means: dict[str, list[float]] = defaultdict(list)
        for series in host.value or ():
            samples = [value for value in values_of(series.value) if value >= 0]
            if samples:
                means[series.id.instance].append(fmean(samples))
        for uuid, directions in means.items():
            # Without an access in one direction its latency is zero, and says nothing.
            told = fmean([each for each in directions if each] or [0.0])
            worst[uuid] = max(worst.get(uuid, 0.0), told)
    return worst


def growth(session: Session, vm_refs: Sequence[str]) -> dict[str, int]:
    """vCenter itself looks at the sizes of files only now and then (API reference: RefreshStorageInfo)."""
    chains = read_many(session, vim.VirtualMachine, vm_refs, "layoutEx.snapshot")
    held = [ref for ref, values in chains.items() if values.get("layoutEx.snapshot")]
    _refresh(session, held, lambda stub, ref: vim.VirtualMachine(ref, stub).RefreshStorageInfo())
    layouts = read_many(session, vim.VirtualMachine, held, "layoutEx")
    return {ref: delta_bytes(layouts.get(ref, {}).get("layoutEx")) for ref in chains}


def delta_bytes(layout: Any) -> int:
    """The files of the current chain that the oldest snapshot does not have: a linked clone's own base is no delta."""
    if layout is None or not layout.snapshot:
        return 0
    frozen = set.intersection(*(_files(snapshot.disk) for snapshot in layout.snapshot))
    sizes = {file.key: file.size for file in layout.file}
    return sum(sizes.get(key, 0) for key in _files(layout.disk) - frozen)


def _files(disks: Sequence[Any]) -> set[int]:
    return {key for disk in disks or () for unit in disk.chain or () for key in unit.fileKey}
