from datetime import timedelta
from itertools import pairwise

import pytest
from django.utils import timezone

from backups.errors import Conflict, InvalidRequest, LoginFailed, NotFound, PlatformUnreachable, SnapshotFailed
from backups.models import Archive, Plan, RunItem, SnapshotRecord, Tenant
from backups.models.runs import ItemState, RunState
from backups.services.plans import create_plan, revoke_plan
from backups.services.repositories import open_store
from backups.services.runs import start_run
from backups.services.steering import cancel_run
from backups.tasks.coordinate import coordinate
from backups.tasks.read import claim, read_waiting
from backups.tasks.tick import tick
from tests.fakes.platform import FakePlatform

pytestmark = pytest.mark.django_db(transaction=True)


def names(platform: FakePlatform, call: str) -> list[str]:
    return [entry[1] for entry in platform.calls if entry[0] == call]


def test_vms_are_archived_busiest_first(plan: Plan, finish) -> None:
    run = finish(start_run(None, plan))
    assert run.state == RunState.SUCCEEDED
    assert [i.vm_name for i in run.items.order_by("position")] == ["shop-db", "shop-web", "shop-idle"]


def test_all_snapshots_are_taken_before_the_first_archive_begins(plan: Plan, finish) -> None:
    items = finish(start_run(None, plan)).items.all()
    assert max(i.snapshot_at for i in items) <= min(i.archiving_at for i in items)


def test_each_snapshot_is_gone_before_its_reader_takes_the_next_vm(plan: Plan, finish) -> None:
    items = list(finish(start_run(None, plan)).items.order_by("position"))
    for before, after in pairwise(items):
        assert before.removed_at <= after.archiving_at


def test_no_snapshot_and_no_open_journal_row_is_left(plan: Plan, platform: FakePlatform, finish) -> None:
    finish(start_run(None, plan))
    assert platform.find_snapshots("") == []
    assert not SnapshotRecord.objects.filter(removed_at=None).exists()


def test_the_backup_time_is_the_snapshots_time(plan: Plan, finish) -> None:
    for item in finish(start_run(None, plan)).items.all():
        assert item.archive.backup_time == item.snapshot_at


def test_a_second_run_reads_only_what_changed(plan: Plan, platform: FakePlatform, finish) -> None:
    finish(start_run(None, plan))
    vm = next(v for v in platform.inventory().vms if v.name == "shop-web")
    platform.write(vm.ref, 2000, 300_000, b"new")
    second = finish(start_run(None, plan))
    changed = second.items.get(vm_name="shop-web")
    assert not changed.archive.full
    assert changed.bytes_read == 2**18
    assert second.items.get(vm_name="shop-idle").bytes_read == 0


def test_the_first_archive_says_why_it_is_a_full_one(plan: Plan, finish) -> None:
    item = finish(start_run(None, plan)).items.first()
    assert item.archive.full
    assert "first archive" in item.archive.full_reason


def test_a_plan_without_vms_is_told_what_to_do(acme: Tenant, plan: Plan) -> None:
    empty = create_plan(None, acme, name="Empty", repository=plan.repository)
    with pytest.raises(InvalidRequest, match="apply it to a vApp"):
        start_run(None, empty)


def test_a_plan_runs_once_at_a_time(plan: Plan) -> None:
    start_run(None, plan)
    with pytest.raises(Conflict, match="going on"):
        start_run(None, plan)


def test_one_failed_snapshot_fails_that_vm_alone(plan: Plan, platform: FakePlatform, finish) -> None:
    platform.fail_next("create_snapshot", SnapshotFailed("The guest did not answer."))
    run = finish(start_run(None, plan))
    assert run.state == RunState.FAILED
    assert run.message == "2 of 3 VMs backed up."
    assert sorted(i.state for i in run.items.all()) == ["failed", "succeeded", "succeeded"]
    assert platform.find_snapshots("") == []


def test_a_vm_that_vanished_fails_with_a_sentence(plan: Plan, platform: FakePlatform, finish) -> None:
    vm = next(v for v in platform.inventory().vms if v.name == "shop-web")
    platform.destroy_vm(vm.ref)
    run = finish(start_run(None, plan))
    gone = run.items.get(vm_name="shop-web")
    assert gone.state == ItemState.FAILED
    assert gone.error_code == NotFound.code
    assert gone.message


