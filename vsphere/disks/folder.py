"""Files on datastores over vCenter's HTTPS: `/folder/<path>?dcPath=…&dsName=…`, on the session's certificate and
cookie. One connection a thread."""

import http.client
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from backups.errors import PlatformError
from vsphere.faults import TRANSPORT_ERRORS, unreachable
from vsphere.session import LOGINS, Session

TRIES = 3
LANES = 4
"""Requests in flight for one read, and for all reads of this process. A host has 48 MB of buffers for NFC, which
datastore ranges use as well: over processes, the engine's cap of readers a host keeps the sum within."""


@dataclass(frozen=True)
class File:
    """A file on a datastore. `datacenter`: the inventory path of the datacenter that the datastore belongs to."""

    datacenter: str
    datastore: str
    path: str

    @property
    def url(self) -> str:
        return f"/folder/{quote(self.path)}?{urlencode({'dcPath': self.datacenter, 'dsName': self.datastore})}"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Body:
    """What a PUT sends: made anew for each attempt. `length` in bytes."""

    def __init__(self, length: int, parts: Callable[[], Iterable[bytes]]) -> None:
        self.length, self.parts = length, parts


class FolderClient:
    """Thread-safe. Every request may be repeated without harm, and is, after an error of the network."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.lanes = ThreadPoolExecutor(LANES, thread_name_prefix="folder")
        self._mine = threading.local()
        self._all: set[http.client.HTTPSConnection] = set()
        self._lock = threading.Lock()

    def read_range(self, file: File, start: int, length: int) -> Answer:
        """The caller checks for 206: a server without ranges would send the whole file, which is not read."""
        return self._request("GET", file, {"Range": f"bytes={start}-{start + length - 1}"}, None, max_bytes=length)

    def write(self, file: File, body: Body, content_range: str | None = None) -> Answer:
        """Whole file, or with `content_range` a part of it where the server supports that."""
        headers = {"Content-Length": str(body.length), "Content-Type": "application/octet-stream"}
        if content_range:
            headers["Content-Range"] = content_range
        return self._request("PUT", file, headers, body)

    def _request(
        self, method: str, file: File, headers: dict[str, str], body: Body | None, max_bytes: int | None = None
    ) -> Answer:
        failures = 0
        for _ in range(TRIES + LOGINS):
            epoch, cookie = self._session.cookie()
            try:
                answer = self._once(method, file.url, headers | {"Cookie": cookie}, body, max_bytes)
            except TRANSPORT_ERRORS as error:
                self._drop()
                failures += 1
                if failures == TRIES:
                    raise unreachable(error, self._session.address) from error
                time.sleep(0.2 * failures)
                continue
            if answer.status != http.client.UNAUTHORIZED:
                return answer
            self._drop()
            self._session.renew(epoch)
        raise PlatformError("vCenter keeps refusing this session's access to datastore files; log in again.")

    def _once(self, method: str, url: str, headers: dict[str, str], body: Body | None, max_bytes: int | None) -> Answer:
        connection = self._connection()
        # http.client would send an iterable chunked, which datastores do not take, unless Content-Length is given.
        connection.request(method, url, body=body.parts() if body else None, headers=headers)
        response = connection.getresponse()
        if max_bytes is None or response.status == http.client.PARTIAL_CONTENT:
            return Answer(response.status, response.headers, response.read())
        self._drop()  # leaves a body of unknown size unread
        return Answer(response.status, response.headers, b"")

    def _connection(self) -> http.client.HTTPSConnection:
        connection: http.client.HTTPSConnection | None = getattr(self._mine, "connection", None)
        if connection is None:
            session = self._session
            connection = http.client.HTTPSConnection(
                session.host, session.port, context=session.tls, timeout=session.timeout_s
            )
            self._mine.connection = connection
            with self._lock:
                self._all.add(connection)
        return connection

    def _drop(self) -> None:
        connection = getattr(self._mine, "connection", None)
        if connection is not None:
            self._mine.connection = None
            with self._lock:
                self._all.discard(connection)
            connection.close()

    def close(self) -> None:
        self.lanes.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            connections, self._all = self._all, set()
        for connection in connections:
            connection.close()
