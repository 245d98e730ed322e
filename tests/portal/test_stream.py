"""Those who watch a run hear of its changes. Over a real server: the test client does not read streams."""

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.client import HTTPConnection, HTTPResponse
from typing import NamedTuple

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from backups.events import publish
from backups.models import Recovery, Run, Tenant
from portal.models import ApiToken
from tests.portal.server import PATIENCE_S, serve
from tests.portal.worlds import World, build

pytestmark = pytest.mark.django_db(transaction=True)


class Frame(NamedTuple):
    event: str
    id: str
    data: str


class Stream:
    """What one browser or program receives."""

    def __init__(self, port: int, path: str, credentials: dict[str, str], last_id: str = "") -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        headers = credentials | ({"Last-Event-ID": last_id} if last_id else {})
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
def server() -> Iterator[int]:
    with serve() as port:
        yield port


@pytest.fixture
def ours(acme: Tenant, alice: User) -> World:
    return build(acme, alice)


@pytest.fixture
def run(ours: World) -> Run:
    return Run.objects.get(pk=ours.ids["run_id"])


def session_of(user: User) -> dict[str, str]:
    client = Client()
    client.force_login(user)
    return {"Cookie": f"sessionid={client.cookies['sessionid'].value}"}


def token_of(user: User, tenant: Tenant) -> dict[str, str]:
    _, token = ApiToken.objects.create(user=user, tenant=tenant, name="watcher", expiry=timedelta(days=1))
    return {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}


@pytest.fixture
def opened() -> Iterator[list[Stream]]:
    streams: list[Stream] = []
    yield streams
    for stream in streams:
        stream.close()


@pytest.fixture
def watch(server: int, run: Run, alice: User, opened: list[Stream]):
    def start(user: User = alice, last_id: str = "", path: str = "") -> Stream:
        path = path or f"/t/{run.tenant_id}/runs/{run.pk}/events/"
        stream = Stream(server, path, session_of(user), last_id)
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


def test_a_program_watches_with_its_token(server: int, run: Run, alice: User, opened: list[Stream]) -> None:
    stream = Stream(server, f"/api/v1/tenants/{run.tenant_id}/runs/{run.pk}/events/", token_of(alice, run.tenant))
    opened.append(stream)
    stream.next()
    publish(run.pk, {"n": 1})
    assert stream.next().data == '{"n": 1}'


def test_a_program_of_another_tenant_finds_no_stream(server: int, run: Run, bob: User, globex: Tenant) -> None:
    for tenant in (run.tenant, globex):
        path = f"/api/v1/tenants/{tenant.pk}/runs/{run.pk}/events/"
        stream = Stream(server, path, token_of(bob, globex))
        assert stream.response.status == 404
        assert stream.response.headers["Content-Type"] == "application/problem+json"
        stream.close()


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
    assert _connections() == 1


def _connections() -> int:
    """Those of the server; the database's own helpers do not count."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        count: int = cursor.fetchone()[0]
        return count


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