def test_a_wrong_password_ends_the_run_at_once_with_its_sentence(plan: Plan, monkeypatch, finish) -> None:
    def refuse(_: object) -> FakePlatform:
        raise LoginFailed("vCenter did not accept the password; change it under vCenters.")

    monkeypatch.setattr("tests.runs.conftest.connect", refuse)
    run = finish(start_run(None, plan))
    assert run.state == RunState.FAILED
    assert {i.message for i in run.items.all()} == {"vCenter did not accept the password; change it under vCenters."}


def test_an_unreachable_vcenter_is_tried_again_later(plan: Plan, monkeypatch) -> None:
    def refuse(_: object) -> FakePlatform:
        raise PlatformUnreachable("vCenter cannot be reached.")

    monkeypatch.setattr("tests.runs.conftest.connect", refuse)
    run = start_run(None, plan)
    coordinate(str(run.pk))
    run.refresh_from_db()
    assert run.state == RunState.RUNNING
    assert run.message == "vCenter cannot be reached."
    assert set(run.items.values_list("state", flat=True)) == {ItemState.QUEUED}


def test_a_cancelled_run_leaves_no_snapshot(plan: Plan, platform: FakePlatform, finish) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    assert len(platform.find_snapshots("hotfirst-")) == 3
    cancel_run(None, run, "now")
    finish(run)
    assert run.state == RunState.CANCELLED
    assert platform.find_snapshots("") == []


def test_batches_are_taken_one_after_the_other(plan: Plan, platform: FakePlatform, finish) -> None:
    Plan.objects.filter(pk=plan.pk).update(batch_size=1)
    plan.refresh_from_db()
    revoke_plan(None, plan.tenant, vapps=list(plan.vapps.all()))
    plan.tenant.vms.update(plan=plan, vapp=None)
    run = finish(start_run(None, plan))
    assert run.state == RunState.SUCCEEDED
    assert len(set(run.items.values_list("batch", flat=True))) > 1


def test_retention_deletes_what_no_rule_keeps(plan: Plan, finish) -> None:
    Plan.objects.filter(pk=plan.pk).update(keep_count=1, keep_days=0)
    plan.refresh_from_db()
    finish(start_run(None, plan))
    finish(start_run(None, plan))
    assert Archive.objects.filter(state="good").count() == 3
    assert Archive.objects.filter(state="deleted").count() == 3


def test_two_readers_never_get_the_same_item(plan: Plan) -> None:
    Plan.objects.filter(pk=plan.pk).update(readers=2)
    plan.refresh_from_db()
    run = start_run(None, plan)
    coordinate(str(run.pk))
    first, second, third = claim(), claim(), claim()
    assert first
    assert second
    assert (first.vm_name, second.vm_name) == ("shop-db", "shop-web")
    assert (first.reader, second.reader) == (1, 2)
    assert third is None, "the run allows two readers"


def test_the_items_of_a_run_keep_the_names_of_their_day(plan: Plan, finish) -> None:
    run = finish(start_run(None, plan))
    plan.tenant.vms.update(name="renamed")
    assert "shop-db" in RunItem.objects.filter(run=run).values_list("vm_name", flat=True)


def test_nothing_waits_nothing_happens(plan: Plan) -> None:
    read_waiting()
    assert not RunItem.objects.exists()


def test_a_damaged_archive_is_marked_and_the_next_one_reads_everything(plan: Plan, finish) -> None:
    finish(start_run(None, plan))
    store = open_store(plan.repository)
    for stored in list(store.list(f"tenants/{plan.tenant_id}/archives/")):
        path = store.root / stored.name
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    run = finish(start_run(None, plan))
    assert run.state == RunState.SUCCEEDED
    assert Archive.objects.filter(state="damaged").count() == 3
    assert "is damaged" in run.items.first().archive.full_reason


def test_a_change_that_tracking_missed_is_found_by_the_sample(plan: Plan, platform: FakePlatform, finish) -> None:
    finish(start_run(None, plan))
    for vm in platform.inventory().vms:
        platform.write_untracked(vm.ref, 2000, bytes(range(256)) * 8192)
    run = finish(start_run(None, plan))
    assert all("missed a change" in item.archive.full_reason for item in run.items.all())


def test_a_vm_that_turns_busy_while_it_waits_moves_up(plan: Plan, platform: FakePlatform, finish) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    platform.set_load("shop-idle", 5000.0)
    RunItem.objects.filter(run=run).update(load_at=timezone.now() - timedelta(minutes=6))
    tick()
    finish(run)
    assert run.items.order_by("position").first().vm_name == "shop-idle"
