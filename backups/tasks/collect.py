"""Each day: gives back the room of archives that are gone."""

import logging

from backups.archive import gc
from backups.errors import HotfirstError
from backups.models import Archive, Repository, Tenant
from backups.models.archives import ArchiveState
from backups.services.repositories import open_store
from backups.services.tenants import writing_keys

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
    """Manifests of deleted rows first: a kill may have left some."""
    store = open_store(repository)
    deleted = Archive.objects.filter(repository=repository, tenant=tenant, state=ArchiveState.DELETED)
    for archive in deleted:
        gc.delete_archive(store, str(tenant.pk), str(archive.pk))
    gc.collect(store, str(tenant.pk), writing_keys(tenant), grace_s=grace_s)
