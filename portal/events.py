"""Live changes of runs and recoveries, as server-sent events.

One hub a process: on PostgreSQL one LISTEN connection, else one query each half second, whatever the number of
watchers. A watcher is told that something changed and fetches the state himself; so nothing is missed that matters.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from asgiref.sync import sync_to_async
from django.db import connection, connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404

from backups.events import CHANNEL
from backups.models import Event, Recovery, Role, Run
from backups.models.recoveries import RECOVERY_FINAL
from backups.models.runs import RUN_FINAL
from portal.access import Access, enter

log = logging.getLogger(__name__)
POLL_S = 0.5
HEARTBEAT_S = 15
RECONNECT_S = 2
QUEUED = 64
REPLAYED = 500
FULL: dict[str, Any] = {"full": True}


def frame(event: str, data: dict[str, Any], event_id: int | None = None) -> bytes:
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


class Told(NamedTuple):
    frame: bytes
    may_be_the_end: bool


def changed(data: dict[str, Any], event_id: int | None = None) -> Told:
    return Told(frame("changed", data, event_id), bool(data.get("end") or data.get("full")))


class Hub:
    """Lives in one event loop."""

    def __init__(self) -> None:
        self._watchers: dict[UUID, set[asyncio.Queue[Told]]] = {}
        self._task: asyncio.Task[None] | None = None

    def subscribe(self, topic: UUID) -> "asyncio.Queue[Told]":
        queue: asyncio.Queue[Told] = asyncio.Queue(QUEUED)
        self._watchers.setdefault(topic, set()).add(queue)
        if self._task is None or self._task.done():
            source = self._listen if connection.vendor == "postgresql" else self._poll
            self._task = asyncio.get_running_loop().create_task(source())
        return queue

    def unsubscribe(self, topic: UUID, queue: "asyncio.Queue[Told]") -> None:
        queues = self._watchers.get(topic, set())
        queues.discard(queue)
        if not queues:
            self._watchers.pop(topic, None)

    def _tell(self, topic: UUID, told: Told) -> None:
        for queue in self._watchers.get(topic, ()):
            if queue.full():
                # A watcher too slow for every change needs none of them: the newest state will do.
                while not queue.empty():
                    queue.get_nowait()
                told = changed(FULL)
            queue.put_nowait(told)

    def _tell_all(self) -> None:
        for topic in list(self._watchers):
            self._tell(topic, changed(FULL))

    async def _poll(self) -> None:
        last = await in_thread(_last_id)
        while True:
            await asyncio.sleep(POLL_S)
            if not self._watchers:
                continue
            try:
                for event_id, topic, data in await in_thread(_events_after, last, list(self._watchers)):
                    last = max(last, event_id)
                    self._tell(topic, changed(data, event_id))
            except Exception:
                log.exception("looking for events")

    async def _listen(self) -> None:
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(**_where(), autocommit=True) as listening:
                    await listening.execute(f"LISTEN {CHANNEL}")
                    self._tell_all()  # whatever was missed while nobody listened
                    await self._forward(listening)
            except psycopg.Error as error:
                log.warning("listening for events: %s", error)
                await asyncio.sleep(RECONNECT_S)

    async def _forward(self, listening: "psycopg.AsyncConnection[Any]") -> None:
        while True:
            ids = [i async for i in self._notified(listening, timeout_s=HEARTBEAT_S, stop_after=1)]
            if not ids:
                await listening.execute("SELECT 1")  # notices a dead peer
                continue
            ids += [i async for i in self._notified(listening, timeout_s=0, stop_after=None)]
            for event_id, topic, data in await in_thread(_events, ids):
                self._tell(topic, changed(data, event_id))

    async def _notified(
        self, listening: "psycopg.AsyncConnection[Any]", *, timeout_s: float, stop_after: int | None
    ) -> AsyncIterator[int]:
        async for notice in listening.notifies(timeout=timeout_s, stop_after=stop_after):
            event_id, _, topic = notice.payload.partition(" ")
            if UUID(topic) in self._watchers:
                yield int(event_id)


async def in_thread(function: Any, *args: Any) -> Any:
    """In a thread that gives its database connection back: else each stream would keep one for hours."""

    def work() -> Any:
        try:
            return function(*args)
        finally:
            connections.close_all()

    return await sync_to_async(work, thread_sensitive=False)()


def _where() -> dict[str, Any]:
    parameters = connection.get_connection_params()
    return {name: parameters[name] for name in ("dbname", "user", "password", "host", "port") if parameters.get(name)}


def _last_id() -> int:
    return Event.objects.order_by("-pk").values_list("pk", flat=True).first() or 0


def _events_after(last: int, topics: list[UUID]) -> list[tuple[int, UUID, Any]]:
    rows = Event.objects.filter(pk__gt=last, topic__in=topics).order_by("pk")
    return list(rows.values_list("pk", "topic", "data")[:2000])


def _events(ids: list[int]) -> list[tuple[int, UUID, Any]]:
    return list(Event.objects.filter(pk__in=ids).order_by("pk").values_list("pk", "topic", "data"))


_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}


def hub() -> Hub:
    return _hubs.setdefault(asyncio.get_running_loop(), Hub())


async def run_stream(request: HttpRequest, tenant_id: UUID, run_id: UUID) -> HttpResponse | StreamingHttpResponse:
    return await _stream(request, tenant_id, Run, run_id)


async def recovery_stream(
    request: HttpRequest, tenant_id: UUID, recovery_id: UUID
) -> HttpResponse | StreamingHttpResponse:
    return await _stream(request, tenant_id, Recovery, recovery_id)


run_stream.access = recovery_stream.access = Access("tenant", Role.VIEWER)  # type: ignore[attr-defined]


async def _stream(
    request: HttpRequest, tenant_id: UUID, model: type[Run] | type[Recovery], pk: UUID
) -> HttpResponse | StreamingHttpResponse:
    """Subscribes before it reads, so that nothing falls between."""
    if request.method != "GET":
        return HttpResponse(status=405)
    if not await in_thread(_may_watch, request, tenant_id, model, pk):
        return HttpResponse(status=401)
    queue = hub().subscribe(pk)
    try:
        missed = await in_thread(_missed, pk, request.headers.get("Last-Event-ID", ""))
    except BaseException:
        hub().unsubscribe(pk, queue)
        raise
    response = StreamingHttpResponse(_frames(model, pk, queue, missed), content_type="text/event-stream")
    response["Cache-Control"] = "no-cache, no-transform"
    response["X-Accel-Buffering"] = "no"
    return response


def _may_watch(request: HttpRequest, tenant_id: UUID, model: type[Run] | type[Recovery], pk: UUID) -> bool:
    """False: nobody is signed in. Raises Http404 and PermissionDenied as every view does."""
    if not request.user.is_authenticated:
        return False
    tenant = enter(request.user, tenant_id, Role.VIEWER)
    get_object_or_404(model.objects.for_tenant(tenant), pk=pk)
    return True


def _missed(topic: UUID, last_event_id: str) -> list[Told]:
    told = [changed(FULL)]
    if last_event_id.isdigit():
        rows = Event.objects.filter(topic=topic, pk__gt=int(last_event_id)).order_by("pk")[:REPLAYED]
        told += [changed(row.data, row.pk) for row in rows]
    return told


def _has_ended(model: type[Run] | type[Recovery], pk: UUID) -> bool:
    final = RUN_FINAL if model is Run else RECOVERY_FINAL
    return model.objects.filter(pk=pk, state__in=final).exists() or not model.objects.filter(pk=pk).exists()


async def _frames(
    model: type[Run] | type[Recovery], pk: UUID, queue: "asyncio.Queue[Told]", missed: list[Told]
) -> AsyncIterator[bytes]:
    try:
        yield b"retry: 3000\n\n"
        for told in missed:
            yield told.frame
        ended = await in_thread(_has_ended, model, pk)
        while not ended:
            try:
                told = await asyncio.wait_for(queue.get(), HEARTBEAT_S)
            except TimeoutError:
                yield b": still here\n\n"
                continue
            yield told.frame
            ended = told.may_be_the_end and await in_thread(_has_ended, model, pk)
        yield frame("end", {})
    finally:
        hub().unsubscribe(pk, queue)
