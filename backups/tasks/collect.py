"""Each day: gives back the room of archives that are gone."""

import logging

from backups.archive import gc, layout
from backups.archive.store import ObjectStore
from backups.errors import HotfirstError
from backups.models import Archive, Repository, Tenant
from backups.models.archives import ArchiveState
from backups.services.archives import finish_deleting, lock_as_the_rows_say
from backups.services.repositories import open_store
from backups.services.tenants import publish_key, writing_keys

log = logging.getLogger(__name__)
GRACE_S = 24 * 3600


def collect(grace_s: float = GRACE_S) -> None:
    for repository in Repository.objects.all():
        for tenant in Tenant.objects.filter(archives__repository=repository).distinct():
            try:
                _collect(repository, tenant, grace_s)
            except HotfirstError as error:
                log.warning("collecting %s of %s: %s", repository, tenant, error)


def _collect(repository: Repository, tenant: Tenant, grace_s: float) -> None:
    store = open_store(repository)
    publish_key(store, tenant)
    lock_as_the_rows_say(store, repository, tenant)
    _finish_deletions(store, repository, tenant)
    gc.collect(store, str(tenant.pk), writing_keys(tenant), grace_s=grace_s)


def _finish_deletions(store: ObjectStore, repository: Repository, tenant: Tenant) -> None:
    """A kill may have left manifests of deleted rows."""
    there = {stored.name.rpartition("/")[2] for stored in store.list(layout.archives(str(tenant.pk)))}
    deleted = Archive.objects.for_tenant(tenant).filter(repository=repository, state=ArchiveState.DELETED)
    for archive in deleted:
        if str(archive.pk) in there and (refusal := finish_deleting(archive)):
            log.warning("%s is kept: %s", archive, refusal)
