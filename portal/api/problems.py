"""Errors as application/problem+json (RFC 9457), with a stable `code` and a sentence in `detail`."""

from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404
from rest_framework import exceptions, serializers
from rest_framework.response import Response
from rest_framework.views import set_rollback

from backups.errors import (
    ArchiveMissing,
    Conflict,
    HotfirstError,
    InvalidRequest,
    NotFound,
    RepositoryFull,
)

STATUS: dict[type[HotfirstError], HTTPStatus] = {
    NotFound: HTTPStatus.NOT_FOUND,
    ArchiveMissing: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    RepositoryFull: HTTPStatus.INSUFFICIENT_STORAGE,
}


class Problem(serializers.Serializer[Any]):
    title = serializers.CharField()
    status = serializers.IntegerField()
    code = serializers.CharField()
    detail = serializers.CharField()
    by_field = serializers.DictField(required=False, help_text="By field, where the body was at fault.")


def handle(error: Exception, context: dict[str, Any]) -> Response | None:  # noqa: ARG001
    """The framework's exception handler. None: a bug of ours, which the server logs."""
    if isinstance(error, HotfirstError):
        return problem(_status(error), error.code, str(error))
    if isinstance(error, Http404):
        return problem(HTTPStatus.NOT_FOUND, "not_found", "There is nothing here, or it is not yours.")
    if isinstance(error, PermissionDenied):
        return problem(HTTPStatus.FORBIDDEN, "forbidden", str(error) or "Your role does not allow this.")
    if isinstance(error, exceptions.ValidationError):
        set_rollback()
        return problem(HTTPStatus.BAD_REQUEST, "invalid", "The body is not valid.", by_field=_by_field(error.detail))
    if isinstance(error, exceptions.APIException):
        return _of_framework(error)
    return None


def _status(error: HotfirstError) -> HTTPStatus:
    otherwise = HTTPStatus.SERVICE_UNAVAILABLE if error.retryable else HTTPStatus.UNPROCESSABLE_ENTITY
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), otherwise)


def _of_framework(error: exceptions.APIException) -> Response:
    headers = {}
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = str(challenge)
    if wait_s := getattr(error, "wait", None):
        headers["Retry-After"] = str(int(wait_s))
    code = getattr(error.detail, "code", None) or error.default_code
    return problem(HTTPStatus(error.status_code), str(code), str(error.detail), headers=headers)


def _by_field(detail: Any) -> dict[str, Any]:
    return detail if isinstance(detail, dict) else {"non_field_errors": detail}


def problem(
    status: HTTPStatus,
    code: str,
    detail: str,
    *,
    by_field: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    set_rollback()
    body: dict[str, Any] = {"title": status.phrase, "status": status.value, "code": code, "detail": detail}
    if by_field is not None:
        body["by_field"] = by_field
    return Response(body, status=status, headers=headers, content_type="application/problem+json")
