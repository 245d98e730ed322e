"""Archive objects in a bucket of an S3 service. What is spooled for an upload and what is cached of indexes lies in
local folders and may be lost at any time.

A process that is killed during a large upload leaves parts that nobody sees and that the service may charge for: give
the bucket a lifecycle rule that aborts incomplete multipart uploads after a few days."""

import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from tempfile import SpooledTemporaryFile, gettempdir
from typing import Any, BinaryIO, Self, TypeVar, cast

import obstore
from blake3 import blake3
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store as Bucket

from backups.archive import marker
from backups.archive.store import Data, ObjectMissing, StoredObject
from backups.archive.view_cache import IsSound, ViewCache, fetched_view
from backups.errors import ArchiveError, Conflict, RepositoryFull, RepositoryUnavailable

PART_BYTES = 8 * 1024 * 1024
PARTS_AT_ONCE = 4
SINGLE_PUT_BYTES = 2 * PART_BYTES
"""Larger objects go in parts. Only what goes in one is protected by the service against a name that is taken; the names
of larger ones are random."""
SPOOLED_IN_MEMORY_BYTES = 1024 * 1024
TRIES = 3
"""Of a whole call, beside those of its requests, where an answer that is cut off is not asked for again."""
RETRIES: Any = {
    "max_retries": 8,
    "retry_timeout": timedelta(seconds=120),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=3), "base": 2},
}
TIMEOUTS: Any = {"connect_timeout": "10s", "read_timeout": "60s", "timeout": "300s"}
CODE = re.compile(r"<Code>(\w+)</Code>")
REFUSED = re.compile(r"status code: 4\d\d")
"""Answers that will not be others the next time."""
BEYOND_END = re.compile(r"status code: 416")
FULL_CODES = ("QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage")
DENIED_CODES = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Credentials:
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    @classmethod
    def of_environment(cls) -> Self:
        try:
            key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        except KeyError as error:
            raise RepositoryUnavailable(
                "An S3 repository needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment."
            ) from error
        return cls(access_key_id=key, secret_access_key=secret, session_token=os.environ.get("AWS_SESSION_TOKEN"))


@dataclass(frozen=True, kw_only=True)
class Place:
    """`endpoint` None: Amazon's own of the region."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str = "us-east-1"

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


class Runtime:
    """The client's threads do not survive a fork: the child of a process that has used it would wait for ever."""

    def __init__(self) -> None:
        self._used = self._lost = False
        os.register_at_fork(after_in_child=self._forked)

    def use(self) -> None:
        if self._lost:
            raise RepositoryUnavailable("This process was split off from one that used S3 already; start it by itself.")
        self._used = True

    def _forked(self) -> None:
        self._lost = self._used


RUNTIME = Runtime()


class Calls:
    def __init__(self, place: Place) -> None:
        self._place = place

    def made(self, work: Callable[[], Result]) -> Result:
        """Raises FileNotFoundError and AlreadyExistsError as they are, and errors of the product."""
        RUNTIME.use()
        for left in reversed(range(TRIES)):
            try:
                return work()
            except AlreadyExistsError:
                raise
            except BaseError as error:
                if not left or REFUSED.search(str(error)):
                    raise self._trouble(error) from error
        raise AssertionError

    def _trouble(self, error: BaseError) -> ArchiveError:
        said, where = str(error), self._place
        code = found[1] if (found := CODE.search(said)) else ""
        if code in FULL_CODES:
            return RepositoryFull(f"The repository {where} is full; make room or enlarge it, then try again.")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or code in DENIED_CODES:
            return RepositoryUnavailable(f"{where} refused the access key; check it and what it is allowed to do.")
        if code == "NoSuchBucket":
            return RepositoryUnavailable(f"There is no bucket {where.bucket} at this endpoint; check its name.")
        what = f"answered with {code}" if code else "cannot be reached"
        return RepositoryUnavailable(f"The repository {where} {what}; check the service and the network.")


