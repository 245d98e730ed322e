"""A recovery, carried out by one worker at a time; each step may be repeated after a kill."""

import logging
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import F, Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from backups.archive.reader import ArchiveReader
from backups.engine import recovering
from backups.errors import HotfirstError, Interrupted, NotFound, RecoveryRefused
from backups.events import publish
from backups.leases import DRAIN, Heartbeat, lease_fields, release
from backups.locks import DATABASE_AWAY
from backups.models import Recovery, RecoveryItem, VApp, Vm
from backups.models.recoveries import RecoveryMode, RecoveryState
from backups.platform import Platform, Target, VAppConfig
from backups.services import inventory
from backups.services.placements import placement_of
from backups.services.recoveries import end_recovery
from backups.services.repositories import open_store
from backups.services.tenants import reading_keys
from backups.services.vcenters import connect

log = logging.getLogger(__name__)
STEP_S = 3600
MAX_FAILURES = 3
HALF_DONE = " The VM is powered off and may be partly overwritten; recover it again."
RETRY_S = 20


class ItemWatch:
    """Progress goes to the item, and the signs to stop come from the recovery's heartbeat."""

    def __init__(self, beat: Heartbeat, item: RecoveryItem) -> None:
        self._beat, self._item, self._told_at = beat, item, timezone.now()

    def check(self) -> None:
        self._beat.check()

    def report(self, **progress: Any) -> None:
        now = timezone.now()
        if now - self._told_at > timedelta(seconds=0.5):
            self._told_at = now
            RecoveryItem.objects.filter(pk=self._item.pk).update(**progress)
            publish(self._item.recovery_id, {"item": str(self._item.pk), **progress})


def recover(recovery_id: str) -> None:
    recovery = None if DRAIN.value else _claim(recovery_id)
    if recovery is None:
        return
    try:
        with Heartbeat(recovery, should_stop=lambda: _cancelled(recovery)) as beat:
            with connect(recovery.vcenter) as platform:
                _carry_out(recovery, platform, beat)
        _take_over(recovery)
        end_recovery(recovery)
    except Interrupted as error:
        _take_interruption(recovery, error)
    except HotfirstError as error:
        _take_failure(recovery, error)
    except DATABASE_AWAY as error:
        log.warning("recovery %s stopped: %s", recovery.pk, error)
        connection.close()
    except Exception as error:
        log.exception("recovery %s", recovery.pk)
        told = f"An unexpected error stopped this recovery. Tell your provider the reference {recovery.pk}."
        _fail_rest(recovery, RecoveryState.ERRORED, told, type(error).__name__)


def _claim(recovery_id: str) -> Recovery | None:
    now = timezone.now()
    free = Q(lease_until=None) | Q(lease_until__lt=now)
    open_ones = Recovery.objects.filter(free, pk=recovery_id, state__in=(RecoveryState.QUEUED, RecoveryState.RUNNING))
    claimed = open_ones.update(
        state=RecoveryState.RUNNING,
        attempt=F("attempt") + 1,
        started_at=Coalesce("started_at", now),
        **lease_fields(),
    )
    found = Recovery.objects.select_related("vcenter", "tenant").filter(pk=recovery_id)
    return found.get() if claimed else None


def _cancelled(recovery: Recovery) -> str | None:
    cancelled = Recovery.objects.filter(pk=recovery.pk, cancelled=True).exists()
    return "The recovery was cancelled." if cancelled else None


def _carry_out(recovery: Recovery, platform: Platform, beat: Heartbeat) -> None:
    if told := _cancelled(recovery):
        raise Interrupted(told)
    items = list(recovery.items.select_related("archive__vm__vapp", "archive__repository"))
    if recovery.mode == RecoveryMode.AS_NEW and recovery.vapp_name and not recovery.vapp_ref:
        _make_vapp(recovery, platform, items[0])
    for item in items:
        if item.state in (RecoveryState.QUEUED, RecoveryState.RUNNING):
            # Powering and consolidating answer when vCenter is done.
            beat.expect_silence(STEP_S)
            _recover_item(recovery, item, platform, beat)
            beat.expect_silence(STEP_S)
    if recovery.vapp_ref:
        vm_refs = {item.archive.vm.instance_uuid: item.vm_ref for item in items if item.vm_ref}
        platform.configure_vapp(recovery.vapp_ref, _vapp_config(items[0]), vm_refs)
    if recovery.mode == RecoveryMode.AS_NEW and recovery.power_on:
        for item in items:
            if item.state == RecoveryState.SUCCEEDED:
                platform.power(item.vm_ref, True)


