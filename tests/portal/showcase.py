"""Fills an empty installation with what its screens show best: a finished run, one in the middle, a recovery.

`HOTFIRST_HOME=FOLDER DJANGO_SETTINGS_MODULE=portal.settings python -m tests.portal.showcase` prints the ids as JSON.
"""

import heapq
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

LOADS = (
    ("orders-db", "acme-shop", 6420, 96),
    ("mail-store", "acme-office", 4810, 120),
    ("erp-db", "acme-erp", 3150, 84),
    ("search-1", "acme-shop", 2240, 40),
    ("logs", "acme-ops", 1890, 66),
    ("erp-app", "acme-erp", 960, 36),
    ("web-1", "acme-shop", 610, 24),
    ("web-2", "acme-shop", 540, 25),
    ("files", "acme-office", 395, 150),
    ("ci-runner", "acme-ops", 260, 48),
    ("wiki", "", 120, 22),
    ("intranet", "acme-office", 64, 30),
    ("jumphost", "", 18, 12),
    ("archive-old", "", 3, 58),
)
"""VM, vApp, writes in KB/s, GB."""
READERS = 3
READ_GB_S = 0.35
PASSWORD = "hotfirst showcase"
GB = 2**30


@dataclass(frozen=True)
class Times:
    position: int
    reader: int
    archiving_s: float
    archived_s: float
    removed_s: float


def schedule(share: float) -> list[Times]:
    """When each VM, the busiest first, is archived by the reader that is free first. `share`: how much is read."""
    free = [(4.0, reader) for reader in range(1, READERS + 1)]
    times = []
    for position, (_, _, load_kbps, size_gb) in enumerate(LOADS, start=1):
        begin, reader = heapq.heappop(free)
        archived = begin + 2 + size_gb * share / READ_GB_S
        removed = archived + 1 + load_kbps / 1500
        heapq.heappush(free, (removed + 0.4, reader))
        times.append(Times(position, reader, begin, archived, removed))
    return times


def make_world() -> dict[str, Any]:
    from django.contrib.auth.models import User

    from backups.models import Repository, Role, VCenter
    from backups.services.tenants import create_tenant, set_membership

    peggy = User.objects.create_user("peggy", password=PASSWORD, is_staff=True)
    tenants = {name: create_tenant(peggy, name) for name in ("Acme", "Globex")}
    for name, tenant, role in (
        ("alice", "Acme", Role.ADMIN),
        ("charlie", "Acme", Role.VIEWER),
        ("bob", "Globex", Role.ADMIN),
    ):
        set_membership(peggy, tenants[tenant], User.objects.create_user(name, password=PASSWORD), role)
    vcenter = VCenter.objects.create(
        name="Lab", host="vc.example", username="backup", sealed_password=b"", certificate_pem="-",
        snapshots_per_datastore=12, latency_slow_ms=20, latency_stop_ms=40,
    )  # fmt: skip
    repository = Repository.objects.create(name="Hall 2", path="/srv/backups")
    return {"tenant": tenants["Acme"], "globex": tenants["Globex"], "vcenter": vcenter, "repository": repository}


def make_vms(world: dict[str, Any]) -> list[Any]:
    from backups.models import VApp, Vm

    vapps = {
        name: VApp.objects.create(vcenter=world["vcenter"], tenant=world["tenant"], ref=f"resgroup-{name}", name=name)
        for name in sorted({vapp for _, vapp, _, _ in LOADS if vapp})
    }
    for number in range(1, 3):
        Vm.objects.create(
            vcenter=world["vcenter"], instance_uuid=f"n{number}", ref=f"vm-n{number}", name=f"new-{number}"
        )
    return [
        Vm.objects.create(
            vcenter=world["vcenter"],
            tenant=world["tenant"],
            vapp=vapps.get(vapp),
            instance_uuid=name,
            ref=f"vm-{name}",
            name=name,
            host=f"esx-{number % 3 + 1}",
            datastore=("fast-1", "fast-2", "bulk-1")[number % 3],
            powered_on=load_kbps > 5,
            capacity_bytes=size_gb * GB,
            write_kbps=load_kbps,
        )
        for number, (name, vapp, load_kbps, size_gb) in enumerate(LOADS)
    ]


def make_datastores(world: dict[str, Any], now: datetime) -> None:
    for name, capacity_gb, free_gb, latency_ms in (
        ("bulk-1", 8192, 1420, 24.0), ("fast-1", 4096, 902, 2.1), ("fast-2", 4096, 446, 3.4),
    ):  # fmt: skip
        world["vcenter"].datastores.create(
            name=name, capacity_bytes=capacity_gb * GB, free_bytes=free_gb * GB, latency_ms=latency_ms, measured_at=now
        )


