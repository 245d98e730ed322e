from pathlib import Path

from django.db import transaction

from backups.archive.store import FolderStore
from backups.errors import InvalidRequest
from backups.models import Repository
from backups.services import audit
from backups.services.audit import Actor


def create_repository(actor: Actor, name: str, path: str) -> Repository:
    """Prepares the folder. Raises RepositoryUnavailable with what to do when it cannot be written."""
    if not Path(path).is_absolute():
        raise InvalidRequest("A repository needs an absolute path, such as /srv/backups.")
    if Repository.objects.filter(name=name).exists() or Repository.objects.filter(path=path).exists():
        raise InvalidRequest("There is a repository of this name or at this path already.")
    FolderStore.create(Path(path))
    with transaction.atomic():
        repository = Repository.objects.create(name=name, path=path)
        audit.record(actor, None, "repository.create", name, path=path)
    return repository


def open_store(repository: Repository) -> FolderStore:
    return FolderStore(Path(repository.path))
