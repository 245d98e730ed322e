"""What Alice sees of her vApps, and does with what she ticked."""

from uuid import uuid4

import pytest

from backups.errors import PlatformUnreachable
from backups.models import Plan, Run, RunItem, Tenant, VApp, Vm
from backups.services import inventory
from tests.portal.conftest import Browser
from tests.portal.worlds import World, shared

pytestmark = [pytest.mark.database, pytest.mark.django_db]


def free(tenant: Tenant, name: str) -> VApp:
    """A vApp with one VM that no plan protects."""
    vcenter, _ = shared()
    vapp = VApp.objects.create(vcenter=vcenter, tenant=tenant, ref=f"v-{name}", name=name)
    Vm.objects.create(
        vcenter=vcenter, tenant=tenant, vapp=vapp, ref=f"vm-{name}", name=f"{name}-vm", instance_uuid=name
    )
    return vapp


def test_a_vapp_shows_its_vms_its_plan_and_its_last_backup(at_acme: Browser, ours: World) -> None:
    page = at_acme.sees("vapps/")
    for told in ("vapp-of-acme", "vm-of-acme", "plan-of-acme", "Backing up"):
        assert told in page


@pytest.mark.parametrize(
    ("state", "label"), [("succeeded", "Protected"), ("failed", "Last backup failed"), ("archiving", "Backing up")]
)
def test_the_protection_status_is_that_of_the_last_run(at_acme: Browser, ours: World, state: str, label: str) -> None:
    RunItem.objects.update(state=state)
    assert label in at_acme.sees("vapps/")


def test_a_vm_without_a_plan_is_not_protected(at_acme: Browser, acme: Tenant) -> None:
    free(acme, "loose")
    assert "Not protected" in at_acme.sees("vapps/")


def test_search_finds_a_vapp_by_the_name_of_its_vm(at_acme: Browser, ours: World) -> None:
    free(ours.tenant, "shop")
    page = at_acme.sees("vapps/", q="shop-v")
    assert "shop-vm" in page
    assert "vapp-of-acme" not in page
    assert "Nothing is called" in at_acme.sees("vapps/", q="nowhere")


def test_a_vm_outside_a_vapp_is_listed_apart(at_acme: Browser, ours: World) -> None:
    Vm.objects.update(vapp=None)
    assert "No vApp" in at_acme.sees("vapps/")


def test_apply_protects_vapps_and_vms(at_acme: Browser, ours: World) -> None:
    shop, erp = free(ours.tenant, "shop"), free(ours.tenant, "erp")
    vm = Vm.objects.get(vapp=erp)
    page = at_acme.reads_after("vapps/apply/", plan=ours.ids["plan_id"], vapp=[shop.pk], vm=[vm.pk])
    assert "now protects shop, erp-vm" in page
    shop.refresh_from_db()
    vm.refresh_from_db()
    assert shop.plan_id == vm.plan_id == ours.ids["plan_id"]


def test_a_vm_that_is_ticked_with_its_vapp_goes_with_it(at_acme: Browser, ours: World) -> None:
    shop = free(ours.tenant, "shop")
    vm = Vm.objects.get(vapp=shop)
    at_acme.posts("vapps/apply/", plan=ours.ids["plan_id"], vapp=[shop.pk], vm=[vm.pk])
    vm.refresh_from_db()
    assert vm.plan_id is None
    assert vm.effective_plan is not None


def test_revoke_takes_the_plan_away_and_leaves_archives(at_acme: Browser, ours: World) -> None:
    at_acme.posts("vapps/revoke/", vapp=[ours.ids["vapp_id"]])
    assert VApp.objects.get().plan is None
    assert ours.tenant.archives.count() == 1


def test_nothing_ticked_is_told(at_acme: Browser, ours: World) -> None:
    for verb in ("apply", "revoke", "back-up", "recover"):
        assert "Tick at least one" in at_acme.reads_after(f"vapps/{verb}/", plan=ours.ids["plan_id"])


def test_back_up_now_runs_only_what_was_ticked(at_acme: Browser, ours: World) -> None:
    Run.objects.update(state="succeeded")
    shop = free(ours.tenant, "shop")
    VApp.objects.update(plan=ours.ids["plan_id"])
    answer = at_acme.posts("vapps/back-up/", vapp=[shop.pk])
    run = Run.objects.exclude(pk=ours.ids["run_id"]).get()
    assert answer.headers["Location"].endswith(f"/runs/{run.pk}/")
    assert [item.vm_name for item in run.items.all()] == ["shop-vm"]


def test_back_up_now_without_a_plan_says_what_to_do(at_acme: Browser, acme: Tenant) -> None:
    assert "apply one first" in at_acme.reads_after("vapps/back-up/", vapp=[free(acme, "shop").pk])


def test_recover_leads_to_the_backup_times(at_acme: Browser, ours: World) -> None:
    page = at_acme.reads_after("vapps/recover/", vapp=[ours.ids["vapp_id"]])
    assert "Recover vapp-of-acme" in page
    assert "Backup time" in page


@pytest.mark.parametrize("ids", [{"vapp": "theirs"}, {"vm": "theirs"}, {"vapp": "none"}, {"vm": "nonsense"}])
def test_what_is_not_ours_cannot_be_ticked(at_acme: Browser, ours: World, theirs: World, ids: dict[str, str]) -> None:
    values = {"none": uuid4(), "nonsense": "nonsense"}
    chosen = {name: [values.get(what, theirs.ids[f"{name}_id"])] for name, what in ids.items()}
    for verb in ("apply", "revoke", "back-up", "recover"):
        assert at_acme.posts(f"vapps/{verb}/", plan=ours.ids["plan_id"], **chosen).status_code == 404
    assert Plan.objects.for_tenant(theirs.tenant).get().vapps.count() == 1


def test_a_plan_of_another_tenant_cannot_be_applied(at_acme: Browser, ours: World, theirs: World) -> None:
    answer = at_acme.posts("vapps/apply/", plan=theirs.ids["plan_id"], vapp=[ours.ids["vapp_id"]])
    assert answer.status_code == 404


def test_a_vcenter_that_does_not_answer_is_told(at_acme: Browser, ours: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tenant: Tenant) -> None:
        raise PlatformUnreachable("vCenter does not answer; ask your provider.")

    monkeypatch.setattr(inventory, "refresh_tenant", refuse)
    assert "vCenter does not answer" in at_acme.reads_after("vapps/refresh/")


def test_charlie_finds_no_boxes_and_no_buttons(as_charlie: Browser, ours: World) -> None:
    page = as_charlie.sees("vapps/")
    assert "vapp-of-acme" in page
    assert "checkbox" not in page
    assert "Apply backup plan" not in page


def test_olivia_may_back_up_but_not_apply(as_olivia: Browser, ours: World) -> None:
    page = as_olivia.sees("vapps/")
    assert "Back up now" in page
    assert "Apply backup plan" not in page
