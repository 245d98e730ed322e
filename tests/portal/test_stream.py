"""Those who watch a run hear of its changes. Over a real server: the test client does not read streams."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import NamedTuple

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from backups.events import publish
from backups.models import Recovery, Run, Tenant
from tests.portal.worlds import World, build

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).parents[2]
PATIENCE_S = 20


class Server(NamedTuple):
    port: int


class Frame(NamedTuple):
    event: str
    id: str
    data: str


class Stream:
    """What one browser receives."""

    def __init__(self, port: int, path: str, cookie: str, last_id: str = "") -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        headers = {"Cookie": cookie} | ({"Last-Event-ID": last_id} if last_id else {})
        self._connection.request("GET", path, headers=headers)
        self.response: HTTPResponse = self._connection.getresponse()

    def next(self) -> Frame | None:
        """None at the stream's end. Comments are passed over."""
        fields: dict[str, str] = {}
        for line in iter(self.response.readline, b""):
            name, _, value = line.decode().strip().partition(": ")
            if not name and "event" in fields:
                return Frame(fields["event"], fields.get("id", ""), fields["data"])
            if name:
                fields[name] = value
        return None

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def server() -> Iterator[Server]:
    """The portal as it is served, on the tests' database."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "portal.asgi:application", "--port", str(port)]
    command += ["--log-level", "warning", "--timeout-graceful-shutdown", "1"]
    environment = {**os.environ, "DATABASE_URL": _database_url(), "DJANGO_SETTINGS_MODULE": "tests.settings"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        _wait_for(port)
        yield Server(port)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _database_url() -> str:
    tests = settings.DATABASES["default"]
    if connection.vendor == "sqlite":
        return f"sqlite:///{tests['NAME']}"
    return f"postgres://{tests['USER']}@{tests['HOST']}:{tests['PORT']}/{connection.settings_dict['NAME']}"


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("The portal did not start.")


@pytest.fixture
def ours(acme: Tenant, alice: User) -> World:
    return build(acme, alice)


@pytest.fixture
def run(ours: World) -> Run:
    return Run.objects.get(pk=ours.ids["run_id"])


def cookie_of(user: User) -> str:
    client = Client()
    client.force_login(user)
    return f"sessionid={client.cookies['sessionid'].value}"


@pytest.fixture
def opened() -> Iterator[list[Stream]]:
    streams: list[Stream] = []
    yield streams
    for stream in streams:
        stream.close()


@pytest.fixture
def watch(server: Server, run: Run, alice: User, opened: list[Stream]):
    def start(user: User = alice, last_id: str = "", path: str = "") -> Stream:
        path = path or f"/t/{run.tenant_id}/runs/{run.pk}/events/"
        stream = Stream(server.port, path, cookie_of(user), last_id)
        opened.append(stream)
        return stream

    return start


def test_a_watcher_is_first_told_to_fetch_everything(watch) -> None:
    stream = watch()
    assert stream.response.headers["Content-Type"] == "text/event-stream"
    assert stream.next() == ("changed", "", '{"full": true}')


def test_a_change_arrives_with_its_number(watch, run: Run) -> None:
    stream = watch()
    stream.next()
    publish(run.pk, {"item": "x", "state": "archiving"})
    event, id, data = stream.next()
    assert (event, data) == ("changed", '{"item": "x", "state": "archiving"}')
    assert int(id) > 0


def test_all_watchers_hear_it_and_those_of_other_runs_do_not(watch, run: Run, ours: World) -> None:
    first, second = watch(), watch()
    other = watch(path=f"/t/{run.tenant_id}/recoveries/{ours.ids['recovery_id']}/events/")
    for stream in (first, second, other):
        stream.next()
    publish(run.pk, {"n": 1})
    publish(ours.ids["recovery_id"], {"n": 2})
    assert [first.next().data, second.next().data, other.next().data] == ['{"n": 1}', '{"n": 1}', '{"n": 2}']


def test_what_was_missed_is_sent_again(watch, run: Run) -> None:
    stream = watch()
    stream.next()
    publish(run.pk, {"n": 1})
    seen = stream.next()
    stream.close()
    publish(run.pk, {"n": 2})
    publish(run.pk, {"n": 3})
    back = watch(last_id=seen.id)
    assert [back.next().data for _ in range(3)] == ['{"n": 2}', '{"n": 3}', '{"full": true}']


def test_the_stream_ends_with_the_run(watch, run: Run) -> None:
    stream = watch()
    stream.next()
    Run.objects.filter(pk=run.pk).update(state="succeeded")
    publish(run.pk, {"state": "succeeded", "end": True})
    assert stream.next().event == "changed"
    assert stream.next().event == "end"
    assert stream.next() is None


def test_the_stream_of_an_ended_recovery_ends_at_once(watch, run: Run, ours: World) -> None:
    Recovery.objects.filter(pk=ours.ids["recovery_id"]).update(state="failed")
    stream = watch(path=f"/t/{run.tenant_id}/recoveries/{ours.ids['recovery_id']}/events/")
    assert [stream.next().event, stream.next().event, stream.next()] == ["changed", "end", None]


def test_a_stranger_finds_no_stream(watch, bob: User, globex: Tenant, run: Run) -> None:
    assert watch(bob).response.status == 404
    assert watch(bob, path=f"/t/{globex.pk}/runs/{run.pk}/events/").response.status == 404


def test_nothing_is_lost_between_watching_and_reading(watch, run: Run) -> None:
    """Whoever joins while much is happening ends up knowing the last of it."""
    publishing = threading.Thread(target=_publish_many, args=(run,))
    publishing.start()
    stream = watch()
    received = [stream.next()]
    while '"last"' not in received[-1].data:
        received.append(stream.next())
    publishing.join()
    assert received[0].data == '{"full": true}'


def _publish_many(run: Run) -> None:
    try:
        for number in range(30):
            publish(run.pk, {"n": number})
        time.sleep(2)
        publish(run.pk, {"last": True})
    finally:
        connection.close()


def test_watchers_share_one_connection_of_the_database(watch, run: Run) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no connections to count.")
    streams = [watch() for _ in range(8)]
    for stream in streams:
        stream.next()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert cursor.fetchone()[0] == 1


def test_a_lost_connection_is_made_again_and_watchers_are_told(watch, run: Run) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no connection to lose.")
    stream = watch()
    stream.next()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert stream.next().data == '{"full": true}'
    publish(run.pk, {"n": 1})
    assert stream.next().data == '{"n": 1}'
