"""Peggy, of the provider's staff, brings tenants, people and vCenters in."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from backups.errors import CertificateMismatch, PlatformUnreachable
from backups.models import (
    AuditEntry,
    Datastore,
    Membership,
    Repository,
    Run,
    RunItem,
    SnapshotRecord,
    Tenant,
    VApp,
    VCenter,
    Vm,
)
from backups.services import vcenters as service
from portal.models import ApiToken
from tests.portal.worlds import World, shared

pytestmark = [pytest.mark.database, pytest.mark.django_db]


@pytest.fixture
def staff(client: Client, peggy: User) -> Client:
    client.force_login(peggy)
    return client


def reads(staff: Client, path: str, /, **data: Any) -> str:
    answer = staff.post(f"/provider/{path}", data, follow=True) if data else staff.get(f"/provider/{path}")
    return answer.content.decode()


def test_an_empty_installation_says_what_to_do(staff: Client) -> None:
    page = reads(staff, "")
    for told in ("Enrol a vCenter", "Create a repository", "Create the first tenant"):
        assert told in page


def test_a_new_tenant_has_keys_and_gets_people(staff: Client) -> None:
    assert "Now add its people" in reads(staff, "tenants/", name="Initech")
    tenant = Tenant.objects.get(name="Initech")
    assert tenant.key
    page = reads(staff, f"tenants/{tenant.pk}/members/", username="dora", password="a long enough one", role="admin")
    assert "dora belongs to Initech now." in page
    assert Membership.objects.get(tenant=tenant).user.check_password("a long enough one")


def test_a_tenants_name_is_taken_once(staff: Client, acme: Tenant) -> None:
    assert "choose another name" in reads(staff, "tenants/", name="acme")


@pytest.mark.parametrize(
    ("username", "password", "told"),
    [
        ("dora", "", "give the new user a password"),
        ("dora", "short", "too short"),
        ("alice", "x" * 12, "exists already"),
    ],
)
def test_mistakes_about_people_are_told(
    staff: Client, acme: Tenant, alice: User, username: str, password: str, told: str
) -> None:
    page = reads(staff, f"tenants/{acme.pk}/members/", username=username, password=password, role="viewer")
    assert told in page
    assert not User.objects.filter(username="dora").exists()


def test_a_member_that_exists_gets_another_role_or_leaves(staff: Client, acme: Tenant, charlie: User) -> None:
    reads(staff, f"tenants/{acme.pk}/members/", username="charlie", role="operator")
    membership = Membership.objects.get(user=charlie)
    assert membership.role == "operator"
    reads(staff, f"tenants/{acme.pk}/members/{membership.pk}/remove/", sure="yes")
    assert not Membership.objects.filter(user=charlie).exists()


def test_a_vcenter_is_enrolled_with_the_certificate_that_was_confirmed(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrolled: dict[str, Any] = {}
    monkeypatch.setattr(service, "look_up_certificate", lambda host, port: ("PEM", "AB:CD"))
    monkeypatch.setattr(service, "enrol_vcenter", lambda actor, **fields: enrolled.update(fields))
    page = reads(staff, "vcenters/new/", host="vc.example", port=443)
    assert "AB:CD" in page
    given = {"name": "Hall 1", "username": "backup", "password": "secret", "certificate_pem": "another"}
    assert "This field is required" in reads(staff, "vcenters/new/confirm/", **given)
    assert enrolled == {}
    assert "is enrolled" in reads(staff, "vcenters/new/confirm/", **given, confirmed="on")
    assert enrolled["certificate_pem"] == "PEM"
    assert enrolled["host"] == "vc.example"


def test_a_refusal_at_enrolment_is_told_and_the_password_not_echoed(
    staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(actor: object, **fields: object) -> None:
        raise CertificateMismatch("The server shows another certificate.")

    monkeypatch.setattr(service, "look_up_certificate", lambda host, port: ("PEM", "AB:CD"))
    monkeypatch.setattr(service, "enrol_vcenter", refuse)
    reads(staff, "vcenters/new/", host="vc.example", port=443)
    page = reads(staff, "vcenters/new/confirm/", name="x", username="u", password="s3cretpw", confirmed="on")
    assert "another certificate" in page
    assert "s3cretpw" not in page


def test_an_address_that_does_not_answer_is_told(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(host: str, port: int) -> None:
        raise PlatformUnreachable(f"{host} does not answer.")

    monkeypatch.setattr(service, "look_up_certificate", refuse)
    assert "vc.example does not answer." in reads(staff, "vcenters/new/", host="vc.example", port=443)


def test_no_secret_of_a_vcenter_is_shown(staff: Client) -> None:
    VCenter.objects.create(name="x", host="h", username="u", sealed_password=b"sealed", certificate_pem="PEMTEXT")
    page = reads(staff, "vcenters/")
    assert "sealed" not in page
    assert "PEMTEXT" not in page


def test_vapps_and_vms_are_assigned_and_taken_back(staff: Client, acme: Tenant) -> None:
    vcenter, _ = shared()
    vapp = VApp.objects.create(vcenter=vcenter, ref="v", name="shop")
    inside = Vm.objects.create(vcenter=vcenter, vapp=vapp, ref="1", name="db", instance_uuid="1")
    loose = Vm.objects.create(vcenter=vcenter, ref="2", name="wiki", instance_uuid="2")
    assert "2 VMs belong to nobody" in reads(staff, "")
    page = reads(staff, "assignments/assign/", vapp=[vapp.pk], vm=[loose.pk], tenant=acme.pk)
    assert page
    assert set(Vm.objects.for_tenant(acme)) == {inside, loose}
    reads(staff, "assignments/assign/", vapp=[vapp.pk], tenant="")
    assert set(Vm.objects.for_tenant(acme)) == {loose}


def test_assigning_nothing_is_told(staff: Client, acme: Tenant) -> None:
    assert "Tick at least one" in reads(staff, "assignments/assign/", tenant=acme.pk)


def test_a_repository_is_made_or_refused_with_a_sentence(staff: Client, tmp_path: Any) -> None:
    assert "needs an absolute path" in reads(staff, "repositories/", name="Hall 2", path="backups")
    assert "is ready" in reads(staff, "repositories/", name="Hall 2", path=str(tmp_path / "backups"))
    assert Repository.objects.get().name == "Hall 2"


def test_a_bucket_is_named_without_its_keys(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    assert "without keys in it" in reads(staff, "repositories/", name="Hall 2", path="s3://key:secret@backups")
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the env" in reads(
        staff, "repositories/", name="Hall 2", path="s3://backups/hall-2"
    )
    assert not Repository.objects.exists()


def test_open_snapshots_show_their_owner_and_go_when_removed(staff: Client, ours: World) -> None:
    assert "vm-of-acme" in reads(staff, "snapshots/")
    SnapshotRecord.objects.update(removed_at="2026-11-24T22:00:00Z")
    assert "No snapshot is open" in reads(staff, "snapshots/")


def test_all_runs_and_all_deeds_are_seen(staff: Client, ours: World, theirs: World) -> None:
    for path in ("runs/", "audit/"):
        page = reads(staff, path)
        assert "Acme" in page
        assert "Globex" in page


LIMITS = {
    "snapshots_per_datastore": 8, "snapshots_per_host": 16, "readers_per_datastore": 2, "readers_per_host": 4,
    "latency_stop_ms": 40, "latency_slow_ms": 20, "reserve_percent": 15,
}  # fmt: skip


def test_a_vcenters_limits_are_changed_and_audited(staff: Client) -> None:
    vcenter, _ = shared()
    page = reads(staff, f"vcenters/{vcenter.pk}/", **LIMITS)
    assert "are kept from now on" in page
    vcenter.refresh_from_db()
    assert {name: getattr(vcenter, name) for name in LIMITS} == LIMITS
    entry = AuditEntry.objects.get(action="vcenter.limits")
    assert (entry.actor_name, entry.detail["readers_per_host"]) == ("peggy", 4)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"reserve_percent": 95}, "less than or equal to 90"),
        ({"latency_slow_ms": 60}, "Slow down what runs at a lower latency"),
        ({"readers_per_host": -1}, "greater than or equal to 0"),
        ({"snapshots_per_host": ""}, "This field is required"),
    ],
)
def test_limits_that_make_no_sense_are_refused_with_a_sentence(staff: Client, wrong: dict[str, Any], told: str) -> None:
    vcenter, _ = shared()
    assert told in reads(staff, f"vcenters/{vcenter.pk}/", **LIMITS | wrong)
    vcenter.refresh_from_db()
    assert (vcenter.reserve_percent, vcenter.latency_slow_ms) == (10, 0)


def test_datastores_show_their_room_and_what_their_latency_means(staff: Client, ours: World) -> None:
    vcenter, _ = shared()
    VCenter.objects.update(latency_stop_ms=40, latency_slow_ms=20, snapshots_per_datastore=8)
    for name, latency_ms in (("quick", 3.2), ("slow", 25), ("stuck", 55)):
        Datastore.objects.create(
            vcenter=vcenter, name=name, capacity_bytes=100 * 2**30, free_bytes=40 * 2**30, latency_ms=latency_ms,
            measured_at=timezone.now(),
        )  # fmt: skip
    RunItem.objects.update(datastore="slow")
    page = reads(staff, f"vcenters/{vcenter.pk}/")
    for told in ("40.0 GB of 100 GB", "3.2 ms", "readers slow down", "nothing new starts", "1 of 8"):
        assert told in page


def test_all_runs_are_filtered_by_tenant_and_state(staff: Client, ours: World, theirs: World) -> None:
    Run.objects.filter(tenant=theirs.tenant).update(state="failed")
    assert "plan-of-globex" not in reads(staff, f"runs/?tenant={ours.tenant.pk}")
    assert "plan-of-acme" in reads(staff, f"runs/?tenant={ours.tenant.pk}")
    failed = reads(staff, "runs/?state=failed")
    assert "plan-of-globex" in failed
    assert "plan-of-acme" not in failed
    assert "No run matches" in reads(staff, f"runs/?state=failed&tenant={ours.tenant.pk}")
    assert "plan-of-acme" in reads(staff, "runs/?tenant=nobody&state=odd"), "what is no filter filters nothing"


def test_open_snapshots_tell_their_owner_their_growth_and_whether_anybody_holds_them(
    staff: Client, ours: World, theirs: World
) -> None:
    SnapshotRecord.objects.filter(item__tenant=theirs.tenant).update(created_at="2026-01-01T00:00:00Z")
    RunItem.objects.filter(tenant=ours.tenant).update(grown_bytes=7 * 2**20)
    RunItem.objects.filter(tenant=theirs.tenant).update(state="failed")
    page = reads(staff, "snapshots/")
    assert page.index("vm-of-globex") < page.index("vm-of-acme"), "the oldest comes first"
    for told in ("7.0 MB", "nobody holds it", "plan-of-acme", "Globex"):
        assert told in page
    assert "vm-of-globex" not in reads(staff, "snapshots/?q=acme")
    assert "No open snapshot matches" in reads(staff, "snapshots/?q=initech")


def test_programs_change_limits_and_read_datastores_and_all_runs(
    staff: Client, ours: World, theirs: World, peggy: User
) -> None:
    _, token = ApiToken.objects.create(user=peggy, tenant=None, role="admin", name="t", expiry=timedelta(days=1))
    headers = {"Authorization": f"Bearer {token}"}
    vcenter, _ = shared()
    path = f"/api/v1/provider/vcenters/{vcenter.pk}/"
    json = {"content_type": "application/json", "headers": headers}
    assert staff.patch(path, {"readers_per_host": 3}, **json).json()["readers_per_host"] == 3
    assert staff.patch(path, {"reserve_percent": 95}, **json).status_code == 400
    odd = staff.patch(path, {"latency_stop_ms": 10, "latency_slow_ms": 60}, **json)
    assert (odd.status_code, odd.json()["code"]) == (422, "invalid_request")
    Datastore.objects.create(vcenter=vcenter, name="ds1", free_bytes=5)
    (datastore,) = staff.get(f"{path}datastores/", headers=headers).json()["results"]
    assert (datastore["name"], datastore["free_bytes"]) == ("ds1", 5)
    runs = staff.get("/api/v1/provider/runs/", {"tenant": ours.tenant.pk}, headers=headers).json()["results"]
    assert [run["tenant_name"] for run in runs] == ["Acme"]
    snapshots = staff.get("/api/v1/provider/snapshots/", headers=headers).json()["results"]
    assert {row["plan_name"] for row in snapshots} == {"plan-of-acme", "plan-of-globex"}