def _vapp_config(item: RecoveryItem) -> VAppConfig:
    kept = item.archive.vapp_config or {"name": item.archive.vapp_name, "settings": {}}
    return VAppConfig(name=kept["name"], settings=kept["settings"])


def _make_vapp(recovery: Recovery, platform: Platform, item: RecoveryItem) -> None:
    seen = platform.inventory()
    twin = next((vapp for vapp in seen.vapps if vapp.name == recovery.new_name), None)
    # A later attempt may find the empty one that an earlier one made.
    if twin and (recovery.attempt == 1 or any(vm.vapp_ref == twin.ref for vm in seen.vms)):
        raise RecoveryRefused(f"There is a vApp named {recovery.new_name} already; choose another name.")
    target = _target(recovery, platform, item, None)
    ref = platform.create_vapp(_vapp_config(item), recovery.new_name, target.host_ref)
    Recovery.objects.filter(pk=recovery.pk).update(vapp_ref=ref)
    recovery.vapp_ref = ref


def _target(recovery: Recovery, platform: Platform, item: RecoveryItem, vapp_ref: str | None) -> Target:
    vm = item.archive.vm
    return recovering.choose_target(
        platform,
        placement_of(recovery),
        host=vm.host,
        datastore=vm.datastore,
        vapp_ref=vapp_ref,
        bytes_needed=item.bytes_total if vapp_ref is not None else 0,
    )


def _recover_item(recovery: Recovery, item: RecoveryItem, platform: Platform, beat: Heartbeat) -> None:
    """One VM's failure is that VM's alone; what concerns the whole recovery is raised."""
    _set(item, state=RecoveryState.RUNNING, started_at=item.started_at or timezone.now())
    try:
        store = open_store(item.archive.repository)
        archive = ArchiveReader(store, reading_keys(recovery.tenant), str(item.archive_id))
        work = _as_new if recovery.mode == RecoveryMode.AS_NEW else _in_place
        done = work(recovery, item, platform, archive, ItemWatch(beat, item))
    except Interrupted:
        raise
    except HotfirstError as error:
        if error.retryable and recovery.failures + 1 < MAX_FAILURES:
            raise
        if recovery.mode == RecoveryMode.AS_NEW and item.vm_ref:
            platform.destroy_vm(item.vm_ref)  # half made, and nobody's
            _set(item, vm_ref="")
        told = f"{error}{HALF_DONE}" if item.was_powered_on is not None else str(error)
        _set(item, state=RecoveryState.FAILED, message=told, finished_at=timezone.now())
        return
    _set(
        item,
        state=RecoveryState.SUCCEEDED,
        vm_ref=done.vm_ref,
        bytes_done=item.bytes_total,
        bytes_written=done.bytes_written,
        finished_at=timezone.now(),
    )


def _as_new(
    recovery: Recovery, item: RecoveryItem, platform: Platform, archive: ArchiveReader, watch: ItemWatch
) -> recovering.Recovered:
    if not item.new_vm_name:
        taken = {vm.name for vm in platform.inventory().vms}
        wanted = item.vm_name if recovery.vapp_name else recovery.new_name or item.vm_name
        _set(item, new_vm_name=_free_name(wanted, taken, item.archive.backup_time))
    target = _target(recovery, platform, item, recovery.vapp_ref or None)
    config = recovering.connected_as(recovering.config_of(archive), placement_of(recovery))
    _set(item, warnings=list(platform.recovery_warnings(config, target)))
    return recovering.recover_as_new(
        platform,
        archive,
        config=config,
        name=item.new_vm_name,
        marker=str(item.pk),
        target=target,
        created=lambda vm_ref: _set(item, vm_ref=vm_ref),
        watch=watch,
    )


