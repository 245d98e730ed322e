"""Opens a repository by its address: a folder, or `s3://bucket/prefix?endpoint=https://host:port&region=name`."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from backups.archive.s3 import Credentials, Place, S3Store
from backups.archive.store import FolderStore, ObjectStore
from backups.errors import InvalidRequest

OPTIONS = {"endpoint", "region"}


def open_store(address: str | Path, *, credentials: Credentials | None = None, writable: bool = True) -> ObjectStore:
    """Credentials of S3 are those of the environment if none are given. Raises RepositoryUnavailable,
    InvalidRequest."""
    if (place := s3_place(address)) is None:
        return FolderStore(Path(address), writable=writable)
    return S3Store(place, credentials or Credentials.of_environment())


def create_store(address: str | Path, *, credentials: Credentials | None = None) -> ObjectStore:
    """Nothing to do if it is a repository already."""
    if (place := s3_place(address)) is None:
        return FolderStore.create(Path(address))
    return S3Store.create(place, credentials or Credentials.of_environment())


def s3_place(address: str | Path) -> Place | None:
    """None for a folder."""
    if not str(address).startswith("s3://"):
        return None
    parts = urlsplit(str(address))
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if not parts.netloc or "@" in parts.netloc or options.keys() - OPTIONS:
        raise InvalidRequest(
            "Write an S3 address as s3://bucket/prefix?endpoint=https://host&region=name, without keys in it."
        )
    endpoint = options.get("endpoint")
    if endpoint is not None and not endpoint.startswith(("https://", "http://")):
        raise InvalidRequest("The endpoint of an S3 address begins with https:// (or http:// in a trusted network).")
    place = Place(bucket=parts.netloc, prefix=parts.path.strip("/"), endpoint=endpoint)
    return place if "region" not in options else Place(**{**vars(place), "region": options["region"]})
