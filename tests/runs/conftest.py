"""Acme has the vApp “shop” on a fake platform: three VMs of very different loads. The tasks are called as a worker
would call them; hints to the broker are only written down."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings

from backups.models import Plan, Repository, Run, Tenant, VApp, VCenter
from backups.services.inventory import assign_vapp
from backups.services.plans import apply_plan, create_plan
from backups.services.repositories import create_repository
from backups.services.vcenters import enrol_vcenter
from backups.tasks.coordinate import coordinate
from backups.tasks.read import read_waiting
from backups.tasks.tick import remove_orphans
from tests.fakes.platform import FakePlatform

MIB = 2**20
LOADS = {"shop-db": 900.0, "shop-web": 40.0, "shop-idle": 1.0}
_fake: FakePlatform | None = None


def connect(_: object) -> FakePlatform:
    assert _fake is not None
    return _fake


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePlatform]:
    global _fake
    _fake = FakePlatform()
    monkeypatch.setattr(settings, "HOTFIRST_PLATFORM", "tests.runs.conftest.connect")
    vapp = _fake.add_vapp("shop")
    for name, write_kbps in LOADS.items():
        vm_ref = _fake.add_vm(name, vapp_ref=vapp, disks=[2 * MIB, 1 * MIB], write_kbps=write_kbps)
        _fake.write(vm_ref, 2000, 0, name.encode() * 1000)
        _fake.write(vm_ref, 2001, 512 * 1024, name.encode() * 100)
    yield _fake
    _fake = None


@pytest.fixture
def repository(db: None, tmp_path: Path) -> Repository:
    return create_repository(None, "Folder", str(tmp_path / "repository"))


@pytest.fixture
def vcenter(db: None, platform: FakePlatform) -> VCenter:
    fields = {"host": "fake", "port": 443, "username": "backup", "certificate_pem": "-"}
    return enrol_vcenter(None, name="Fake", password="hunter-two", **fields)


@pytest.fixture
def plan(acme: Tenant, vcenter: VCenter, repository: Repository) -> Plan:
    plan = create_plan(None, acme, name="Nightly", repository=repository, readers=1)
    shop = VApp.objects.get(name="shop")
    assign_vapp(None, shop, acme)
    shop.refresh_from_db()
    apply_plan(None, plan, vapps=[shop])
    return plan


@pytest.fixture
def finish() -> Callable[[Run], Run]:
    """Does a worker's part until the run has ended."""

    def to_the_end(run: Run) -> Run:
        for _ in range(10):
            coordinate(str(run.pk))
            read_waiting()
            run.refresh_from_db()
            if run.finished_at:
                break
        return run

    return to_the_end


def sweep() -> None:
    """Does the work that the tick hints at when it finds orphaned snapshots."""
    VCenter.objects.update(swept_at=None)
    for vcenter in VCenter.objects.all():
        remove_orphans(str(vcenter.pk))
