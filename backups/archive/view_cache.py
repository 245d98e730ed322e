"""Copies of index files on this host, for stores that cannot be mapped. Nothing is lost with the folder: what is
missing or not sound is fetched again. Safe for several processes at once."""

import logging
import mmap
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import BinaryIO, cast

from backups.errors import RepositoryUnavailable

log = logging.getLogger(__name__)

KEPT_UNUSED_S = 14 * 86400.0

Fetch = Callable[[BinaryIO], None]
IsSound = Callable[[memoryview], bool]


class ViewCache:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def view(self, name: str, fetch: Fetch, is_sound: IsSound) -> memoryview:
        try:
            return self._kept(name, is_sound) or self._fetched(name, fetch, is_sound)
        except OSError as error:
            log.warning("The cache %s cannot be used: %s", self.folder, error)
            return fetched_view(fetch)

    def _kept(self, name: str, is_sound: IsSound) -> memoryview | None:
        path = self._path(name)
        with suppress(FileNotFoundError), path.open("rb") as file:
            view = mapped(file)
            if is_sound(view):
                os.utime(path)
                return view
        return None

    def _fetched(self, name: str, fetch: Fetch, is_sound: IsSound) -> memoryview:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._forget_unused()
        fresh = self.folder / f"{secrets.token_hex(8)}.new"
        try:
            with fresh.open("xb+") as file:
                fetch(file)
                file.flush()
                view = mapped(file)
            if is_sound(view):
                fresh.rename(self._path(name))
        finally:
            fresh.unlink(missing_ok=True)
        return view

    def _path(self, name: str) -> Path:
        return self.folder / name.replace("/", ".")

    def _forget_unused(self) -> None:
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > KEPT_UNUSED_S:
                    path.unlink()


def fetched_view(fetch: Fetch) -> memoryview:
    """Of a file that goes with the view."""
    try:
        with TemporaryFile() as file:
            opened = cast(BinaryIO, file)
            fetch(opened)
            file.flush()
            return mapped(opened)
    except OSError as error:
        raise RepositoryUnavailable(
            f"The temporary folder {gettempdir()} failed: {error.strerror}; make room in it."
        ) from error


def mapped(file: BinaryIO) -> memoryview:
    if os.fstat(file.fileno()).st_size == 0:
        return memoryview(b"")
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
