"""What becomes of an inventory, and of its changes, in the tables."""

import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext

from backups.errors import CertificateMismatch, PermissionMissing, PlatformUnreachable
from backups.models import Tenant, VApp, VCenter, Vm
from backups.platform import MissingPrivilege
from backups.services import inventory
from backups.services.inventory import assign_vapp, follow, refresh
from backups.services.vcenters import enrol_vcenter, look_up_certificate
from tests.fakes.platform import FakePlatform

_fake = FakePlatform()


def connect(_: object) -> FakePlatform:
    return _fake


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> FakePlatform:
    global _fake
    _fake = FakePlatform()
    monkeypatch.setattr(settings, "HOTFIRST_PLATFORM", f"{__name__}.connect")
    shop = _fake.add_vapp("shop")
    for name in ("db", "web", "mail"):
        _fake.add_vm(name, vapp_ref=shop)
    return _fake


def enrolled() -> VCenter:
    fields = {"host": "vc.corp", "port": 443, "username": "svc-backup", "certificate_pem": "-"}
    return enrol_vcenter(None, name="Fake", password="hunter-two", **fields)


@pytest.fixture
def vcenter(db: None, platform: FakePlatform) -> VCenter:
    return enrolled()


def names(**wanted: object) -> set[str]:
    return set(Vm.objects.filter(vanished_at=None, **wanted).values_list("name", flat=True))


def test_changes_are_kept_one_by_one_with_the_history(vcenter: VCenter, platform: FakePlatform) -> None:
    db = Vm.objects.get(name="db")
    version = follow(vcenter, platform, None, 0)
    platform.rename("db", "database")
    other = platform.add_vapp("other")
    platform.move("web", other)
    platform.make_template("mail")
    version = follow(vcenter, platform, version, 5)
    assert names() == {"database", "web"}
    assert names(vapp__name="other") == {"web"}
    assert Vm.objects.get(name="database").pk == db.pk
    platform.destroy_vm(Vm.objects.get(name="web").ref)
    follow(vcenter, platform, version, 5)
    assert names() == {"database"}
    assert Vm.objects.count() == 3


def test_a_vm_that_moves_into_a_tenants_vapp_falls_to_the_tenant(
    vcenter: VCenter, platform: FakePlatform, acme: Tenant
) -> None:
    assign_vapp(None, VApp.objects.get(name="shop"), acme)
    version = follow(vcenter, platform, None, 0)
    platform.add_vm("new", vapp_ref=VApp.objects.get(name="shop").ref)
    follow(vcenter, platform, version, 5)
    assert names(tenant=acme) == {"db", "web", "mail", "new"}


def test_a_change_that_could_not_be_stored_leads_to_everything_anew(
    vcenter: VCenter, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = follow(vcenter, platform, None, 0)
    platform.rename("db", "database")
    with monkeypatch.context() as broken:
        broken.setattr(inventory, "apply", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            follow(vcenter, platform, version, 5)
    follow(vcenter, platform, version, 0)
    assert "database" in names()


def test_what_looks_the_same_is_not_written(vcenter: VCenter, platform: FakePlatform) -> None:
    with CaptureQueriesContext(connection) as queries:
        refresh(vcenter)
    written = [query["sql"] for query in queries if query["sql"].startswith(("UPDATE", "INSERT"))]
    assert written
    assert all('"backups_vcenter"' in sql for sql in written)


def test_trouble_is_kept_beside_the_vcenter_in_the_providers_words(vcenter: VCenter, platform: FakePlatform) -> None:
    platform.fail_next("watch", PlatformUnreachable("It is away.", provider="Nobody listens at vc.corp:443."))
    with pytest.raises(PlatformUnreachable, match="It is away"):
        follow(vcenter, platform, None, 0)
    vcenter.refresh_from_db()
    assert vcenter.sync_error == "Nobody listens at vc.corp:443."
    follow(vcenter, platform, None, 0)
    vcenter.refresh_from_db()
    assert vcenter.sync_error == ""


def test_an_account_that_may_not_back_up_is_refused_with_the_names_of_the_privileges(
    db: None, platform: FakePlatform
) -> None:
    platform.lacking = tuple(
        MissingPrivilege(privilege=name, purpose=purpose, places=("Lab",))
        for name, purpose in (("VApp.Export", "back up"), ("Datastore.Browse", "back up"), ("VApp.Import", "recover"))
    )
    with pytest.raises(PermissionMissing, match=r"need: VApp\.Export, Datastore\.Browse on Lab\. Add them") as caught:
        enrolled()
    assert "VApp.Import" not in str(caught.value)
    assert not VCenter.objects.exists()


def test_what_only_recoveries_lack_is_said_beside_the_vcenter_until_it_is_given(
    db: None, platform: FakePlatform
) -> None:
    platform.lacking = (MissingPrivilege(privilege="VApp.Import", purpose="recover", places=("Berlin", "Lab")),)
    vcenter = enrolled()
    vcenter.refresh_from_db()
    assert vcenter.sync_error == "Recoveries will fail until the vCenter account has VApp.Import on Berlin, Lab."
    platform.lacking = ()
    refresh(vcenter)
    vcenter.refresh_from_db()
    assert vcenter.sync_error == ""


def refuse(*_: object) -> None:
    raise CertificateMismatch("It does not prove what it is.", provider="vc.corp:443 shows another certificate.")


def test_whoever_enrols_is_told_in_the_providers_words(
    db: None, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "HOTFIRST_FETCH_CERTIFICATE", f"{__name__}.refuse")
    with pytest.raises(CertificateMismatch, match="another certificate"):
        look_up_certificate("vc.corp", 443)
    monkeypatch.setattr(settings, "HOTFIRST_PLATFORM", f"{__name__}.refuse")
    with pytest.raises(CertificateMismatch, match="another certificate"):
        enrolled()
