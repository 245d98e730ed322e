"""The same streams as the pages have, for programs with a token."""

import json
from typing import Any
from uuid import UUID

from django.http import StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request

from backups.models import Recovery, Role, Run
from portal.access import Access
from portal.api.base import TenantView, answers
from portal.events import stream_of

LAST = OpenApiParameter("Last-Event-ID", int, OpenApiParameter.HEADER, description="Send again what followed it.")
FRAMES = {(200, "text/event-stream"): str}


class EventStream(BaseRenderer):
    """Lets clients accept only streams; the stream itself is not rendered, problems are."""

    media_type = "text/event-stream"
    format = "json"  # that of problems

    def render(self, data: Any, accepted_media_type: Any = None, renderer_context: Any = None) -> bytes:  # noqa: ARG002
        return json.dumps(data, default=str).encode()


class _Stream(TenantView):
    access = Access("tenant", Role.VIEWER)
    renderer_classes = [EventStream, JSONRenderer]


class RunEvents(_Stream):
    """Server-sent events `changed` until the run ends, and then `end`. After `"full": true`, read the whole run."""

    queryset = Run.objects.all()

    @answers(FRAMES, parameters=[LAST])
    def get(self, request: Request, run_id: UUID, **_: Any) -> StreamingHttpResponse:
        return stream_of(request, self.one(run_id))


class RecoveryEvents(_Stream):
    """Server-sent events `changed` until the recovery ends, and then `end`. After `"full": true`, read all of it."""

    queryset = Recovery.objects.all()

    @answers(FRAMES, parameters=[LAST])
    def get(self, request: Request, recovery_id: UUID, **_: Any) -> StreamingHttpResponse:
        return stream_of(request, self.one(recovery_id))
