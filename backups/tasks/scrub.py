"""Each night a share of what lies in the repositories is compared with its hashes, so that a month goes round once.
What is damaged is marked, for the next run to read again, and so are the archives that use it."""

import logging

from django.db import transaction
from django.utils import timezone

from backups.archive import marks, verify
from backups.errors import HotfirstError, Interrupted
from backups.leases import DRAIN
from backups.models import Archive, Repository, Tenant
from backups.models.archives import ArchiveState
from backups.services import audit
from backups.services.repositories import open_store
from backups.services.tenants import writing_keys

log = logging.getLogger(__name__)
NIGHTS = 30


def scrub(part: int | None = None, parts: int = NIGHTS) -> None:
    """That of the day, if no part is named."""
    part = timezone.now().toordinal() % parts if part is None else part
    for repository in Repository.objects.all():
        for tenant in Tenant.objects.filter(archives__repository=repository).distinct():
            try:
                _scrub(repository, tenant, part, parts)
            except Interrupted:
                return
            except HotfirstError as error:
                log.warning("scrubbing %s of %s: %s", repository, tenant, error)


def _scrub(repository: Repository, tenant: Tenant, part: int, parts: int) -> None:
    """Needs no private key."""
    store = open_store(repository)
    report = verify.scrub(store, str(tenant.pk), part=part, parts=parts, check=_stop_if_draining)
    for damage in report.damages:
        log.warning("in %s of %s: %s", repository, tenant, damage.reason)
    for damaged in marks.damaged_archives(store, writing_keys(tenant)):
        _show_damaged(repository, tenant, damaged)


def _stop_if_draining() -> None:
    if DRAIN.value:
        raise Interrupted("The worker stops; this share is read again in the next round.")


@transaction.atomic
def _show_damaged(repository: Repository, tenant: Tenant, damaged: marks.DamagedArchive) -> None:
    good = Archive.objects.for_tenant(tenant).filter(repository=repository, state=ArchiveState.GOOD)
    archive = good.filter(pk=damaged.archive_id).first()
    if archive and good.filter(pk=archive.pk).update(state=ArchiveState.DAMAGED):
        detail = {"archive": str(archive.pk), "reason": damaged.reason}
        audit.record(None, tenant, "archive.damaged", str(archive), **detail)
