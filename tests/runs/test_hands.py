"""What changes hands or is overwritten while runs and recoveries go on."""

import pytest

from backups.errors import Conflict, InvalidRequest
from backups.models import Archive, Plan, Recovery, Tenant, VApp, Vm
from backups.models.recoveries import RecoveryState
from backups.services.inventory import assign_vapp, refresh
from backups.services.recoveries import recovery_points, start_recovery
from backups.services.runs import start_run
from backups.tasks.coordinate import coordinate
from backups.tasks.read import claim
from backups.tasks.recover import recover
from tests.fakes.platform import FakePlatform

pytestmark = pytest.mark.django_db(transaction=True)


def newest(plan: Plan) -> list[Archive]:
    return recovery_points(plan.tenant, "shop")[0].archives


def test_after_a_recovery_in_place_everything_is_read(plan: Plan, finish) -> None:
    """Files put on a datastore go past change tracking, so nothing it says since can be believed."""
    finish(start_run(None, plan))
    recovery = start_recovery(None, plan.tenant, newest(plan), mode="in_place", vapp_name="shop")
    recover(str(recovery.pk))
    run = finish(start_run(None, plan))
    assert {item.archive.full_reason for item in run.items.all()} == {
        "The VM was recovered in place since its last archive."
    }


def test_a_vm_that_changed_hands_is_not_archived_for_its_old_tenant(plan: Plan, globex: Tenant, finish) -> None:
    run = start_run(None, plan)
    assign_vapp(None, VApp.objects.get(name="shop"), globex)
    finish(run)
    assert {item.state for item in run.items.all()} == {"skipped"}
    assert not Archive.objects.exists()


def test_a_vm_that_changes_hands_after_its_snapshot_is_not_archived_either(
    plan: Plan, globex: Tenant, platform: FakePlatform, finish
) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    assign_vapp(None, VApp.objects.get(name="shop"), globex)
    finish(run)
    assert not Archive.objects.exists()
    assert platform.find_snapshots("") == []


def test_a_vm_of_another_tenant_by_now_is_not_overwritten(plan: Plan, globex: Tenant, finish) -> None:
    finish(start_run(None, plan))
    queued = start_recovery(None, plan.tenant, newest(plan), mode="in_place", vapp_name="shop")
    assign_vapp(None, VApp.objects.get(name="shop"), globex)
    recover(str(queued.pk))
    queued.refresh_from_db()
    assert queued.state == RecoveryState.FAILED
    with pytest.raises(InvalidRequest, match="no longer belongs"):
        start_recovery(None, plan.tenant, newest(plan), mode="in_place", vapp_name="shop")


def test_two_recoveries_never_share_a_new_vapp(plan: Plan, platform: FakePlatform, finish) -> None:
    finish(start_run(None, plan))
    order = {"mode": "as_new", "vapp_name": "shop", "new_name": "copy"}
    first = start_recovery(None, plan.tenant, newest(plan), **order)
    with pytest.raises(Conflict, match="already"):
        start_recovery(None, plan.tenant, newest(plan), **order)
    platform.add_vapp("copy")
    recover(str(first.pk))
    assert Recovery.objects.get(pk=first.pk).state == RecoveryState.FAILED


def test_an_archive_is_never_based_on_a_later_one(plan: Plan, platform: FakePlatform, finish) -> None:
    finish(start_run(None, plan))
    Archive.objects.update(backup_time="2999-01-01T00:00Z")
    run = finish(start_run(None, plan))
    assert all(item.archive.full for item in run.items.all())


def test_a_reader_that_removes_a_snapshot_still_counts_as_busy(plan: Plan, monkeypatch) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    first = claim()
    assert first
    first.transition("removing", outcome="succeeded")
    assert claim() is None, "the plan allows one reader"


def test_a_vm_moved_into_another_tenants_vapp_loses_its_plan(
    plan: Plan, globex: Tenant, platform: FakePlatform, vcenter
) -> None:
    theirs = platform.add_vapp("theirs")
    refresh(vcenter)
    assign_vapp(None, VApp.objects.get(name="theirs"), globex)
    Vm.objects.filter(name="shop-db").update(plan=plan)
    platform.move("shop-db", theirs)
    refresh(vcenter)
    moved = Vm.objects.get(name="shop-db")
    assert (moved.tenant, moved.plan) == (globex, None)
