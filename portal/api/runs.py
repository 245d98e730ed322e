from http import HTTPStatus
from typing import Any
from uuid import UUID

from django.shortcuts import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from backups.models import AuditEntry, Role, Run, RunItem
from backups.services.steering import cancel_run
from portal.access import Access
from portal.api.base import TenantList, TenantView, answers, lists
from portal.api.serializers import AuditEntrySerializer, CancelRequest, RunItemSerializer, RunSerializer

READ = Access("tenant", Role.VIEWER)


@lists(RunSerializer)
class Runs(TenantList):
    access = READ
    queryset = Run.objects.all()
    serializer_class = RunSerializer
    ordering = ("-created_at",)
    filterset_fields = {"plan": ["exact"], "state": ["exact"], "created_at": ["gte", "lt"]}


class RunDetail(TenantView):
    access = READ
    queryset = Run.objects.all()
    serializer_class = RunSerializer

    @answers({200: RunSerializer})
    def get(self, request: Request, run_id: UUID, **_: Any) -> Response:  # noqa: ARG002
        return Response(RunSerializer(self.one(run_id)).data)


@lists(RunItemSerializer)
class RunItems(TenantList):
    access = READ
    queryset = RunItem.objects.all()
    serializer_class = RunItemSerializer
    ordering = ("-priority", "vm_name")
    filterset_fields = {"state": ["exact"], "vm": ["exact"]}

    def get_queryset(self) -> Any:
        items = super().get_queryset()
        if hasattr(self, "tenant"):
            items = items.filter(run=get_object_or_404(Run.objects.for_tenant(self.tenant), pk=self.kwargs["run_id"]))
        return items


class RunCancel(TenantView):
    access = Access("tenant", Role.OPERATOR, Role.OPERATOR)
    queryset = Run.objects.all()
    serializer_class = RunSerializer

    @answers({202: RunSerializer}, request=CancelRequest)
    def post(self, request: Request, run_id: UUID, **_: Any) -> Response:
        run = self.one(run_id)
        body = CancelRequest(data=request.data)
        body.is_valid(raise_exception=True)
        cancel_run(request.user, run, body.validated_data["mode"])
        return Response(RunSerializer(self.one(run_id)).data, status=HTTPStatus.ACCEPTED)


@lists(AuditEntrySerializer)
class Audit(TenantList):
    access = Access("tenant", Role.ADMIN)
    queryset = AuditEntry.objects.all()
    serializer_class = AuditEntrySerializer
    ordering = ("-number",)
    filterset_fields = {"action": ["exact"], "at": ["gte", "lt"]}
