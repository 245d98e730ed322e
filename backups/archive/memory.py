"""Archive objects in memory: for tests, and as the plainest statement of what a store does."""

import secrets
import time
from collections.abc import Callable, Iterator
from threading import Lock

from backups.archive import marker
from backups.archive.store import Data, ObjectMissing, StoredObject
from backups.errors import Conflict


class MemoryStore:
    parallel_reads = 2

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._lock = Lock()
        self.put(marker.NAME, marker.encode(secrets.token_hex(16)))

    def begin(self, name: str) -> "MemoryObject":
        return MemoryObject(self, name)

    def put(self, name: str, data: Data) -> None:
        with self._lock:
            if name in self._objects:
                raise Conflict(f"{name} exists already and is never overwritten.")
            self._objects[name] = bytes(data), time.time()

    def get(self, name: str) -> bytes:
        try:
            return self._objects[name][0]
        except KeyError as error:
            raise ObjectMissing(f"{name} is missing from the repository.") from error

    def get_range(self, name: str, start: int, length: int) -> bytes:
        return self.get(name)[start : start + length]

    def view(self, name: str) -> memoryview:
        return memoryview(self.get(name))

    def cached_view(self, name: str, _is_sound: Callable[[memoryview], bool]) -> memoryview:
        return self.view(name)

    def exists(self, name: str) -> bool:
        return name in self._objects

    def size(self, name: str) -> int:
        return len(self.get(name))

    def delete(self, name: str) -> None:
        self._objects.pop(name, None)

    def sweep(self, older_than_s: float) -> None:
        """Nothing is ever left unfinished."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        with self._lock:
            found = sorted(item for item in self._objects.items() if item[0].startswith(prefix))
        for name, (content, modified_s) in found:
            yield StoredObject(name=name, size_bytes=len(content), modified_s=modified_s)


class MemoryObject:
    def __init__(self, store: MemoryStore, name: str) -> None:
        self._store, self._name = store, name
        self._content = bytearray()

    def write(self, data: Data) -> None:
        self._content += data

    def finish(self) -> None:
        self._store.put(self._name, self._content)

    def abandon(self) -> None:
        self._content.clear()
