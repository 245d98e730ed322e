import pytest

from backups.errors import Conflict, InvalidRequest
from backups.models import AuditEntry, Plan, Tenant, VApp, VCenter, Vm
from backups.services import audit
from backups.services.inventory import assign_vapp, refresh
from backups.services.plans import apply_plan, change_plan, create_plan, delete_plan, revoke_plan, vms_of
from backups.services.vcenters import enrol_vcenter
from tests.fakes.platform import FakePlatform

ADDRESS = {"host": "fake", "port": 443, "username": "backup", "certificate_pem": "-"}

pytestmark = pytest.mark.django_db


def test_a_plan_protects_the_vms_of_its_vapps_and_those_that_join_later(
    plan: Plan, platform: FakePlatform, vcenter
) -> None:
    shop = VApp.objects.get(name="shop")
    platform.add_vm("shop-new", vapp_ref=shop.ref)
    refresh(vcenter)
    assert "shop-new" in {vm.name for vm in vms_of(plan)}


def test_a_vms_own_plan_comes_before_that_of_its_vapp(acme: Tenant, plan: Plan) -> None:
    hourly = create_plan(None, acme, name="Hourly", repository=plan.repository)
    apply_plan(None, hourly, vms=[Vm.objects.get(name="shop-db")])
    assert {vm.name for vm in vms_of(hourly)} == {"shop-db"}
    assert {vm.name for vm in vms_of(plan)} == {"shop-web", "shop-idle"}


def test_a_revoked_plan_protects_nothing(acme: Tenant, plan: Plan) -> None:
    revoke_plan(None, acme, vapps=[VApp.objects.get(name="shop")])
    assert not vms_of(plan).exists()


def test_a_plan_is_never_applied_to_the_neighbours_vapp(globex: Tenant, plan: Plan) -> None:
    theirs = create_plan(None, globex, name="Theirs", repository=plan.repository)
    with pytest.raises(InvalidRequest, match="different tenants"):
        apply_plan(None, theirs, vapps=[VApp.objects.get(name="shop")])


def test_a_vapp_that_changes_hands_loses_the_plan_of_its_old_tenant(globex: Tenant, plan: Plan) -> None:
    assign_vapp(None, VApp.objects.get(name="shop"), globex)
    assert not vms_of(plan).exists()
    assert Vm.objects.for_tenant(globex).count() == 3


def test_two_people_who_change_a_plan_at_once_do_not_overwrite_each_other(plan: Plan) -> None:
    stale = Plan.objects.get(pk=plan.pk)
    change_plan(None, plan, readers=4)
    with pytest.raises(Conflict, match="reload"):
        change_plan(None, stale, readers=8)
    plan.refresh_from_db()
    assert plan.readers == 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cron": "soon"}, "five cron fields"),
        ({"time_zone": "Nowhere"}, "time zone"),
        ({"readers": 0}, "Readers"),
        ({"keep_count": 0}, "Archives kept"),
        ({"keep_monthly": 5000}, "Monthly archives kept"),
        ({"gfs_weekday": 7}, "Day of the weekly archive"),
        ({"every_weeks": 0}, "1 to 52 weeks"),
        ({"blackouts": [{"days": [9], "start": "08:00", "end": "18:00"}]}, "needs its days"),
        ({"blackouts": [{"days": list(range(7)), "start": "00:00", "end": "00:00"}]}, "whole week"),
        ({"metric": "luck"}, "Load measured by"),
        ({"over_budget": "shrug"}, "Beyond the longest hold"),
        ({"hold_budget_s": 8 * 86400}, "Longest hold"),
        ({"policy": "random"}, "Order"),
        ({"name": ""}, "Name"),
        ({"tenant": None}, "no option"),
    ],
)
def test_bad_options_are_refused_with_a_sentence(plan: Plan, options: dict, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        change_plan(None, plan, **options)


def test_a_name_is_used_once_per_tenant(acme: Tenant, plan: Plan) -> None:
    with pytest.raises(InvalidRequest, match="choose another name"):
        create_plan(None, acme, name="Nightly", repository=plan.repository)


def test_a_deleted_plan_leaves_its_vapps_without_one(plan: Plan) -> None:
    delete_plan(None, plan)
    assert VApp.objects.get(name="shop").plan is None


def test_a_renamed_vm_keeps_its_row(plan: Plan, platform: FakePlatform, vcenter) -> None:
    before = Vm.objects.get(name="shop-db").pk
    platform.rename("shop-db", "shop-database")
    refresh(vcenter)
    assert Vm.objects.get(name="shop-database").pk == before


def test_a_vm_that_went_is_marked_and_not_deleted(plan: Plan, platform: FakePlatform, vcenter) -> None:
    platform.destroy_vm(Vm.objects.get(name="shop-db").ref)
    refresh(vcenter)
    assert Vm.objects.get(name="shop-db").vanished_at is not None
    assert "shop-db" not in {vm.name for vm in vms_of(plan)}


def test_every_change_is_in_the_audit_log_and_the_chain_holds(plan: Plan) -> None:
    assert {"plan.create", "vapp.assign", "plan.apply"} <= set(AuditEntry.objects.values_list("action", flat=True))
    assert audit.broken_link() is None


def test_a_changed_audit_entry_shows(plan: Plan) -> None:
    AuditEntry.objects.filter(action="plan.create").update(subject="something else")
    broken = audit.broken_link()
    assert broken is not None
    assert broken.action == "plan.create"


def test_a_removed_audit_entry_shows(plan: Plan) -> None:
    AuditEntry.objects.filter(action="plan.create").delete()
    assert audit.broken_link() is not None


def test_no_secret_is_in_the_audit_log(plan: Plan) -> None:
    assert "hunter-two" not in " ".join(str(entry.detail) for entry in AuditEntry.objects.all())


def test_a_vcenter_enrolled_again_under_its_name_keeps_its_row_and_its_tenants(plan: Plan, vcenter) -> None:
    again = enrol_vcenter(None, name="Fake", password="new one", **ADDRESS | {"username": "backup-2"})
    assert again.pk == vcenter.pk
    assert VCenter.objects.get().username == "backup-2"
    assert vms_of(plan).count() == 3


def test_one_vcenter_is_not_enrolled_under_two_names(vcenter) -> None:
    with pytest.raises(InvalidRequest, match="under the name Fake"):
        enrol_vcenter(None, name="Other", password="hunter-two", **ADDRESS)


def test_a_name_stays_with_its_vcenter(vcenter) -> None:
    VCenter.objects.update(instance_uuid="another")
    with pytest.raises(InvalidRequest, match="another vCenter named Fake"):
        enrol_vcenter(None, name="Fake", password="hunter-two", **ADDRESS)