def make_plans(world: dict[str, Any], vms: list[Any]) -> Any:
    from backups.models import VApp
    from backups.services.plans import apply_plan, create_plan

    common = {"repository": world["repository"], "readers": READERS, "time_zone": "Europe/Berlin"}
    nightly = create_plan(None, world["tenant"], name="Nightly", cron="0 22 * * *", **common)
    create_plan(None, world["tenant"], name="Before maintenance", cron="", **common)
    vapps = VApp.objects.for_tenant(world["tenant"]).exclude(name="acme-ops")
    apply_plan(None, nightly, vapps=vapps, vms=[vm for vm in vms if vm.name in ("wiki", "jumphost")])
    return nightly


def make_run(world: dict[str, Any], plan: Any, vms: list[Any], *, begun: datetime, full: bool, until_s: float) -> Any:
    """A run as it stood `until_s` seconds after its snapshots."""
    from backups.models import Run
    from backups.report import Done, report

    copied = {name: getattr(plan, name) for name in ("repository", "policy", "batch_size", "readers", "quiesce")}
    run = Run.objects.create(
        tenant=plan.tenant, plan=plan, plan_name=plan.name, state="running", started_at=begun, **copied
    )
    share = 1.0 if full else 0.11
    items = [
        make_item(world, run, vm, time, begun, full, share, until_s)
        for vm, time in zip(vms, schedule(share), strict=True)
    ]
    foretell(run, items, share)
    if any(item.state != "succeeded" for item in items):
        return run
    done = [
        Done(
            id=str(i.pk),
            name=i.vm_name,
            load_kbps=i.load_kbps,
            snapshot_at=i.snapshot_at,
            archiving_at=i.archiving_at,
            removed_at=i.removed_at,
        )
        for i in items
    ]
    end = max(i.removed_at for i in items)
    fields = {"report": report(done, READERS), "message": f"{len(items)} of {len(items)} VMs backed up."}
    Run.objects.filter(pk=run.pk).update(state="succeeded", finished_at=end, created_at=begun, **fields)
    return run


def foretell(run: Any, items: list[Any], share: float) -> None:
    """As a forecast before the run would have had it: a little less than it turned out."""
    from backups.ordering import Candidate, exposure_bound_kb

    expected = {item.vm_name: time for item, time in zip(items, schedule(share * 0.93), strict=True)}
    holds = {item: expected[item.vm_name].removed_s for item in items}
    vms = {
        str(item.pk): {"hold_s": round(hold_s, 1), "growth_kb": round(hold_s * item.load_kbps, 1)}
        for item, hold_s in holds.items()
    }
    candidates = [
        Candidate(id=name, name=name, load_kbps=load_kbps, expected_s=2 + size_gb * share / READ_GB_S)
        for name, _, load_kbps, size_gb in LOADS
    ]
    run.forecast = {
        "policy": run.policy, "batch_size": run.batch_size, "readers": READERS, "batches": 1, "vms": vms,
        "exposure_kb": sum(vm["growth_kb"] for vm in vms.values()), "longest_hold_s": max(holds.values()),
        "window_s": max(holds.values()), "bound_kb": exposure_bound_kb(candidates, READERS), "peak_kb": {},
        "short_kb": {},
    }  # fmt: skip
    run.save(update_fields=["forecast"])


def make_item(
    world: dict[str, Any], run: Any, vm: Any, time: Times, begun: datetime, full: bool, share: float, until_s: float
) -> Any:
    from backups.models import RunItem

    def at(second: float) -> datetime | None:
        return begun + timedelta(seconds=second) if second <= until_s else None

    size = int(vm.capacity_bytes * share)
    done = min(max((until_s - time.archiving_s) / (time.archived_s - time.archiving_s), 0), 1)
    item = RunItem(
        run=run, tenant=run.tenant, vm=vm, vm_name=vm.name, vapp_name=vm.vapp.name if vm.vapp else "",
        load_kbps=vm.write_kbps, priority=vm.write_kbps, batch=1, bytes_total=vm.capacity_bytes, bytes_expected=size,
        host=vm.host, datastore=vm.datastore, load=vm.write_kbps, load_at=begun,
        load_reason=f"{vm.write_kbps:,.0f} KB/s at this hour, as in the last days",
        snapshot_at=begun + timedelta(seconds=1 + time.position % 3 / 5), state="waiting", quiesced=True,
    )  # fmt: skip
    if at(time.archiving_s):
        item.position, item.reader, item.state = time.position, time.reader, "archiving"
        item.archiving_at, item.bytes_read = at(time.archiving_s), int(size * done)
        item.transport = "datastore HTTPS, the quickest that answered"
        item.bytes_new, item.bytes_stored = int(item.bytes_read * 0.62), int(item.bytes_read * 0.31)
    if at(time.archived_s):
        item.state, item.archived_at, item.removing_at = "removing", at(time.archived_s), at(time.archived_s)
        item.reason = "" if not full else "The VM has no archive yet."
        item.archive = make_archive(world, run, vm, item, full)
    if at(time.removed_s):
        item.state = item.outcome = "succeeded"
        item.removed_at = item.finished_at = at(time.removed_s)
        item.grown_bytes = int(vm.write_kbps * 1024 * time.removed_s * 0.97)
    item.save()
    make_record(world, item)
    return item


