from typing import Any

import pytest

from backups.archive.reader import ArchiveReader
from backups.engine.recovering import Placement, differences
from backups.errors import Conflict, DiskUnreadable, InvalidRequest, PlatformUnreachable
from backups.models import Archive, Plan, Recovery, Tenant, VApp, VCenter, Vm
from backups.models.recoveries import RecoveryState
from backups.platform import SnapshotOrder
from backups.platform import Vm as PlatformVm
from backups.services.inventory import refresh
from backups.services.placements import foresee
from backups.services.recoveries import cancel_recovery, recovery_points, start_recovery
from backups.services.repositories import open_store
from backups.services.runs import start_run
from backups.services.tenants import reading_keys
from backups.tasks.coordinate import coordinate
from backups.tasks.recover import recover
from tests.fakes.platform import FakePlatform

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def archives(plan: Plan, finish) -> list[Archive]:
    """The vApp shop, backed up once."""
    finish(start_run(None, plan))
    return recovery_points(plan.tenant, "shop")[0].archives


def done(recovery: Recovery) -> Recovery:
    recover(str(recovery.pk))
    recovery.refresh_from_db()
    return recovery


def as_new(tenant: Tenant, archives: list[Archive], name: str = "shop-2") -> Recovery:
    return start_recovery(None, tenant, archives, mode="as_new", vapp_name="shop", new_name=name)


def in_place(tenant: Tenant, archives: list[Archive]) -> Recovery:
    return start_recovery(None, tenant, archives, mode="in_place", vapp_name="shop")


def unequal(platform: FakePlatform, archive: Archive, vm_ref: str) -> list[str]:
    reader = ArchiveReader(open_store(archive.repository), reading_keys(archive.tenant), str(archive.pk))
    return differences(platform, reader, vm_ref)


def ref_of(platform: FakePlatform, name: str) -> str:
    return next(vm.ref for vm in platform.inventory().vms if vm.name == name)


def test_a_whole_vapp_comes_back_as_new_byte_for_byte(acme, archives, platform: FakePlatform) -> None:
    recovery = done(as_new(acme, archives))
    assert recovery.state == RecoveryState.SUCCEEDED
    assert recovery.message == "3 of 3 VMs recovered."
    for item in recovery.items.all():
        assert unequal(platform, item.archive, item.vm_ref) == []


def test_what_was_recovered_as_new_belongs_to_the_tenant(acme, archives) -> None:
    done(as_new(acme, archives))
    vapp = VApp.objects.for_tenant(acme).get(name="shop-2")
    assert Vm.objects.for_tenant(acme).filter(vapp=vapp).count() == 3


def test_in_place_undoes_what_was_written_since(acme, archives, platform: FakePlatform) -> None:
    vm_ref = ref_of(platform, "shop-web")
    platform.write(vm_ref, 2000, 700_000, b"overwritten by mistake")
    recovery = done(in_place(acme, archives))
    assert recovery.state == RecoveryState.SUCCEEDED
    for item in recovery.items.all():
        assert unequal(platform, item.archive, item.vm_ref) == []


def test_in_place_writes_only_what_differs(acme, archives, platform: FakePlatform) -> None:
    platform.write(ref_of(platform, "shop-web"), 2000, 700_000, b"overwritten by mistake")
    recovery = done(in_place(acme, archives))
    written = {item.vm_name: item.bytes_written for item in recovery.items.all()}
    assert written == {"shop-db": 0, "shop-idle": 0, "shop-web": 2**18}


def test_in_place_turns_a_vm_on_again_only_if_it_was_on(acme, archives, platform: FakePlatform) -> None:
    platform.power(ref_of(platform, "shop-idle"), False)
    done(in_place(acme, archives))
    on = {vm.name: vm.powered_on for vm in platform.inventory().vms}
    assert on == {"shop-db": True, "shop-web": True, "shop-idle": False}


def test_a_vm_that_vanished_is_told_to_be_recovered_as_new(acme, archives, platform: FakePlatform) -> None:
    platform.destroy_vm(ref_of(platform, "shop-web"))
    recovery = done(in_place(acme, archives))
    assert recovery.state == RecoveryState.FAILED
    assert "recover it as new" in recovery.items.get(vm_name="shop-web").message
    assert recovery.items.filter(state=RecoveryState.SUCCEEDED).count() == 2


def test_a_vm_with_snapshots_of_its_own_is_left_running(acme, archives, platform: FakePlatform) -> None:
    vm_ref = ref_of(platform, "shop-web")
    platform.create_snapshots([SnapshotOrder(vm_ref=vm_ref, name="before the upgrade")])
    recovery = done(in_place(acme, archives))
    assert "has snapshots" in recovery.items.get(vm_name="shop-web").message
    assert next(vm for vm in platform.inventory().vms if vm.ref == vm_ref).powered_on