class S3Store:
    """Names that are taken are refused by the service itself, in one request (`If-None-Match`)."""

    parallel_reads = 6

    def __init__(self, place: Place, credentials: Credentials, *, cache: Path | None = None) -> None:
        self.place = place
        self._calls, self._bucket = Calls(place), _opened(place, credentials)
        content = self._marker()
        marker.check(content, str(place))
        # Of its content, so that a prefix that was emptied and made anew has another cache.
        self._cache = ViewCache((cache or _cache_folder()) / blake3(content).hexdigest()[:32])

    @classmethod
    def create(cls, place: Place, credentials: Credentials, *, cache: Path | None = None) -> Self:
        """Makes the prefix a repository; nothing to do if it is one."""
        calls, bucket = Calls(place), _opened(place, credentials)
        first = calls.made(lambda: next(iter(obstore.list(bucket, chunk_size=1)), []))
        if not first:
            content = marker.encode(secrets.token_hex(16))
            with suppress(AlreadyExistsError):
                calls.made(lambda: obstore.put(bucket, marker.NAME, content, mode="create"))
        elif not calls.made(lambda: _exists(bucket, marker.NAME)):
            raise RepositoryUnavailable(f"{place} holds other objects; choose an empty prefix for the repository.")
        return cls(place, credentials, cache=cache)

    def begin(self, name: str) -> "S3Object":
        return S3Object(self, name)

    def put(self, name: str, data: Data) -> None:
        tries = count(1)

        def upload() -> None:
            next(tries)
            obstore.put(self._bucket, name, bytes(data), mode="create", use_multipart=False)

        try:
            self._calls.made(upload)
        except AlreadyExistsError as error:
            # An earlier try may have arrived, and only its answer been lost.
            repeated = next(tries) > 2
            if not (data or repeated) or self.get(name) != data:
                raise Conflict(f"{name} exists already and is never overwritten.") from error

    def put_file(self, name: str, file: BinaryIO, size_bytes: int) -> None:
        if size_bytes <= SINGLE_PUT_BYTES:
            self.put(name, file.read())
            return
        if self.exists(name):
            raise Conflict(f"{name} exists already and is never overwritten.")

        def upload() -> None:
            file.seek(0)
            obstore.put(self._bucket, name, file, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)

        self._calls.made(upload)

    def get(self, name: str) -> bytes:
        return self._read(name, lambda: bytes(obstore.get(self._bucket, name).bytes()))

    def get_range(self, name: str, start: int, length: int) -> bytes:
        if length <= 0:
            return b""
        return self._read(name, lambda: _range(self._bucket, name, start, length))

    def view(self, name: str) -> memoryview:
        return fetched_view(lambda file: self._fetch(name, file))

    def cached_view(self, name: str, is_sound: IsSound) -> memoryview:
        return self._cache.view(name, lambda file: self._fetch(name, file), is_sound)

    def _fetch(self, name: str, file: BinaryIO) -> None:
        def fetch() -> None:
            file.seek(0)
            file.truncate()
            for piece in obstore.get(self._bucket, name):
                file.write(piece)

        self._read(name, fetch)

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except ObjectMissing:
            return False
        return True

    def size(self, name: str) -> int:
        return self._read(name, lambda: obstore.head(self._bucket, name)["size"])

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._calls.made(lambda: obstore.delete(self._bucket, name))

    def sweep(self, older_than_s: float) -> None:
        """Nothing to do: what is spooled goes with its process, and parts by the bucket's lifecycle rule."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        found = self._calls.made(lambda: [one for batch in obstore.list(self._bucket, prefix) for one in batch])
        for one in sorted(found, key=lambda one: one["path"]):
            modified_s = one["last_modified"].timestamp()
            yield StoredObject(name=one["path"], size_bytes=one["size"], modified_s=modified_s)

    def _read(self, name: str, work: Callable[[], Result]) -> Result:
        try:
            return self._calls.made(work)
        except FileNotFoundError as error:
            # Without its bucket every object seems to be missing: that must not look like damage.
            self._marker()
            raise ObjectMissing(f"{name} is missing from the repository {self.place}.") from error

    def _marker(self) -> bytes:
        try:
            return self._calls.made(lambda: bytes(obstore.get(self._bucket, marker.NAME).bytes()))
        except FileNotFoundError as error:
            raise RepositoryUnavailable(
                f"{self.place} is not a repository; check its bucket and prefix, or create it first."
            ) from error


class S3Object:
    """Spooled on this host, and uploaded as a whole."""

    def __init__(self, store: S3Store, name: str) -> None:
        self._store, self._name = store, name
        self._file = SpooledTemporaryFile(max_size=SPOOLED_IN_MEMORY_BYTES)  # noqa: SIM115
        self._size_bytes = 0

    def write(self, data: Data) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise RepositoryUnavailable(
                f"The temporary folder {gettempdir()} failed: {error.strerror}; make room in it."
            ) from error
        self._size_bytes += len(data)

    def finish(self) -> None:
        self._file.seek(0)
        self._store.put_file(self._name, cast(BinaryIO, self._file), self._size_bytes)
        self._file.close()

    def abandon(self) -> None:
        self._file.close()


def _opened(place: Place, credentials: Credentials) -> Bucket:
    config: dict[str, Any] = {
        "region": place.region,
        "endpoint": place.endpoint,
        "access_key_id": credentials.access_key_id,
        "secret_access_key": credentials.secret_access_key,
        "session_token": credentials.session_token,
    }
    return Bucket(
        place.bucket,
        prefix=place.prefix or None,
        config=cast(Any, {name: value for name, value in config.items() if value is not None}),
        client_options=cast(Any, {**TIMEOUTS, "allow_http": (place.endpoint or "").startswith("http:")}),
        retry_config=RETRIES,
    )


def _exists(bucket: Bucket, name: str) -> bool:
    try:
        obstore.head(bucket, name)
    except FileNotFoundError:
        return False
    return True


def _range(bucket: Bucket, name: str, start: int, length: int) -> bytes:
    try:
        return bytes(obstore.get_range(bucket, name, start=start, length=length))
    except BaseError as error:
        if BEYOND_END.search(str(error)):
            return b""
        raise


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hotfirst"
