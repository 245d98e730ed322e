from pathlib import Path

from django.db import transaction

from backups.archive import addresses
from backups.archive.store import ObjectStore
from backups.errors import InvalidRequest
from backups.models import Repository, Tenant
from backups.services import audit
from backups.services.audit import Actor
from backups.services.tenants import publish_key


def create_repository(actor: Actor, name: str, path: str) -> Repository:
    """`path`: a folder, or an S3 address. Raises RepositoryUnavailable with what to do when it cannot be written."""
    if addresses.s3_place(path) is None and not Path(path).is_absolute():
        raise InvalidRequest(
            "A repository needs an absolute path, such as /srv/backups, or an address, such as "
            "s3://bucket/prefix?endpoint=https://s3.example."
        )
    if Repository.objects.filter(name=name).exists() or Repository.objects.filter(path=path).exists():
        raise InvalidRequest("There is a repository of this name or at this path already.")
    store = addresses.create_store(path)
    for tenant in Tenant.objects.all():
        publish_key(store, tenant)
    with transaction.atomic():
        repository = Repository.objects.create(name=name, path=path)
        audit.record(actor, None, "repository.create", name, path=path)
    return repository


def open_store(repository: Repository) -> ObjectStore:
    """A bucket is opened with the credentials in the environment, and never by a process that forks afterwards: its
    children could not use it."""
    return addresses.open_store(repository.path)
