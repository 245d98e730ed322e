"""Where archive objects are kept. An object is written once and never modified."""

import errno
import mmap
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from backups.archive import marker
from backups.errors import ArchiveError, ArchiveMissing, Conflict, RepositoryFull, RepositoryUnavailable

UNFINISHED = "unfinished"
FULL = (errno.ENOSPC, errno.EDQUOT)
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
MAPPED_FROM_BYTES = 64 * 1024
"""Smaller objects are read: a mapping costs a file descriptor."""

Data = bytes | bytearray | memoryview


class ObjectMissing(ArchiveMissing):
    """No object of this name."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """`modified_s` is by the store's own clock: compare it only with others of the same store."""

    name: str
    size_bytes: int
    modified_s: float


class ObjectWriter(Protocol):
    """An object in the making: nobody sees it before `finish` returns."""

    def write(self, data: Data) -> None: ...

    def finish(self) -> None:
        """Durable and visible, all of it, when it returns. Raises Conflict if the name is taken."""

    def abandon(self) -> None:
        """May be called at any time, also after `finish`, and then does nothing."""


class ObjectStore(Protocol):
    """Every call is safe from several threads and processes, and raises RepositoryUnavailable or RepositoryFull."""

    parallel_reads: int
    """So many ranges at once are read fastest."""

    def begin(self, name: str) -> ObjectWriter: ...

    def put(self, name: str, data: Data) -> None:
        """Like `begin`, `write`, `finish`: durable and visible, all of it, when it returns."""

    def get(self, name: str) -> bytes:
        """Raises ObjectMissing."""

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Shorter at the object's end. Raises ObjectMissing."""

    def view(self, name: str) -> memoryview:
        """All of it, mapped if that can be done. Raises ObjectMissing."""

    def cached_view(self, name: str, is_sound: Callable[[memoryview], bool], /) -> memoryview:
        """Like `view`, perhaps of a copy that this host has kept and that is sound. What is fetched anew is not
        judged: that is the caller's."""

    def exists(self, name: str) -> bool: ...

    def size(self, name: str) -> int:
        """Bytes. Raises ObjectMissing."""

    def delete(self, name: str) -> None:
        """Nothing to do if it is missing."""

    def sweep(self, older_than_s: float) -> None:
        """Clears away what writers that died left unfinished."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Finished objects whose name starts with `prefix`, which ends in `/`. One that was finished before the
        call and is not deleted during it is never left out."""


