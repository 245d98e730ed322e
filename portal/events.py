"""Live changes for those who watch a run or a recovery, as server-sent events. One Hub in each process hears of new
events and hands them to its watchers; PostgreSQL tells it, SQLite is asked. A watcher that may have missed something
is told to fetch everything (`"full": true`), so nothing here needs to be kept."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from asgiref.sync import sync_to_async
from django.db import Error, connection, connections
from django.http import HttpRequest, StreamingHttpResponse
from django.shortcuts import get_object_or_404

from backups.events import CHANNEL
from backups.models import Event, Recovery, Role, Run, Tenant
from backups.models.recoveries import RECOVERY_FINAL
from backups.models.runs import RUN_FINAL
from portal.access import tenant_view

log = logging.getLogger(__name__)
HEARTBEAT_S = 15.0
POLL_S = 0.5
RECONNECT_S = 2.0
READY_S = 5.0
STREAM_S = 900.0
"""A stream ends after this long. The browser comes back, and its right to watch is checked again."""
QUEUE_LENGTH = 64
REPLAYED = 500
BEAT = b": heartbeat\n\n"
END = b"event: end\ndata: {}\n\n"
FINAL = RUN_FINAL | RECOVERY_FINAL

Row = tuple[int, UUID, dict[str, Any]]


@dataclass(frozen=True)
class Change:
    """One frame; `last` if nothing follows it. `full` stands for whatever was missed. Id 0: not known, so that the
    browser keeps the one it has."""

    id: int
    data: dict[str, Any]

    @property
    def last(self) -> bool:
        return bool(self.data.get("end"))

    @property
    def full(self) -> bool:
        return bool(self.data.get("full"))

    def frame(self) -> bytes:
        head = f"id: {self.id}\n" if self.id else ""
        return f"{head}event: changed\ndata: {json.dumps(self.data)}\n\n".encode()


Queue = asyncio.Queue[Change]


def missed(last_id: int) -> Change:
    return Change(last_id, {"full": True})


class Hub:
    """Belongs to one event loop, and works only while somebody watches."""

    def __init__(self) -> None:
        self._queues: dict[UUID, set[Queue]] = {}
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._lost = False
        self._last_id = 0

    @asynccontextmanager
    async def watch(self, topic: UUID) -> AsyncIterator[Queue]:
        """Entered before the state is read, so that nothing falls in between."""
        queue: Queue = asyncio.Queue(QUEUE_LENGTH)
        self._queues.setdefault(topic, set()).add(queue)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        try:
            with suppress(TimeoutError):  # the database is away: the watcher is told when it is back
                await asyncio.wait_for(self._ready.wait(), READY_S)
            _empty(queue)  # what came until now is in the state that is read next
            yield queue
        finally:
            self._leave(topic, queue)

    def _leave(self, topic: UUID, queue: Queue) -> None:
        self._queues[topic].discard(queue)
        if not self._queues[topic]:
            del self._queues[topic]
        if not self._queues and self._task:
            self._task.cancel()
            self._task = None
            self._ready.clear()

    async def _work(self) -> None:
        while True:
            try:
                await (self._listen() if connection.vendor == "postgresql" else self._poll())
            except (psycopg.Error, Error, OSError) as error:
                log.warning("live changes: %s; trying again", error)
                self._ready.clear()
                self._lost = True
                await asyncio.sleep(RECONNECT_S)

    def _arrived(self) -> None:
        """Called once nothing more can be missed; until then, after a failure, something may have been."""
        self._ready.set()
        if self._lost:
            self._lost = False
            for queue in set().union(*self._queues.values()):
                _put(queue, missed(self._last_id))

    def _hand_out(self, rows: Iterable[Row]) -> None:
        for id, topic, data in rows:
            self._last_id = max(self._last_id, id)
            for queue in self._queues.get(topic, ()):
                _put(queue, Change(id, data))

    async def _listen(self) -> None:
        """The rows come over the connection that listens: all watchers together hold this one."""
        async with await psycopg.AsyncConnection.connect(**_address(), autocommit=True) as listener:
            await listener.execute(f"LISTEN {CHANNEL}")
            self._arrived()
            while True:
                ids = await self._heard(listener, HEARTBEAT_S, stop_after=1)
                if not ids:
                    await listener.execute("SELECT 1")  # a peer that died says nothing
                    continue
                ids += await self._heard(listener, 0)  # what else is there: one query for a burst
                self._hand_out(await _rows(listener, ids))

    async def _heard(
        self, listener: "psycopg.AsyncConnection[Any]", timeout_s: float, stop_after: int | None = None
    ) -> list[int]:
        heard = listener.notifies(timeout=timeout_s, stop_after=stop_after)
        return [int(notice.payload.split()[0]) async for notice in heard]

    async def _poll(self) -> None:
        """SQLite has one writer, so ids commit in order and the highest one seen is enough to know."""
        self._last_id = await _in_thread(_highest_id)
        self._arrived()
        while True:
            await asyncio.sleep(POLL_S)
            self._hand_out(await _in_thread(lambda: _rows_after(self._last_id)))


def _put(queue: Queue, change: Change) -> None:
    """A watcher too slow for its queue loses the backlog and is told to fetch everything."""
    if queue.full():
        _empty(queue)
        change = missed(change.id)
    queue.put_nowait(change)


def _empty(queue: Queue) -> None:
    while not queue.empty():
        queue.get_nowait()


def _address() -> dict[str, Any]:
    parameters = connection.get_connection_params()
    alive = {"keepalives": 1, "keepalives_idle": 15, "connect_timeout": 5}
    return alive | {name: value for name, value in parameters.items() if name not in ("cursor_factory", "context")}


async def _rows(listener: "psycopg.AsyncConnection[Any]", ids: list[int]) -> list[Row]:
    # The table's name is ours.
    query = f'SELECT id, topic, data FROM "{Event._meta.db_table}" WHERE id = ANY(%s) ORDER BY id'  # noqa: S608
    return await (await listener.execute(query, [ids])).fetchall()


async def _in_thread(read: Callable[[], Any]) -> Any:
    def read_and_close() -> Any:
        try:
            return read()
        finally:
            connections.close_all()

    return await sync_to_async(read_and_close, thread_sensitive=False)()


def _highest_id() -> int:
    return Event.objects.order_by("-id").values_list("id", flat=True).first() or 0


def _rows_after(last_id: int) -> list[Row]:
    return list(Event.objects.filter(id__gt=last_id).order_by("id").values_list("id", "topic", "data"))


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def hub() -> Hub:
    return _hubs.setdefault(asyncio.get_running_loop(), Hub())


@tenant_view(Role.VIEWER)
async def run_stream(request: HttpRequest, tenant: Tenant, run_id: UUID) -> StreamingHttpResponse:
    run = await sync_to_async(get_object_or_404)(Run.objects.for_tenant(tenant), pk=run_id)
    return stream_of(request, run)


@tenant_view(Role.VIEWER)
async def recovery_stream(request: HttpRequest, tenant: Tenant, recovery_id: UUID) -> StreamingHttpResponse:
    recovery = await sync_to_async(get_object_or_404)(Recovery.objects.for_tenant(tenant), pk=recovery_id)
    return stream_of(request, recovery)


def stream_of(request: HttpRequest, job: Run | Recovery) -> StreamingHttpResponse:
    """The job's changes until it ends. The caller has made sure that the user may see the job."""
    asked = request.headers.get("Last-Event-ID", "")
    seen_id = int(asked) if asked.isdecimal() and len(asked) < 19 else None
    response = StreamingHttpResponse(_frames(job, seen_id), content_type="text/event-stream")
    response["Cache-Control"] = "no-cache, no-transform"
    response["X-Accel-Buffering"] = "no"
    return response


