"""One of everything for a tenant, under names that tell whose it is."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone

from backups.models import (
    Archive,
    Membership,
    Plan,
    Recovery,
    RecoveryItem,
    Repository,
    Run,
    RunItem,
    SnapshotRecord,
    Tenant,
    VApp,
    VCenter,
    Vm,
)
from backups.services import audit
from portal.models import ApiToken


@dataclass
class World:
    tenant: Tenant
    ids: dict[str, Any] = field(default_factory=dict)
    """By the names of URL parameters."""


def shared() -> tuple[VCenter, Repository]:
    vcenter, _ = VCenter.objects.get_or_create(
        name="shared-vcenter", defaults={"host": "vc", "username": "u", "sealed_password": b"", "certificate_pem": "-"}
    )
    repository, _ = Repository.objects.get_or_create(name="shared-repository", defaults={"path": "/srv/backups"})
    return vcenter, repository


def build(tenant: Tenant, user: User) -> World:
    vcenter, repository = shared()
    word = f"of-{tenant.name.lower()}"
    plan = Plan.objects.create(tenant=tenant, name=f"plan-{word}", repository=repository)
    vapp = VApp.objects.create(vcenter=vcenter, tenant=tenant, plan=plan, ref=f"v-{word}", name=f"vapp-{word}")
    vm = Vm.objects.create(
        vcenter=vcenter, tenant=tenant, vapp=vapp, instance_uuid=word, ref=f"vm-{word}", name=f"vm-{word}"
    )
    run, item = _run(tenant, plan, vm)
    archive = _archive(tenant, repository, vm, run)
    recovery = _recovery(tenant, vcenter, archive)
    SnapshotRecord.objects.create(name=f"hotfirst-{item.pk}-1", vcenter=vcenter, vm_ref=vm.ref, item=item)
    token, _ = ApiToken.objects.create(user=user, tenant=tenant, name=f"token-{word}", expiry=timedelta(days=1))
    audit.record(user, tenant, "test", f"audit-{word}")
    ids = {
        "tenant_id": tenant.pk,
        "plan_id": plan.pk,
        "vapp_id": vapp.pk,
        "vm_id": vm.pk,
        "run_id": run.pk,
        "item_id": item.pk,
        "archive_id": archive.pk,
        "recovery_id": recovery.pk,
        "token_id": token.uid,
        "membership_id": Membership.objects.get(tenant=tenant, user=user).pk,
        "vcenter_id": vcenter.pk,
    }
    return World(tenant, ids)


def _run(tenant: Tenant, plan: Plan, vm: Vm) -> tuple[Run, RunItem]:
    copied = {name: getattr(plan, name) for name in ("repository", "policy", "batch_size", "readers", "quiesce")}
    run = Run.objects.create(tenant=tenant, plan=plan, plan_name=plan.name, state="running", **copied)
    now = timezone.now()
    item = RunItem.objects.create(
        run=run, tenant=tenant, vm=vm, vm_name=vm.name, vapp_name=vm.vapp.name if vm.vapp else "", state="archiving",
        load_kbps=5, position=1, reader=1, snapshot_at=now, archiving_at=now,
    )  # fmt: skip
    return run, item


def _archive(tenant: Tenant, repository: Repository, vm: Vm, run: Run) -> Archive:
    return Archive.objects.create(
        tenant=tenant, repository=repository, vm=vm, run=run, vm_name=vm.name, backup_time=timezone.now(), full=True,
        vapp_name=vm.vapp.name if vm.vapp else "", bytes_total=1, bytes_read=1, bytes_new=1, bytes_stored=1,
    )  # fmt: skip


def _recovery(tenant: Tenant, vcenter: VCenter, archive: Archive) -> Recovery:
    recovery = Recovery.objects.create(
        tenant=tenant, vcenter=vcenter, mode="as_new", vapp_name=archive.vapp_name, new_name=f"new-{archive.vapp_name}"
    )
    RecoveryItem.objects.create(recovery=recovery, tenant=tenant, archive=archive, vm_name=archive.vm_name)
    return recovery
