"""A POST that starts work and bears an Idempotency-Key starts it once, however often it is sent."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.http import Http404
from rest_framework.request import Request
from rest_framework.response import Response

from backups.errors import Conflict, InvalidRequest
from backups.locks import exclusive
from portal.models import IdempotencyKey

HEADER = "Idempotency-Key"
LONGEST = 100


def once(request: Request, start: Callable[[], Response]) -> Response:
    """The answer is kept in the transaction of the work, so that both are there or neither."""
    key = request.headers.get(HEADER, "")
    if not key:
        with transaction.atomic():
            return start()
    if len(key) > LONGEST:
        raise InvalidRequest(f"An {HEADER} has at most {LONGEST} characters.")
    user = request.user
    if not isinstance(user, User):
        raise Http404
    with exclusive(f"idempotency {user.pk} {key}"):
        kept = IdempotencyKey.objects.filter(user=user, key=key).first()
        return _replay(kept, request) if kept else _start(user, key, request, start)


def _start(user: User, key: str, request: Request, start: Callable[[], Response]) -> Response:
    answer = start()
    body = json.loads(json.dumps(answer.data, default=str))
    IdempotencyKey.objects.create(
        user=user,
        key=key,
        fingerprint=_fingerprint(request),
        status=answer.status_code,
        body=body,
        location=answer.headers.get("Location", ""),
    )
    return answer


def _replay(kept: IdempotencyKey, request: Request) -> Response:
    if kept.fingerprint != _fingerprint(request):
        raise Conflict(f"This {HEADER} was used for another request; choose a new one.")
    headers = {"Idempotent-Replayed": "true"} | ({"Location": kept.location} if kept.location else {})
    return Response(kept.body, status=kept.status, headers=headers)


def _fingerprint(request: Request) -> str:
    told: list[Any] = [request.method, request.path, request.data]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()
