"""Datastores as last measured, and what follows for runs: caps, room for snapshots, and the latency gate."""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

from django.db.models import Count, Max
from django.utils import timezone

from backups.errors import HotfirstError
from backups.forecast import Place
from backups.models import Datastore, Run, RunItem, VCenter
from backups.models.runs import HOLDING
from backups.platform import Datastore as Seen
from backups.platform import Platform

log = logging.getLogger(__name__)
MEASURE_AGAIN = timedelta(seconds=20)
BELIEVED_FOR = timedelta(minutes=5)
"""A measurement that is older limits nothing: what is not known must not keep VMs from being backed up."""
SLOWEST = 4.0


def key_of(vcenter: VCenter, name: str) -> str:
    """Names of hosts and datastores are unique within a vCenter only."""
    return f"{name} on {vcenter.name}"


def measure_datastores(vcenter: VCenter, platform: Platform, older_than: timedelta = MEASURE_AGAIN) -> None:
    """Nothing to do if somebody measured just now. What cannot be measured must not keep VMs from being backed up."""
    now = timezone.now()
    newest = Datastore.objects.filter(vcenter=vcenter).aggregate(at=Max("measured_at"))["at"]
    if newest and newest > now - older_than:
        return
    try:
        found = _worst_of_each_name(platform.datastores())
    except HotfirstError as error:
        log.warning("datastores of %s: %s; nothing is held back for them", vcenter, error)
        return
    Datastore.objects.bulk_create(
        [
            Datastore(
                vcenter=vcenter,
                name=each.name,
                capacity_bytes=each.capacity_bytes,
                free_bytes=each.free_bytes,
                latency_ms=each.latency_ms,
                measured_at=now,
            )
            for each in found
        ],
        update_conflicts=True,
        unique_fields=["vcenter", "name"],
        update_fields=["capacity_bytes", "free_bytes", "latency_ms", "measured_at"],
    )


def _worst_of_each_name(found: Iterable[Seen]) -> list[Seen]:
    """Datacenters of one vCenter may each have a datastore of the same name; VMs name theirs without the datacenter."""
    worst: dict[str, Seen] = {}
    for each in found:
        twin = worst.get(each.name, each)
        slower = max(twin.latency_ms or 0.0, each.latency_ms or 0.0) or None
        worst[each.name] = replace(min(twin, each, key=lambda seen: seen.free_bytes), latency_ms=slower)
    return list(worst.values())


def places_of(vcenters: Iterable[VCenter]) -> tuple[dict[str, Place], dict[str, Place]]:
    """The datastores and the hosts that limit, by `key_of`."""
    datastores: dict[str, Place] = {}
    hosts: dict[str, Place] = {}
    for vcenter in vcenters:
        cap = vcenter.snapshots_per_datastore or None
        for found in Datastore.objects.filter(vcenter=vcenter):
            datastores[key_of(vcenter, found.name)] = Place(snapshots=cap, room_kb=_room_kb(vcenter, found))
        if vcenter.snapshots_per_host:
            for name in vcenter.vms.filter(vanished_at=None).values_list("host", flat=True).distinct():
                hosts[key_of(vcenter, name)] = Place(snapshots=vcenter.snapshots_per_host)
    return datastores, hosts


def _room_kb(vcenter: VCenter, found: Datastore) -> float | None:
    if found.measured_at is None or found.measured_at < timezone.now() - BELIEVED_FOR:
        return None
    return (found.free_bytes - found.capacity_bytes * vcenter.reserve_percent / 100) / 1024


def open_snapshots(vcenter: VCenter, place: str) -> Counter[str]:
    """How many snapshots of ours, of all runs, are open on each; `place` is `datastore` or `host`."""
    holding = RunItem.objects.filter(state__in=HOLDING, vm__vcenter=vcenter).order_by()
    return Counter({key_of(vcenter, row[place]): row["n"] for row in holding.values(place).annotate(n=Count("pk"))})


def growth_ahead_kb(vcenter: VCenter, but_waiting_in: Run) -> dict[str, float]:
    """By how much the open snapshots, but for those that wait in the run, are expected to grow yet."""
    holding = RunItem.objects.filter(state__in=HOLDING, vm__vcenter=vcenter).exclude(
        run=but_waiting_in, state="waiting"
    )
    ahead: dict[str, float] = {}
    for datastore, load_kbps, expected_s in holding.values_list("datastore", "load_kbps", "expected_s"):
        key = key_of(vcenter, datastore)
        ahead[key] = ahead.get(key, 0.0) + load_kbps * expected_s
    return ahead


def is_slow(item: RunItem) -> str:
    """Why nothing new starts on the item's datastore now; "" if it may."""
    stop_ms = item.vm.vcenter.latency_stop_ms
    found = _measured(item)
    if not stop_ms or found is None or found.latency_ms is None or found.latency_ms <= stop_ms:
        return ""
    return f"{found.name} answers in {found.latency_ms:.0f} ms; nothing new starts there above {stop_ms} ms."


def slowdown(item: RunItem, platform: Platform) -> float:
    """How many times as long as it works a reader is to rest, while its datastore is slower than the threshold."""
    vcenter = item.vm.vcenter
    if not (vcenter.latency_slow_ms or vcenter.latency_stop_ms):
        return 0.0
    measure_datastores(vcenter, platform)
    found = _measured(item)
    slow_ms = vcenter.latency_slow_ms
    if not slow_ms or found is None or found.latency_ms is None or found.latency_ms <= slow_ms:
        return 0.0
    return min(found.latency_ms / slow_ms, SLOWEST)


def _measured(item: RunItem) -> Datastore | None:
    recent = Datastore.objects.filter(vcenter=item.vm.vcenter, measured_at__gt=timezone.now() - BELIEVED_FOR)
    return recent.filter(name=item.datastore).first()