def test_a_recovery_killed_in_the_middle_is_finished_without_a_second_vm(
    acme, archives, platform: FakePlatform, monkeypatch
) -> None:
    recovery = as_new(acme, archives)
    with monkeypatch.context() as patch:
        patch.setattr(ArchiveReader, "runs", lambda *_, **__: (_ for _ in ()).throw(SystemExit("killed")))
        with pytest.raises(SystemExit):
            recover(str(recovery.pk))
    Recovery.objects.update(lease_until=None)
    vms_before = len(platform.inventory().vms)
    done(recovery)
    assert recovery.state == RecoveryState.SUCCEEDED
    assert len(platform.inventory().vms) == vms_before + 2, "the first VM was made before the kill"


def test_trouble_that_may_pass_is_tried_again(acme, archives, platform: FakePlatform) -> None:
    platform.fail_next("open_disk_for_writing", DiskUnreadable("The host is busy."))
    recovery = done(as_new(acme, archives))
    assert recovery.state == RecoveryState.RUNNING
    Recovery.objects.update(lease_until=None)
    assert done(recovery).state == RecoveryState.SUCCEEDED


def test_trouble_that_stays_ends_the_recovery_with_its_sentence(acme, archives, monkeypatch) -> None:
    def refuse(_: object) -> FakePlatform:
        raise PlatformUnreachable("vCenter cannot be reached.")

    recovery = as_new(acme, archives)
    monkeypatch.setattr("tests.runs.conftest.connect", refuse)
    for _ in range(3):
        Recovery.objects.update(lease_until=None)
        done(recovery)
    assert recovery.state == RecoveryState.FAILED
    assert recovery.message == "vCenter cannot be reached."


def test_a_cancelled_recovery_as_new_leaves_no_half_made_vm(acme, archives, platform: FakePlatform) -> None:
    recovery = as_new(acme, archives)
    cancel_recovery(None, recovery)
    done(recovery)
    assert recovery.state == RecoveryState.CANCELLED
    assert not any(vm.name.startswith("shop-web-") for vm in platform.inventory().vms)


def test_two_recoveries_in_place_of_one_vm_do_not_meet(acme, archives) -> None:
    in_place(acme, archives)
    with pytest.raises(Conflict, match="already"):
        in_place(acme, archives)


def test_a_vm_that_is_being_backed_up_is_not_overwritten(acme, archives, plan: Plan) -> None:
    run = start_run(None, plan)
    coordinate(str(run.pk))
    with pytest.raises(Conflict, match="being backed up"):
        in_place(acme, archives)


def test_a_vm_that_is_being_overwritten_is_not_backed_up(acme, archives, plan: Plan, finish) -> None:
    in_place(acme, archives)
    run = finish(start_run(None, plan))
    assert {item.state for item in run.items.all()} == {"skipped"}


def test_the_neighbours_archives_cannot_be_recovered(globex: Tenant, archives) -> None:
    with pytest.raises(InvalidRequest, match="belong"):
        as_new(globex, archives)


def test_a_name_that_is_taken_is_refused_before_anything_is_made(acme, archives) -> None:
    with pytest.raises(InvalidRequest, match="choose another name"):
        as_new(acme, archives, name="shop")


def test_a_recovery_point_says_when_a_vm_is_missing(plan: Plan, platform: FakePlatform, finish) -> None:
    platform.destroy_vm(ref_of(platform, "shop-web"))
    finish(start_run(None, plan))
    point = recovery_points(plan.tenant, "shop")[0]
    assert not point.complete
    assert [a.vm_name for a in point.archives] == ["shop-db", "shop-idle"]


def test_in_place_is_refused_at_once_for_a_vm_that_is_known_to_have_gone(acme, archives) -> None:
    Vm.objects.filter(name="shop-web").update(vanished_at=archives[0].backup_time)
    fresh = recovery_points(acme, "shop")[0].archives
    with pytest.raises(InvalidRequest, match="recover it as new"):
        in_place(acme, fresh)


def placed(tenant: Tenant, archives: list[Archive], **wanted: Any) -> Recovery:
    return start_recovery(
        None, tenant, archives, mode="as_new", vapp_name="shop", new_name="shop-2", placement=Placement(**wanted)
    )


def made_by(recovery: Recovery, platform: FakePlatform) -> list[PlatformVm]:
    refs = {item.vm_ref for item in done(recovery).items.all()}
    return [vm for vm in platform.inventory().vms if vm.ref in refs]


