"""From the rows of plans, runs and VMs to what the deciders ask for."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from backups.batches import Limits, Queued, Situation
from backups.models import Plan, Run, RunItem, VCenter
from backups.models.plans import OverBudget
from backups.models.runs import ItemState
from backups.services.datastores import growth_ahead_kb, key_of, open_snapshots, places_of


def limits_of(source: Plan | Run) -> Limits:
    return Limits(
        policy=source.policy,
        batch_size=source.batch_size,
        vapps_whole=source.vapps_whole,
        hold_budget_s=source.hold_budget_s,
        skip_over_budget=source.over_budget == OverBudget.SKIP,
    )


def queued_of(item: RunItem) -> Queued:
    vm = item.vm
    return Queued(
        id=str(item.pk),
        name=item.vm_name,
        load_kbps=item.load_kbps,
        load=item.load,
        expected_s=max(item.expected_s, 0.1),
        vapp=str(vm.vapp_id or ""),
        host=key_of(vm.vcenter, item.host),
        datastore=key_of(vm.vcenter, item.datastore),
        alone=item.alone,
        raised=item.raised,
    )


def situation_of(run: Run, items: Sequence[RunItem], vcenters: Collection[VCenter], now: datetime) -> Situation:
    """`items`: all that have not ended. Caps and room count the snapshots of every run."""
    datastores, hosts = places_of(vcenters)
    open_on = {place: _counts(vcenters, place) for place in ("datastore", "host")}
    ahead = {key: kb for vcenter in vcenters for key, kb in growth_ahead_kb(vcenter, run).items()}
    return Situation(
        free_at=_free_at(run, items, now),
        waiting=[queued_of(item) for item in items if item.state == ItemState.WAITING],
        snapshots_left_on_datastore={
            key: place.snapshots - open_on["datastore"].get(key, 0)
            for key, place in datastores.items()
            if place.snapshots is not None
        },
        snapshots_left_on_host={
            key: place.snapshots - open_on["host"].get(key, 0)
            for key, place in hosts.items()
            if place.snapshots is not None
        },
        room_kb={
            key: place.room_kb - ahead.get(key, 0.0) for key, place in datastores.items() if place.room_kb is not None
        },
        open_on=set(open_on["datastore"]),
        open_hosts=set(open_on["host"]),
    )


def _counts(vcenters: Iterable[VCenter], place: str) -> dict[str, int]:
    return {key: count for vcenter in vcenters for key, count in open_snapshots(vcenter, place).items()}


def _free_at(run: Run, items: Sequence[RunItem], now: datetime) -> list[float]:
    """Seconds until each reader is free, from what its archive was expected to take."""
    busy = [item for item in items if item.state in (ItemState.ARCHIVING, ItemState.REMOVING)]
    ahead = [
        max(item.expected_s - (now - item.archiving_at).total_seconds(), 0.1) if item.archiving_at else 0.1
        for item in busy
    ]
    return sorted([*ahead, *[0.0] * (run.readers - len(ahead))])[: run.readers] or [0.0]
