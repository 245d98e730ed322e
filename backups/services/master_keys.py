"""A new master key: everything that the old ones seal is sealed again. Each secret goes by itself, so that a kill at
any point leaves all of them readable, and the next call goes on where this one stopped."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db import models, transaction

from backups import vault
from backups.errors import HotfirstError
from backups.models import Repository, Tenant, TenantKey, VCenter
from backups.services import audit
from backups.services.audit import Actor
from backups.services.repositories import open_store
from backups.services.tenants import publish_key

SEALED: tuple[tuple[type[models.Model], str, str], ...] = (
    (VCenter, "sealed_password", "vcenter password"),
    (TenantKey, "sealed_private_key", "private key"),
    (TenantKey, "sealed_write_secret", "write secret"),
)


@dataclass(kw_only=True)
class Resealed:
    """`left`: what could not be sealed again now, in sentences."""

    secrets: int = 0
    left: list[str] = field(default_factory=list)


def rotate(actor: Actor, key_id: str = "") -> str:
    """Makes a new master key current, or the one of this id, and returns its id. `reseal` does the rest."""
    if key_id:
        vault.use_master_key(key_id)
    else:
        key_id = vault.add_master_key(current=True)
    with transaction.atomic():
        audit.record(actor, None, "master_key.rotate", key_id)
    return key_id


def reseal() -> Resealed:
    """All that an old master key seals; nothing of it after a rotation that came to its end."""
    done = Resealed(secrets=sum(_reseal(*found) for found in list(_sealed_by_old_keys())))
    done.left += [f"{row} was changed meanwhile." for _, row, _, _ in _sealed_by_old_keys()]
    for repository in Repository.objects.all():
        _reseal_key_objects(repository, done)
    return done


def _sealed_by_old_keys() -> Iterator[tuple[type[models.Model], Any, str, str]]:
    for model, name, purpose in SEALED:
        for row in model._default_manager.all():
            if getattr(row, name) and not vault.is_under_current(getattr(row, name)):
                yield model, row, name, purpose


def _reseal(model: type[models.Model], row: Any, name: str, purpose: str) -> bool:
    """Only if nobody has changed it meanwhile: then it is sealed by the current key already."""
    old = bytes(getattr(row, name))
    sealed = vault.seal(vault.unseal(old, row.pk, purpose), row.pk, purpose)
    return bool(model._default_manager.filter(pk=row.pk, **{name: old}).update(**{name: sealed}))


def _reseal_key_objects(repository: Repository, done: Resealed) -> None:
    try:
        store = open_store(repository)
    except HotfirstError as error:
        done.left.append(f"The keys in {repository}: {error}")
        return
    for tenant in Tenant.objects.all():
        try:
            done.secrets += publish_key(store, tenant)
        except HotfirstError as error:
            done.left.append(f"The key of {tenant} in {repository}: {error}")
