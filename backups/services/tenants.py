import logging

from django.contrib.auth.models import User
from django.db import transaction

from backups.archive import key_objects
from backups.archive.addresses import open_store
from backups.archive.keys import TenantKeys
from backups.archive.store import ObjectStore
from backups.errors import ArchiveDamaged, ArchiveError, InvalidRequest, KeyUnavailable
from backups.models import Membership, Repository, Role, Tenant, TenantKey
from backups.services import audit
from backups.services.audit import Actor
from backups.vault import master_ring, seal, unseal

log = logging.getLogger(__name__)


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
    transaction.on_commit(lambda: _publish_everywhere(tenant))
    return tenant


def _publish_everywhere(tenant: Tenant) -> None:
    """A repository that is away now gets the key from the next collection."""
    for repository in Repository.objects.all():
        try:
            publish_key(open_store(repository.path), tenant)
        except ArchiveError as error:
            log.warning("the key of %s is not in %s yet: %s", tenant, repository, error)


def publish_key(store: ObjectStore, tenant: Tenant) -> bool:
    """Into the repository, sealed by the current master key, so that repository and master key are enough to read it.
    Nothing to do if it is there. True if it was there under an old master key."""
    keys, ring = reading_keys(tenant), master_ring()
    if _published(store, keys, ring) == keys:
        return key_objects.rotate_master(store, keys.tenant_id, ring)
    key_objects.publish(store, keys.tenant_id, key_objects.seal_by_master(keys, ring))
    return False


def _published(store: ObjectStore, keys: TenantKeys, ring: key_objects.MasterRing) -> TenantKeys | None:
    try:
        return key_objects.find_by_master(store, keys.tenant_id, ring)
    except (ArchiveDamaged, KeyUnavailable):
        return None


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
