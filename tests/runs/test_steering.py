"""A run while it goes on: paused, resumed, its order changed by hand, and what failed tried again."""

import pytest

from backups.errors import Conflict, InvalidRequest, SnapshotFailed
from backups.models import AuditEntry, Plan, RunItem, SnapshotRecord, Tenant
from backups.models.runs import ItemState, RunState
from backups.services.plans import create_plan
from backups.services.runs import start_run
from backups.services.steering import cancel_run, pause_run, raise_item, resume_run, retry_run
from backups.tasks.coordinate import coordinate
from backups.tasks.read import claim, read_waiting
from backups.tasks.tick import tick
from tests.fakes.platform import FakePlatform

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_paused_run_holds_no_snapshot_and_archives_nothing(plan: Plan, platform: FakePlatform, alice) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    pause_run(alice, run)
    read_waiting()
    coordinate(str(run.pk))
    tick()
    read_waiting()
    assert platform.find_snapshots("") == []
    assert set(run.items.values_list("state", flat=True)) == {ItemState.QUEUED}
    assert "Paused" in run.items.first().reason
    assert AuditEntry.objects.filter(action="run.pause", actor=alice).exists()


def test_an_archive_that_is_being_written_goes_on_while_the_run_pauses(plan: Plan, platform: FakePlatform) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    current = claim()
    assert current
    pause_run(None, run)
    assert claim().state == ItemState.REMOVING, "the next thing to do is to give a snapshot back"
    current.refresh_from_db()
    assert current.state == ItemState.ARCHIVING


def test_a_resumed_run_snapshots_anew_and_succeeds(plan: Plan, platform: FakePlatform, finish) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    first_times = set(run.items.values_list("snapshot_at", flat=True))
    pause_run(None, run)
    read_waiting()
    resume_run(None, run)
    finish(run)
    assert run.state == RunState.SUCCEEDED
    assert not first_times & set(run.items.values_list("snapshot_at", flat=True))
    assert all(held > 0 for held in run.items.values_list("earlier_hold_s", flat=True))
    assert platform.find_snapshots("") == []
    assert not SnapshotRecord.objects.filter(removed_at=None).exists()


def test_pausing_twice_and_resuming_what_runs_are_refused(plan: Plan, finish) -> None:
    run = start_run(None, plan)
    with pytest.raises(Conflict, match="not paused"):
        resume_run(None, run)
    pause_run(None, run)
    with pytest.raises(Conflict, match="paused already"):
        pause_run(None, run)
    resume_run(None, run)
    finish(run)
    with pytest.raises(Conflict, match="ended"):
        pause_run(None, run)


def test_a_paused_run_can_be_cancelled(plan: Plan, platform: FakePlatform, finish) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    pause_run(None, run)
    cancel_run(None, run, "now")
    finish(run)
    assert run.state == RunState.CANCELLED
    assert platform.find_snapshots("") == []


def test_a_vm_raised_by_hand_is_the_next(plan: Plan, finish, alice) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    raise_item(alice, run.items.get(vm_name="shop-idle"))
    finish(run)
    assert run.items.get(position=1).vm_name == "shop-idle"
    assert AuditEntry.objects.filter(action="run.raise", actor=alice).exists()
    with pytest.raises(Conflict, match="does not wait"):
        raise_item(alice, run.items.get(vm_name="shop-idle"))


def test_what_failed_is_tried_again_in_a_run_of_its_own(plan: Plan, platform: FakePlatform, finish) -> None:
    platform.fail_next("create_snapshot", SnapshotFailed("The guest did not answer."))
    run = finish(start_run(None, plan))
    failed = run.items.get(state=ItemState.FAILED)
    again = finish(retry_run(None, run))
    assert again.retry_of == run
    assert [item.vm_id for item in again.items.all()] == [failed.vm_id]
    assert again.state == RunState.SUCCEEDED
    with pytest.raises(InvalidRequest, match="nothing to retry"):
        retry_run(None, again)


def test_a_run_that_goes_on_or_whose_plan_is_gone_cannot_be_retried(plan: Plan, platform: FakePlatform, finish) -> None:
    platform.fail_next("create_snapshot", SnapshotFailed("The guest did not answer."))
    run = start_run(None, plan)
    with pytest.raises(Conflict, match="still going on"):
        retry_run(None, run)
    finish(run)
    plan.delete()
    run.refresh_from_db()
    with pytest.raises(InvalidRequest, match="has been deleted"):
        retry_run(None, run)


def test_readers_are_shared_between_tenants_without_idling(plan: Plan, globex: Tenant, platform: FakePlatform) -> None:
    """Acme's run waits with three VMs, then Globex comes with one of the least load: he is not made to wait."""
    Plan.objects.filter(pk=plan.pk).update(readers=4)
    plan.refresh_from_db()
    acme_run = start_run(None, plan)
    coordinate(str(acme_run.pk))
    assert claim().tenant_id == plan.tenant_id
    RunItem.objects.filter(run=acme_run, vm_name="shop-idle").update(tenant=globex)
    assert claim().tenant_id == globex.pk
    assert claim().tenant_id == plan.tenant_id, "nobody else waits, so no reader idles"
    assert create_plan(None, globex, name="His own", repository=plan.repository)
