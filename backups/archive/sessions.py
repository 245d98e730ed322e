"""A writer session says that it lives, so that gc leaves alone what it may refer to. All objects are written once:
`0` marks the start, each later number is a heartbeat that replaces the one before."""

import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Event, Thread

from backups.archive import layout
from backups.archive.store import ObjectStore
from backups.errors import ArchiveError, RepositoryUnavailable

HEARTBEAT_S = 60.0
STALE_S = 3600.0
"""A session that has not been heard of for so long is dead: gc ends it, and its commit is then refused."""

log = logging.getLogger(__name__)


class WriterSession:
    """Begin it before looking at what may be referred to; end it after the manifest."""

    def __init__(self, store: ObjectStore, tenant_id: str) -> None:
        self.id = secrets.token_hex(16)
        self._store, self._prefix = store, f"{layout.sessions(tenant_id)}{self.id}/"
        self._beat = 0
        self._ended = Event()
        store.put(f"{self._prefix}0", b"")
        self._thread = Thread(target=self._keep_beating, name="archive-heartbeat", daemon=True)
        self._thread.start()

    def _keep_beating(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            try:
                self._store.put(f"{self._prefix}{self._beat + 1}", b"")
                if self._beat:
                    self._store.delete(f"{self._prefix}{self._beat}")
                self._beat += 1
            except ArchiveError as error:
                # The next beat may succeed; if none does, `assert_alive` refuses the commit.
                log.warning("No heartbeat of session %s: %s", self.id, error)

    def assert_alive(self) -> None:
        if not self._store.exists(f"{self._prefix}0"):
            raise RepositoryUnavailable(
                "This backup was out of touch with its repository for so long that its data may have been cleared "
                "away; it has to be made again."
            )

    def publish(self, name: str, encoded: bytes) -> None:
        """Stores a manifest. A process that was suspended for hours may wake up here, after gc gave it up."""
        self.assert_alive()
        self._store.put(name, encoded)
        try:
            self.assert_alive()
        except BaseException:
            self._store.delete(name)
            raise

    def end(self) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            for number in (self._beat, 0):
                self._store.delete(f"{self._prefix}{number}")


@dataclass(frozen=True, kw_only=True)
class SeenSession:
    id: str
    started_s: float
    heard_s: float


def living(store: ObjectStore, tenant_id: str, now_s: float) -> list[SeenSession]:
    """Ends those that are stale, by the store's clock, and answers with the others."""
    sessions = list(_seen(store, tenant_id))
    stale = [session for session in sessions if now_s - session.heard_s > STALE_S]
    for session in stale:
        _end(store, f"{layout.sessions(tenant_id)}{session.id}/")
    return [session for session in sessions if session not in stale]


def _seen(store: ObjectStore, tenant_id: str) -> Iterable[SeenSession]:
    times: dict[str, list[float]] = {}
    for stored in store.list(layout.sessions(tenant_id)):
        times.setdefault(stored.name.split("/")[-2], []).append(stored.modified_s)
    for session, modified in times.items():
        yield SeenSession(id=session, started_s=min(modified), heard_s=max(modified))


def _end(store: ObjectStore, prefix: str) -> None:
    """The start goes first: without it the session cannot commit."""
    store.delete(f"{prefix}0")
    for stored in list(store.list(prefix)):
        store.delete(stored.name)
