"""The lab's own HTTP call, `/lab/faults`: GET shows the scripted faults, PUT replaces them all, POST changes some (null
takes one back). With the user and password of the vCenter, as Basic authentication."""

import base64
import binascii
import json
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vsphere.lab.http import Handler

PATH = "/lab/faults"


def faults(handler: "Handler") -> None:
    body = b"".join(handler.body())
    if not _is_owner(handler):
        headers = {"WWW-Authenticate": 'Basic realm="lab"'}
        handler.reply(HTTPStatus.UNAUTHORIZED, b"The lab's own user and password are needed.", headers=headers)
        return
    known = handler.lab.faults
    try:
        if handler.command != "GET":
            known.want(_merged(known.wanted() if handler.command == "POST" else {}, json.loads(body)))
    except ValueError as error:
        handler.reply(HTTPStatus.BAD_REQUEST, str(error).encode())
        return
    handler.reply(HTTPStatus.OK, json.dumps(known.wanted()).encode(), "application/json")


def _merged(held: dict[str, Any], change: Any) -> Any:
    if not isinstance(change, dict):
        return change
    return {kind: value for kind, value in (held | change).items() if value is not None}


def _is_owner(handler: "Handler") -> bool:
    kind, _, encoded = handler.headers.get("Authorization", "").partition(" ")
    try:
        given = base64.b64decode(encoded, validate=True) if kind == "Basic" else b""
    except binascii.Error:
        return False
    owner = f"{handler.server.sessions.username}:{handler.server.sessions.password}"
    return secrets.compare_digest(given, owner.encode())