def make_archive(world: dict[str, Any], run: Any, vm: Any, item: Any, full: bool) -> Any:
    from backups.models import Archive

    return Archive.objects.create(
        tenant=run.tenant, repository=world["repository"], vm=vm, run=run, vm_name=vm.name, vapp_name=item.vapp_name,
        backup_time=item.snapshot_at, full=full, full_reason=item.reason, bytes_total=vm.capacity_bytes,
        bytes_read=item.bytes_read, bytes_new=item.bytes_new, bytes_stored=item.bytes_stored,
    )  # fmt: skip


def make_record(world: dict[str, Any], item: Any) -> None:
    from backups.models import SnapshotRecord

    name = f"hotfirst-{item.pk}-1"
    record = SnapshotRecord(name=name, vcenter=world["vcenter"], vm_ref=item.vm.ref, item=item)
    record.removed_at = item.removed_at
    record.save()
    SnapshotRecord.objects.filter(pk=record.pk).update(created_at=item.snapshot_at)


def make_recovery(world: dict[str, Any], run: Any, now: datetime) -> Any:
    from backups.models import Archive, Recovery, RecoveryItem

    recovery = Recovery.objects.create(
        tenant=world["tenant"], vcenter=world["vcenter"], mode="as_new", vapp_name="acme-shop",
        new_name="acme-shop-recovered", state="running", started_at=now - timedelta(seconds=140),
    )  # fmt: skip
    archives = Archive.objects.for_tenant(world["tenant"]).filter(run=run, vapp_name="acme-shop").order_by("vm_name")
    for archive, share in zip(archives, (1.0, 0.44, 0, 0), strict=True):
        RecoveryItem.objects.create(
            recovery=recovery, tenant=world["tenant"], archive=archive, vm_name=archive.vm_name,
            new_vm_name=f"{archive.vm_name}-20261123-2100" if share else "", bytes_total=archive.bytes_total,
            state="succeeded" if share == 1 else "running" if share else "queued",
            bytes_done=int(archive.bytes_total * share), bytes_written=int(archive.bytes_total * share * 0.7),
        )  # fmt: skip
    return recovery


def build(now: datetime) -> dict[str, str]:
    from backups.models import Archive, Run, RunItem

    world = make_world()
    make_datastores(world, now)
    vms = make_vms(world)
    plan = make_plans(world, vms)
    first = make_run(world, plan, vms, begun=now - timedelta(days=2), full=True, until_s=1e6)
    second = make_run(world, plan, vms, begun=now - timedelta(days=1), full=False, until_s=1e6)
    Archive.objects.for_tenant(world["tenant"]).filter(run=first).update(verified_at=now - timedelta(hours=9))
    broken = RunItem.objects.for_tenant(world["tenant"]).filter(run=second, vm_name="ci-runner")
    broken.update(state="failed", message="vCenter could not take a snapshot: the datastore has no room left.")
    Run.objects.filter(pk=second.pk).update(state="failed", message="13 of 14 VMs backed up.")
    going = make_run(world, plan, vms, begun=now - timedelta(seconds=62), full=False, until_s=62)
    slow = "bulk-1 answers in 44 ms; nothing new starts there above 40 ms."
    RunItem.objects.for_tenant(world["tenant"]).filter(run=going, vm_name="archive-old").update(held_back=slow)
    recovery = make_recovery(world, first, now)
    return {
        "tenant": str(world["tenant"].pk),
        "plan": str(plan.pk),
        "finished": str(first.pk),
        "changes": str(second.pk),
        "running": str(going.pk),
        "recovery": str(recovery.pk),
        "vcenter": str(world["vcenter"].pk),
        "archive": str(Archive.objects.for_tenant(world["tenant"]).earliest("backup_time").pk),
        "vm": str(vms[0].pk),
        "password": PASSWORD,
    }


if __name__ == "__main__":
    import django

    django.setup()
    from django.core.management import call_command
    from django.utils import timezone

    call_command("migrate", verbosity=0)
    print(json.dumps(build(timezone.now())))