class FolderStore:
    """A folder of a local or network file system."""

    parallel_reads = 2

    def __init__(self, root: Path, *, writable: bool = True) -> None:
        """Not `writable`: it is only read, as from a copy on a read-only medium."""
        self.root = Path(root)
        self._check_marker()
        if writable and not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
            raise RepositoryUnavailable(f"The repository {self.root} cannot be written; check its owner and mount.")

    @classmethod
    def create(cls, root: Path) -> Self:
        """Makes the folder a repository; nothing to do if it is one."""
        root = Path(root)
        _make_repository(root)
        return cls(root)

    @classmethod
    def open(cls, root: Path) -> Self:
        return cls(root)

    def _check_marker(self) -> None:
        try:
            content = (self.root / marker.NAME).read_bytes()
        except FileNotFoundError as error:
            raise RepositoryUnavailable(
                f"{self.root} is not a repository; check that its file system is mounted, or create it first."
            ) from error
        except OSError as error:
            raise RepositoryUnavailable(f"{self.root / marker.NAME} cannot be read: {error}.") from error
        marker.check(content, str(self.root))

    def begin(self, name: str) -> "FolderObject":
        return FolderObject(self, name)

    def put(self, name: str, data: Data) -> None:
        writer = self.begin(name)
        try:
            writer.write(data)
            writer.finish()
        finally:
            writer.abandon()

    def get(self, name: str) -> bytes:
        with self.translated(name):
            return (self.root / name).read_bytes()

    def get_range(self, name: str, start: int, length: int) -> bytes:
        with self.translated(name):
            descriptor = os.open(self.root / name, os.O_RDONLY)
            try:
                # Asked for more than there is, pread would take memory for all of it.
                return os.pread(descriptor, max(0, min(length, os.fstat(descriptor).st_size - start)), start)
            finally:
                os.close(descriptor)

    def view(self, name: str) -> memoryview:
        with self.translated(name), (self.root / name).open("rb") as file:
            if os.fstat(file.fileno()).st_size < MAPPED_FROM_BYTES:
                return memoryview(file.read())
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def cached_view(self, name: str, _is_sound: Callable[[memoryview], bool]) -> memoryview:
        return self.view(name)

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except ObjectMissing:
            return False
        return True

    def size(self, name: str) -> int:
        with self.translated(name):
            return (self.root / name).stat().st_size

    def delete(self, name: str) -> None:
        path = self.root / name
        with self.translated(name):
            path.unlink(missing_ok=True)

    def sweep(self, older_than_s: float) -> None:
        now = time.time()
        with self.translated(UNFINISHED):
            for path, _, modified_s in _files(self.root / UNFINISHED):
                if now - modified_s > older_than_s:
                    path.unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        with self.translated(prefix):
            found = sorted(_files(self.root / prefix))
        for path, size_bytes, modified_s in found:
            name = path.relative_to(self.root).as_posix()
            yield StoredObject(name=name, size_bytes=size_bytes, modified_s=modified_s)

    @contextmanager
    def translated(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            # Without its file system every object seems to be missing: that must not look like damage.
            self._check_marker()
            raise ObjectMissing(f"{name} is missing from the repository {self.root}.") from error
        except OSError as error:
            raise self._trouble(error) from error

    def _trouble(self, error: OSError) -> ArchiveError:
        if error.errno in FULL:
            return RepositoryFull(f"The repository {self.root} is full; make room or enlarge it, then try again.")
        return RepositoryUnavailable(f"The repository {self.root} failed: {error.strerror}; check its file system.")


class FolderObject:
    """Written under a temporary name, then given its own."""

    def __init__(self, store: FolderStore, name: str) -> None:
        self._store, self._name = store, name
        self._temporary: Path | None = store.root / UNFINISHED / secrets.token_hex(16)
        with store.translated(UNFINISHED):
            self._file = self._temporary.open("xb", buffering=0)

    def write(self, data: Data) -> None:
        left = memoryview(data)
        with self._store.translated(self._name):
            while left:
                left = left[self._file.write(left) :]

    def finish(self) -> None:
        assert self._temporary is not None  # noqa: S101
        target = self._store.root / self._name
        with self._store.translated(self._name):
            os.fsync(self._file.fileno())
            self._file.close()
            _make_folders(target.parent)
            try:
                _move(self._temporary, target)
            except FileExistsError as error:
                raise Conflict(f"{self._name} exists already and is never overwritten.") from error
            self._temporary = None
            _sync_folder(target.parent)

    def abandon(self) -> None:
        self._file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)


def _move(temporary: Path, target: Path) -> None:
    """By a second name, because renaming would replace what another writer has just put there; file systems that know
    no second names leave a moment in which it still may."""
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        temporary.rename(target)
    else:
        temporary.unlink()


def _make_repository(root: Path) -> None:
    try:
        if (root / marker.NAME).exists():
            return
        root.mkdir(mode=0o700, exist_ok=True)
        if any(path.name not in (UNFINISHED, "lost+found") for path in root.iterdir()):
            raise RepositoryUnavailable(f"{root} holds other files; choose an empty folder for the repository.")
        (root / UNFINISHED).mkdir(mode=0o700, exist_ok=True)
        fresh = root / UNFINISHED / secrets.token_hex(16)
        with fresh.open("xb") as file:
            file.write(marker.encode(secrets.token_hex(16)))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(root / marker.NAME)
        _sync_folder(root)
    except OSError as error:
        raise RepositoryUnavailable(
            f"{root} cannot be made a repository: {error.strerror}; check that it can be written."
        ) from error


def _make_folders(folder: Path) -> None:
    """Each new name is made durable in the folder above it."""
    if not folder.is_dir():
        _make_folders(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> Iterator[tuple[Path, int, float]]:
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir():
            yield from _files(Path(entry.path))
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue
        yield Path(entry.path), status.st_size, status.st_mtime
