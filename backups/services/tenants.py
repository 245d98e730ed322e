from django.contrib.auth.models import User
from django.db import transaction

from backups.archive.keys import TenantKeys
from backups.errors import InvalidRequest
from backups.models import Membership, Role, Tenant, TenantKey
from backups.services import audit
from backups.services.audit import Actor
from backups.vault import seal, unseal


@transaction.atomic
def create_tenant(actor: Actor, name: str) -> Tenant:
    """With its keys: without them nothing could be archived."""
    name = name.strip()
    if not name:
        raise InvalidRequest("A tenant needs a name.")
    if Tenant.objects.filter(name__iexact=name).exists():
        raise InvalidRequest(f"There is a tenant named {name} already; choose another name.")
    tenant = Tenant.objects.create(name=name)
    keys = TenantKeys.generate(str(tenant.pk))
    row = TenantKey(tenant=tenant, public_key=keys.public_key)
    row.sealed_private_key = seal(keys.private_key or b"", row.pk, "private key")
    row.sealed_write_secret = seal(keys.write_secret, row.pk, "write secret")
    row.save(force_insert=True)
    audit.record(actor, tenant, "tenant.create", tenant.name)
    return tenant


@transaction.atomic
def set_membership(actor: Actor, tenant: Tenant, user: User, role: str) -> Membership:
    if role not in Role.values:
        raise InvalidRequest(f"“{role}” is not a role; choose one of {', '.join(Role.values)}.")
    membership, _ = Membership.objects.update_or_create(tenant=tenant, user=user, defaults={"role": role})
    audit.record(actor, tenant, "member.set", user.get_username(), role=role)
    return membership


@transaction.atomic
def remove_membership(actor: Actor, tenant: Tenant, user: User) -> None:
    Membership.objects.filter(tenant=tenant, user=user).delete()
    audit.record(actor, tenant, "member.remove", user.get_username())


def writing_keys(tenant: Tenant) -> TenantKeys:
    """What archiving needs: these keys write, and cannot read what they wrote."""
    row = TenantKey.objects.get(tenant=tenant)
    secret = unseal(row.sealed_write_secret, row.pk, "write secret")
    return TenantKeys(str(tenant.pk), secret, bytes(row.public_key), None)


def reading_keys(tenant: Tenant) -> TenantKeys:
    """What recovery and verification need. Raises KeyUnavailable."""
    row = TenantKey.objects.get(tenant=tenant)
    writing = writing_keys(tenant)
    private = unseal(row.sealed_private_key, row.pk, "private key")
    return TenantKeys(writing.tenant_id, writing.write_secret, writing.public_key, private)
