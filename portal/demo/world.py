"""Two tenants on one lab vCenter, with people, a repository and a plan each."""

import secrets
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User

from backups.models import Plan, Repository, Role, Tenant, VApp, VCenter
from backups.services.inventory import assign_vapp
from backups.services.plans import apply_plan, create_plan
from backups.services.repositories import create_repository
from backups.services.tenants import create_tenant, set_membership
from backups.services.vcenters import enrol_vcenter

VAPPS = {"Acme": ["acme-web", "acme-data"], "Globex": ["globex-shop"]}
PEOPLE = {
    "alice": ("Acme", Role.ADMIN),
    "charlie": ("Acme", Role.VIEWER),
    "bob": ("Globex", Role.ADMIN),
}


@dataclass(frozen=True)
class World:
    provider: User
    vcenter: VCenter
    plans: dict[str, Plan]
    passwords: dict[str, str]


def build(endpoint: dict[str, Any], *, with_plans: bool = True) -> World:
    passwords = {name: secrets.token_urlsafe(9) for name in ("provider", *PEOPLE)}
    provider = User.objects.create_user("provider", password=passwords["provider"], is_staff=True)
    vcenter = enrol_vcenter(
        provider,
        name="Lab",
        **{k: endpoint[k] for k in ("host", "port", "username", "password", "certificate_pem")},
    )
    repository = create_repository(provider, "Demo repository", str(settings.HOTFIRST_HOME / "repository"))
    tenants = {name: create_tenant(provider, name) for name in VAPPS}
    for name, (tenant_name, role) in PEOPLE.items():
        user = User.objects.create_user(name, password=passwords[name])
        set_membership(provider, tenants[tenant_name], user, role)
    for tenant in tenants.values():
        _assign(provider, tenant, vcenter)
    plans = {name: _plan(provider, tenant, repository) for name, tenant in tenants.items()} if with_plans else {}
    return World(provider, vcenter, plans, passwords)


def _assign(provider: User, tenant: Tenant, vcenter: VCenter) -> None:
    for vapp in VApp.objects.filter(vcenter=vcenter, name__in=VAPPS[tenant.name]):
        assign_vapp(provider, vapp, tenant)


def _plan(provider: User, tenant: Tenant, repository: Repository) -> Plan:
    plan = create_plan(provider, tenant, name="Nightly", cron="0 22 * * *", repository=repository, readers=2)
    apply_plan(provider, plan, vapps=VApp.objects.for_tenant(tenant))
    return plan