async def _frames(job: Run | Recovery, seen_id: int | None) -> AsyncIterator[bytes]:
    async with hub().watch(job.pk) as queue:
        replay, ended = await sync_to_async(_read)(job, seen_id)
        for change in replay:
            yield change.frame()
        until = asyncio.get_running_loop().time() + STREAM_S
        while not ended and asyncio.get_running_loop().time() < until:
            try:
                change = await asyncio.wait_for(queue.get(), HEARTBEAT_S)
            except TimeoutError:
                yield BEAT
                continue
            yield change.frame()
            ended = change.last or (change.full and (await sync_to_async(_read)(job, None))[1])
        if ended:
            yield END


def _read(job: Run | Recovery, seen_id: int | None) -> tuple[list[Change], bool]:
    """What was missed after `seen_id` and then the call to fetch everything; whether the job has ended."""
    try:
        events = Event.objects.filter(topic=job.pk)
        last_id = events.order_by("-id").values_list("id", flat=True).first() or 0
        later = [] if seen_id is None else events.filter(id__gt=seen_id).order_by("id")[:REPLAYED]
        job.refresh_from_db(fields=["state"])
        return [*(Change(event.pk, event.data) for event in later), missed(last_id)], job.state in FINAL
    finally:
        _let_go()


def _let_go() -> None:
    """Else a stream would keep its thread's connection for as long as it lives."""
    for each in connections.all(initialized_only=True):
        if not each.in_atomic_block:
            each.close()