def cards(platform: FakePlatform, vms: list[PlatformVm]) -> list[tuple[str, bool]]:
    return [
        (card["network"], card["start_connected"])
        for vm in vms
        for card in platform.describe(vm.ref).settings["networks"]
    ]


@pytest.fixture
def elsewhere(acme: Tenant, vcenter: VCenter, platform: FakePlatform) -> Vm:
    """A VM of Acme's own on the other host, datastore and network."""
    platform.add_vm("acme-other", host="host2", datastore="store2", network="network2")
    refresh(vcenter)
    Vm.objects.filter(name="acme-other").update(tenant=acme)
    return Vm.objects.get(name="acme-other")


def test_what_is_recovered_goes_to_the_host_and_datastore_chosen(acme, archives, platform, elsewhere) -> None:
    vms = made_by(placed(acme, archives, host="host2", datastore="store2"), platform)
    assert [(vm.host, vm.datastore) for vm in vms] == [("host2", "store2")] * 3


def test_its_cards_move_to_the_network_chosen(acme, archives, platform, elsewhere) -> None:
    vms = made_by(placed(acme, archives, networks={"network1": "network2"}), platform)
    assert cards(platform, vms) == [("network2", True)] * 3


def test_its_cards_stay_disconnected_if_that_is_chosen(acme, archives, platform) -> None:
    vms = made_by(placed(acme, archives, networks={"network1": None}), platform)
    assert cards(platform, vms) == [("network1", False)] * 3


def test_without_a_choice_cards_keep_their_network(acme, archives, platform) -> None:
    assert cards(platform, made_by(placed(acme, archives), platform)) == [("network1", True)] * 3


@pytest.mark.parametrize("wanted", [{"host": "host2"}, {"datastore": "store2"}, {"networks": {"network1": "network2"}}])
def test_a_place_where_only_others_are_is_not_there_for_a_tenant(acme, archives, platform, wanted) -> None:
    platform.add_vm("others", host="host2", datastore="store2", network="network2")
    with pytest.raises(InvalidRequest, match="There is no"):
        placed(acme, archives, **wanted)
    assert start_recovery(
        None,
        acme,
        archives,
        mode="as_new",
        vapp_name="shop",
        new_name="s",
        placement=Placement(**wanted),
        everywhere=True,
    )


def test_a_name_that_no_network_can_have_is_refused(acme, archives) -> None:
    with pytest.raises(InvalidRequest, match="no such name"):
        placed(acme, archives, networks={"network\0": None})


def test_the_identity_of_a_vm_that_is_there_is_refused(acme, archives) -> None:
    with pytest.raises(InvalidRequest, match="is still there"):
        placed(acme, archives, same_identity=True)


def test_vms_that_have_gone_come_back_with_their_identity_and_their_history(
    acme, archives, vcenter: VCenter, platform: FakePlatform
) -> None:
    for name in ("shop-db", "shop-idle", "shop-web"):
        platform.destroy_vm(ref_of(platform, name))
    refresh(vcenter)
    fresh = recovery_points(acme, "shop")[0].archives
    vms = made_by(placed(acme, fresh, same_identity=True), platform)
    assert {vm.uuid for vm in vms} == {archive.vm.instance_uuid for archive in fresh}
    assert Vm.objects.for_tenant(acme).filter(vanished_at=None, archives__in=fresh).count() == 3


def test_in_place_offers_no_other_place(acme, archives) -> None:
    with pytest.raises(InvalidRequest, match="recover it as new"):
        start_recovery(None, acme, archives, mode="in_place", placement=Placement(datastore="store1"))


def test_a_host_that_goes_before_the_recovery_begins_is_told(acme, archives) -> None:
    recovery = placed(acme, archives, host="host1")
    Recovery.objects.update(host="host9")
    assert done(recovery).message == "There is no host host9 any more; choose another."


def test_what_the_new_vms_will_lack_is_told_before_and_after(acme, plan, platform: FakePlatform, finish) -> None:
    platform.leave_out("shop-web", "CD/DVD drive 1")
    finish(start_run(None, plan))
    archives = recovery_points(acme, "shop")[0].archives
    foreseen = foresee(acme, archives, Placement(), everywhere=False)
    said = "CD/DVD drive 1 is of a kind that is not recovered, and is left out."
    assert foreseen.warnings == (("shop-web", said),)
    assert foreseen.networks == ("network1",)
    assert done(as_new(acme, archives)).items.get(vm_name="shop-web").warnings == [said]
