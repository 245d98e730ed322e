from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from uuid import UUID

from django.db.models import Min
from django.shortcuts import get_object_or_404
from django.urls import reverse
from rest_framework.request import Request
from rest_framework.response import Response

from backups.models import AuditEntry, Role, Run, RunItem
from backups.services.audit import Actor
from backups.services.steering import cancel_run, pause_run, raise_item, resume_run, retry_run
from portal.access import Access
from portal.api.base import TenantList, TenantView, answers, lists
from portal.api.idempotency import once
from portal.api.plans import KEY
from portal.api.serializers import (
    AuditEntrySerializer,
    CancelRequest,
    RunDetailSerializer,
    RunItemSerializer,
    RunSerializer,
)

READ = Access("tenant", Role.VIEWER)
STEER = Access("tenant", Role.OPERATOR, Role.OPERATOR)


@lists(RunSerializer)
class Runs(TenantList):
    access = READ
    queryset = Run.objects.defer("forecast")
    serializer_class = RunSerializer
    ordering = ("-created_at",)
    filterset_fields = {"plan": ["exact"], "state": ["exact"], "created_at": ["gte", "lt"]}


class RunDetail(TenantView):
    access = READ
    queryset = Run.objects.all()
    serializer_class = RunDetailSerializer

    @answers({200: RunDetailSerializer})
    def get(self, request: Request, run_id: UUID, **_: Any) -> Response:  # noqa: ARG002
        return Response(RunDetailSerializer(self.one(run_id)).data)


@lists(RunItemSerializer)
class RunItems(TenantList):
    access = READ
    queryset = RunItem.objects.select_related("archive")
    serializer_class = RunItemSerializer
    ordering = ("-priority", "vm_name")
    filterset_fields = {"state": ["exact"], "vm": ["exact"], "batch": ["exact"]}

    def get_queryset(self) -> Any:
        items = super().get_queryset()
        return items.filter(run=self._run()) if hasattr(self, "tenant") else items

    def _run(self) -> Run:
        return get_object_or_404(Run.objects.for_tenant(self.tenant), pk=self.kwargs["run_id"])

    def get_serializer_context(self) -> dict[str, Any]:
        context = dict(super().get_serializer_context())
        if not hasattr(self, "tenant"):
            return context
        begins = self.get_queryset().order_by().values_list("batch").annotate(Min("snapshot_at"))
        return context | {"begins": dict(begins), "foretold": self._run().forecast.get("vms", {})}


class _Steering(TenantView):
    access = STEER
    queryset = Run.objects.all()
    serializer_class = RunSerializer

    def steered(self, request: Request, run_id: UUID, steer: Callable[[Actor, Run], None]) -> Response:
        run = self.one(run_id)

        def steered() -> Response:
            steer(request.user, run)
            return self.accepted(self.one(run_id))

        return once(request, steered)

    def accepted(self, run: Run) -> Response:
        where = reverse("api-run", args=[self.tenant.pk, run.pk])
        return Response(RunSerializer(run).data, status=HTTPStatus.ACCEPTED, headers={"Location": where})


class RunCancel(_Steering):
    @answers({202: RunSerializer}, request=CancelRequest, parameters=[KEY])
    def post(self, request: Request, run_id: UUID, **_: Any) -> Response:
        self.one(run_id)
        body = CancelRequest(data=request.data)
        body.is_valid(raise_exception=True)
        return self.steered(request, run_id, lambda actor, run: cancel_run(actor, run, **body.validated_data))


class RunPause(_Steering):
    """Archives that are being written are finished. VMs that wait give their snapshots back until the run goes on."""

    @answers({202: RunSerializer}, request=None, parameters=[KEY])
    def post(self, request: Request, run_id: UUID, **_: Any) -> Response:
        return self.steered(request, run_id, pause_run)


class RunResume(_Steering):
    @answers({202: RunSerializer}, request=None, parameters=[KEY])
    def post(self, request: Request, run_id: UUID, **_: Any) -> Response:
        return self.steered(request, run_id, resume_run)


class RunRetry(_Steering):
    """A new run of the VMs that this one, which has ended, did not back up."""

    @answers({202: RunSerializer}, request=None, parameters=[KEY])
    def post(self, request: Request, run_id: UUID, **_: Any) -> Response:
        run = self.one(run_id)
        return once(request, lambda: self.accepted(retry_run(request.user, run)))


class RunItemRaise(TenantView):
    """The VM, which waits, is the next of its run to be archived."""

    access = STEER
    queryset = RunItem.objects.select_related("tenant", "archive")
    serializer_class = RunItemSerializer

    @answers({202: RunItemSerializer}, request=None)
    def post(self, request: Request, run_id: UUID, item_id: UUID, **_: Any) -> Response:
        item = get_object_or_404(self.get_queryset(), pk=item_id, run=run_id)
        raise_item(request.user, item)
        return Response(RunItemSerializer(self.one(item_id)).data, status=HTTPStatus.ACCEPTED)


@lists(AuditEntrySerializer)
class Audit(TenantList):
    access = Access("tenant", Role.ADMIN)
    queryset = AuditEntry.objects.all()
    serializer_class = AuditEntrySerializer
    ordering = ("-number",)
    filterset_fields = {"action": ["exact"], "at": ["gte", "lt"]}
