"""What the demo shows: a run in the order of load, a second one of changes alone, a vApp recovered and compared.

Each part raises CommandError with the reason if it did not go as the product promises.
"""

import time
from collections.abc import Callable
from itertools import pairwise

from django.core.management.base import CommandError

from backups.archive.reader import ArchiveReader
from backups.engine.recovering import differences
from backups.models import Archive, Plan, Recovery, Run, RunItem
from backups.models.recoveries import RECOVERY_FINAL, RecoveryMode, RecoveryState
from backups.models.runs import RUN_FINAL, ItemState, RunState
from backups.services.recoveries import recovery_points, start_recovery
from backups.services.repositories import open_store
from backups.services.runs import start_run
from backups.services.tenants import reading_keys
from backups.services.vcenters import connect
from portal.demo.world import World

Say = Callable[[str], None]
TIMEOUT_S = 120
MAX_SECOND_RUN_SHARE = 0.05


def run_to_the_end(world: World, plan: Plan, say: Say) -> Run:
    run = start_run(world.provider, plan)
    say(f"\nRun of “{plan.name}” for {plan.tenant}: {run.items.count()} VMs, {run.readers} readers, busiest first")
    said: dict[str, str] = {}
    _until(lambda: _tell_items(run, said, say) and _reload(run).state in RUN_FINAL, f"the run of {plan.tenant}")
    if run.state != RunState.SUCCEEDED:
        failed = run.items.exclude(state=ItemState.SUCCEEDED)
        raise CommandError("\n".join([run.message, *(f"{i.vm_name}: {i.state} {i.message}" for i in failed)]))
    _tell_report(run, say)
    return run


def _tell_items(run: Run, said: dict[str, str], say: Say) -> bool:
    for item in run.items.exclude(position=None).order_by("position"):
        if said.get(item.vm_name) == item.state:
            continue
        if item.vm_name not in said:
            say(f"  {item.position:2}. {item.vm_name:16} writes {item.load_kbps:8.1f} KB/s   reader {item.reader}")
        if item.state == ItemState.SUCCEEDED:
            _tell_done(item, say)
        said[item.vm_name] = item.state
    return True


def _tell_done(item: RunItem, say: Say) -> None:
    kind = "all" if item.archive and item.archive.full else "changes"
    read, stored = (item.bytes_read or 0) / 2**20, (item.bytes_stored or 0) / 2**20
    say(
        f"      {item.vm_name:16} held {item.hold_s or 0:6.1f} s, grew {(item.exposure_kb or 0) / 1024:7.2f} MiB; "
        f"read {kind}: {read:.1f} MiB, stored {stored:.1f} MiB"
    )


def _tell_report(run: Run, say: Say) -> None:
    say(f"  {run.message} Snapshots taken within {run.report['skew_s']:.2f} s of one another.")
    told = {"by name": "name", "in random order": "random"}
    others = ", ".join(f"{words} {run.report['orders'][order] / 1024:.1f} MiB" for words, order in told.items())
    bound = f"no order does better than {run.report['bound_kb'] / 1024:.1f} MiB"
    say(f"  Exposure: {run.report['exposure_kb'] / 1024:.1f} MiB of snapshot growth; {bound}.")
    say(f"  With the same durations {others}.")


def check_order(run: Run) -> None:
    """Archived in strictly falling order of load; each snapshot gone before its reader's next archive began."""
    items = list(run.items.order_by("position"))
    for before, after in pairwise(items):
        if before.load_kbps <= after.load_kbps:
            raise CommandError(f"{after.vm_name} was archived after {before.vm_name}, which writes less.")
    for reader in {item.reader for item in items}:
        mine = sorted((i for i in items if i.reader == reader), key=lambda i: i.archiving_at)  # type: ignore[arg-type,return-value]
        for before, after in pairwise(mine):
            if not before.removed_at or not after.archiving_at or before.removed_at > after.archiving_at:
                raise CommandError(
                    f"Reader {reader} began {after.vm_name} before it removed {before.vm_name}'s snapshot."
                )


def check_no_snapshots(world: World) -> None:
    with connect(world.vcenter) as platform:
        left = platform.find_snapshots("hotfirst-")
    if left:
        raise CommandError(f"{len(left)} snapshots were left behind.")


def check_changes_only(first: Run, second: Run, say: Say) -> None:
    read = [sum(item.bytes_read for item in run.items.all()) for run in (first, second)]
    share = read[1] / read[0]
    say(f"  The second run read {share:.1%} of what the first did.")
    if share > MAX_SECOND_RUN_SHARE:
        raise CommandError(f"The second run read {share:.1%} of what the first did; it should read changes alone.")


def recover_vapp(world: World, plan: Plan, vapp_name: str, say: Say) -> None:
    point = recovery_points(plan.tenant, vapp_name)[0]
    new_name = f"{vapp_name}-recovered"
    say(f"\nRecovering the vApp {vapp_name} of {plan.tenant} as {new_name}, as of {point.backup_time:%H:%M:%S} UTC")
    recovery = start_recovery(
        world.provider,
        plan.tenant,
        point.archives,
        mode=RecoveryMode.AS_NEW,
        vapp_name=vapp_name,
        new_name=new_name,
    )
    _until(lambda: _reload_recovery(recovery).state in RECOVERY_FINAL, "the recovery")
    if recovery.state != RecoveryState.SUCCEEDED:
        raise CommandError("\n".join([recovery.message, *(f"{i.vm_name}: {i.message}" for i in recovery.items.all())]))
    for item in recovery.items.select_related("archive"):
        _compare(world, item.archive, item.vm_ref)
        say(f"  {item.vm_name:16} equals its archive, byte for byte ({item.bytes_total / 2**20:.0f} MiB)")


def _compare(world: World, archive: Archive, vm_ref: str) -> None:
    reader = ArchiveReader(open_store(archive.repository), reading_keys(archive.tenant), str(archive.pk))
    with connect(world.vcenter) as platform:
        found = differences(platform, reader, vm_ref)
    if found:
        raise CommandError(f"{archive.vm_name} is not as it was archived: {'; '.join(found)}")


def _reload(run: Run) -> Run:
    run.refresh_from_db()
    return run


def _reload_recovery(recovery: Recovery) -> Recovery:
    recovery.refresh_from_db()
    return recovery


def _until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not done():
        if time.monotonic() > deadline:
            raise CommandError(f"After {TIMEOUT_S} s {what} has not ended; see worker.log.")
        time.sleep(0.3)
