"""Tags, over the REST interface at /rest/com/vmware/cis: a session of its own, categories, tags, and what carries them.
Kept in `tags.json`; nothing is ever deleted."""

import base64
import binascii
import json
import re
import secrets
import threading
import uuid
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from vsphere.lab.state import replace_file

if TYPE_CHECKING:
    from vsphere.lab.http import Handler

PREFIX = "/rest/com/vmware/cis"
KINDS = {"tag": "Tag", "category": "Category"}
Answer = tuple[HTTPStatus, Any]
NOT_FOUND: Answer = (HTTPStatus.NOT_FOUND, {"type": "com.vmware.vapi.std.errors.not_found"})


class Tags:
    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._kept: dict[str, Any] = {"tag": {}, "category": {}, "carriers": {}}
        if path.exists():
            self._kept = json.loads(path.read_text())
        self.sessions: set[str] = set()

    def names(self, kind: str) -> list[str]:
        return list(self._kept[kind])

    def find(self, kind: str, ref: str) -> Any:
        return self._kept[kind].get(ref)

    def create(self, kind: str, spec: dict[str, Any]) -> str:
        ref = f"urn:vmomi:InventoryService{KINDS[kind]}:{uuid.uuid4()}:GLOBAL"
        with self._lock:
            self._kept[kind][ref] = spec | {"id": ref}
            self._save()
        return ref

    def attach(self, ref: str, carrier: dict[str, str], *, attached: bool) -> None:
        with self._lock:
            carriers = [each for each in self._kept["carriers"].get(ref, []) if each != carrier]
            self._kept["carriers"][ref] = carriers + [carrier] * attached
            self._save()

    def carriers(self, ref: str) -> list[dict[str, str]]:
        found: list[dict[str, str]] = self._kept["carriers"].get(ref, [])
        return found

    def _save(self) -> None:
        replace_file(self._path, json.dumps(self._kept))


def serve(handler: "Handler") -> None:
    body = b"".join(handler.body())
    tags, session = handler.server.tags, handler.headers.get("vmware-api-session-id", "")
    path = urlsplit(handler.path).path.removeprefix(PREFIX)
    if path == "/session":
        status, value = _session(handler, tags, session)
    elif session not in tags.sessions:
        status, value = HTTPStatus.UNAUTHORIZED, {"type": "com.vmware.vapi.std.errors.unauthenticated"}
    else:
        action = dict(parse_qsl(urlsplit(handler.path).query)).get("~action", "")
        status, value = _answer(tags, handler.command, path, action, json.loads(body or b"{}"))
    handler.reply(status, json.dumps({"value": value}).encode(), "application/json")


def _session(handler: "Handler", tags: Tags, session: str) -> Answer:
    if handler.command == "DELETE":
        tags.sessions.discard(session)
        return HTTPStatus.OK, None
    sessions = handler.server.sessions
    try:
        given = base64.b64decode(handler.headers.get("Authorization", "").partition(" ")[2], validate=True)
    except binascii.Error:
        given = b""
    if not secrets.compare_digest(given, f"{sessions.username}:{sessions.password}".encode()):
        return HTTPStatus.UNAUTHORIZED, {"type": "com.vmware.vapi.std.errors.unauthenticated"}
    made = uuid.uuid4().hex
    tags.sessions.add(made)
    return HTTPStatus.OK, made


def _answer(tags: Tags, command: str, path: str, action: str, body: dict[str, Any]) -> Answer:
    whole = re.fullmatch(r"/tagging/(tag|category)", path)
    if whole:
        made = command == "POST"
        return HTTPStatus.OK, tags.create(whole[1], body["create_spec"]) if made else tags.names(whole[1])
    one = re.fullmatch(r"/tagging/(tag|category)/id:(.+)", path)
    if one:
        found = tags.find(one[1], unquote(one[2]))
        return (HTTPStatus.OK, found) if found else NOT_FOUND
    association = re.fullmatch(r"/tagging/tag-association(?:/id:(.+))?", path)
    act = ACTIONS.get(action)
    return act(tags, unquote(association[1] or ""), body) if association and act else NOT_FOUND


def _attach(tags: Tags, ref: str, body: dict[str, Any]) -> Answer:
    tags.attach(ref, body["object_id"], attached=True)
    return HTTPStatus.OK, None


def _detach(tags: Tags, ref: str, body: dict[str, Any]) -> Answer:
    tags.attach(ref, body["object_id"], attached=False)
    return HTTPStatus.OK, None


def _carriers(tags: Tags, _ref: str, body: dict[str, Any]) -> Answer:
    return HTTPStatus.OK, [{"tag_id": ref, "object_ids": tags.carriers(ref)} for ref in body["tag_ids"]]


ACTIONS: dict[str, Callable[[Tags, str, dict[str, Any]], Answer]] = {
    "attach": _attach,
    "detach": _detach,
    "list-attached-objects-on-tags": _carriers,
}