def _free_name(name: str, taken: set[str], backup_time: datetime) -> str:
    """vCenter wants names to differ within a folder."""
    if name not in taken:
        return name
    dated = f"{name}-{backup_time:%Y%m%d-%H%M}"
    candidates = [dated, *(f"{dated}-{number}" for number in range(2, len(taken) + 3))]
    return next(candidate for candidate in candidates if candidate not in taken)


def _in_place(
    recovery: Recovery, item: RecoveryItem, platform: Platform, archive: ArchiveReader, watch: ItemWatch
) -> recovering.Recovered:
    if not Vm.objects.filter(pk=item.archive.vm_id, tenant=recovery.tenant_id).exists():
        raise RecoveryRefused(f"{item.vm_name} no longer belongs to this tenant; recover it as new instead.")
    vm = next((v for v in platform.inventory().vms if v.uuid == item.archive.vm.instance_uuid), None)
    if vm is None:
        raise NotFound(f"{item.vm_name} is no longer in vCenter; recover it as new instead.")
    if any(snapshot.vm_ref == vm.ref for snapshot in platform.find_snapshots("")):
        raise RecoveryRefused(f"{item.vm_name} has snapshots; remove them first, or recover it as new.")
    if item.was_powered_on is None:
        # Kept before the power goes off, so that a later attempt still knows.
        _set(item, was_powered_on=vm.powered_on)
    platform.power(vm.ref, False)
    done = recovering.recover_in_place(platform, archive, vm_ref=vm.ref, watch=watch)
    if item.was_powered_on or recovery.power_on:
        platform.power(vm.ref, True)
    return done


def _set(item: RecoveryItem, **fields: Any) -> None:
    RecoveryItem.objects.filter(pk=item.pk).update(**fields)
    for name, value in fields.items():
        setattr(item, name, value)
    publish(item.recovery_id, {"item": str(item.pk), "state": item.state})


def _take_over(recovery: Recovery) -> None:
    """The new vApp and VMs belong to the tenant that recovered them."""
    if recovery.mode != RecoveryMode.AS_NEW:
        return
    try:
        inventory.refresh(recovery.vcenter)
    except HotfirstError as error:
        log.warning("inventory after recovery %s: %s", recovery.pk, error)
    refs = list(recovery.items.exclude(vm_ref="").values_list("vm_ref", flat=True))
    mine = {"vcenter": recovery.vcenter, "tenant": None}
    VApp.objects.filter(**mine, ref=recovery.vapp_ref).update(tenant=recovery.tenant)
    Vm.objects.filter(**mine, ref__in=refs).update(tenant=recovery.tenant)


def _take_interruption(recovery: Recovery, error: Interrupted) -> None:
    if _cancelled(recovery):
        _clean_up(recovery)
        _fail_rest(recovery, RecoveryState.CANCELLED, str(error), "")
    release(recovery)


def _clean_up(recovery: Recovery) -> None:
    """A half-made new VM is deleted. A VM half recovered in place cannot be taken back, and says so."""
    half_done = recovery.items.filter(state=RecoveryState.RUNNING)
    if recovery.mode == RecoveryMode.IN_PLACE:
        told = "Cancelled in the middle: the VM is powered off and partly overwritten. Recover it again."
        half_done.update(message=told)
        return
    with connect(recovery.vcenter) as platform:
        for item in half_done:
            if item.vm_ref:
                platform.destroy_vm(item.vm_ref)


def _take_failure(recovery: Recovery, error: HotfirstError) -> None:
    if error.retryable and recovery.failures + 1 < MAX_FAILURES:
        later = timezone.now() + timedelta(seconds=RETRY_S)
        recovery.mine().update(failures=F("failures") + 1, message=str(error), lease_owner="", lease_until=later)
        publish(recovery.pk, {"message": str(error)})
    else:
        _fail_rest(recovery, RecoveryState.FAILED, str(error), error.code)


def _fail_rest(recovery: Recovery, state: str, told: str, code: str) -> None:
    if not recovery.mine().exists():
        return  # another worker has taken this over
    open_items = recovery.items.filter(state__in=(RecoveryState.QUEUED, RecoveryState.RUNNING))
    open_items.filter(message="").update(message=told)
    open_items.update(state=state, finished_at=timezone.now())
    recovery.message, recovery.error_code = told, code
    Recovery.objects.filter(pk=recovery.pk).update(error_code=code)
    end_recovery(recovery)
