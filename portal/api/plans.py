from datetime import datetime
from http import HTTPStatus
from typing import Any
from uuid import UUID

from django.urls import reverse
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from backups.models import Archive, Plan, Role, VApp, Vm
from backups.retention import Verdict
from backups.schedule import next_starts
from backups.services import plans as service
from backups.services.archives import dry_run
from backups.services.runs import start_run
from portal.access import Access
from portal.api.base import TenantList, TenantView, all_of, answers, lists
from portal.api.idempotency import once
from portal.api.problems import problem
from portal.api.serializers import PlanSerializer, RetentionSerializer, RunRequest, RunSerializer, Starts, Targets

IF_MATCH = OpenApiParameter("If-Match", str, OpenApiParameter.HEADER, description="The plan's ETag, as read.")
MOST_GOING = 100
KEY = OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER, description="A repeat starts nothing twice.")


def etag(plan: Plan) -> str:
    return f'"{plan.version}"'


@lists(PlanSerializer)
class Plans(TenantList):
    queryset = Plan.objects.all()
    serializer_class = PlanSerializer
    ordering = ("name",)
    filterset_fields = {"name": ["exact", "icontains"]}

    @answers({201: PlanSerializer})
    def post(self, request: Request, **_: Any) -> Response:
        body = PlanSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        plan = service.create_plan(request.user, self.tenant, **body.validated_data)
        where = reverse("api-plan", args=[self.tenant.pk, plan.pk])
        headers = {"Location": where, "ETag": etag(plan)}
        return Response(PlanSerializer(plan).data, status=HTTPStatus.CREATED, headers=headers)


class PlanDetail(TenantView):
    queryset = Plan.objects.all()
    serializer_class = PlanSerializer

    @answers({200: PlanSerializer, 304: None})
    def get(self, request: Request, plan_id: UUID, **_: Any) -> Response:
        plan = self.one(plan_id)
        if request.headers.get("If-None-Match") == etag(plan):
            return Response(status=HTTPStatus.NOT_MODIFIED)
        return Response(PlanSerializer(plan).data, headers={"ETag": etag(plan)})

    @answers({200: PlanSerializer}, parameters=[IF_MATCH])
    def patch(self, request: Request, plan_id: UUID, **_: Any) -> Response:
        plan = self.one(plan_id)
        stale = self._stale(request, plan)
        if stale:
            return stale
        body = PlanSerializer(plan, data=request.data, partial=True)
        body.is_valid(raise_exception=True)
        plan = service.change_plan(request.user, plan, **body.validated_data)
        return Response(PlanSerializer(plan).data, headers={"ETag": etag(plan)})

    def _stale(self, request: Request, plan: Plan) -> Response | None:
        wanted = request.headers.get("If-Match")
        if wanted is None:
            told = "Send the plan's ETag in If-Match, so that nobody's change is overwritten."
            return problem(HTTPStatus.PRECONDITION_REQUIRED, "if_match_missing", told)
        if wanted != etag(plan):
            told = "The plan was changed since you read it; read it again."
            return problem(HTTPStatus.PRECONDITION_FAILED, "stale", told)
        return None

    @answers({204: None})
    def delete(self, request: Request, plan_id: UUID, **_: Any) -> Response:
        service.delete_plan(request.user, self.one(plan_id))
        return Response(status=HTTPStatus.NO_CONTENT)


class PlanStarts(TenantView):
    queryset = Plan.objects.all()
    serializer_class = Starts
    access = Access("tenant", Role.VIEWER)

    @answers({200: Starts})
    def get(self, request: Request, plan_id: UUID, **_: Any) -> Response:  # noqa: ARG002
        plan = self.one(plan_id)
        return Response({"starts": next_starts(service.schedule_of(plan), timezone.now(), 5)})


class PlanRetention(TenantView):
    """A dry run: nothing is deleted."""

    queryset = Plan.objects.select_related("tenant")
    serializer_class = RetentionSerializer
    access = Access("tenant", Role.VIEWER)

    @answers({200: RetentionSerializer})
    def get(self, request: Request, plan_id: UUID, **_: Any) -> Response:  # noqa: ARG002
        plan, now = self.one(plan_id), timezone.now()
        judged = dry_run(plan, now)
        going = [(archive, verdict) for archive, verdict in judged if not verdict.stays]
        answer = self._promised(service.retention_preview(plan, now)) | {
            "archives_now": len(judged),
            "going_now": len(going),
            "going": [self._going(archive, verdict) for archive, verdict in going[:MOST_GOING]],
        }
        return Response(RetentionSerializer(answer).data)

    def _promised(self, promise: service.Promise | None) -> dict[str, Any]:
        if promise is None:
            return {"starts": 0, "until": None, "kept": []}
        kept = [{"backup_time": at, "reasons": verdict.reasons} for at, verdict in promise.kept]
        return {"starts": promise.starts, "until": promise.until, "kept": kept}

    def _going(self, archive: Archive, verdict: Verdict) -> dict[str, Any]:
        told = {"archive": archive.pk, "vm_name": archive.vm_name, "backup_time": archive.backup_time}
        return told | {"reason": verdict.dropped}


class _Targeting(TenantView):
    queryset = Plan.objects.all()
    serializer_class = Targets
    access = Access("tenant", Role.ADMIN, Role.ADMIN)

    def targets(self, request: Request) -> tuple[list[VApp], list[Vm]]:
        body = Targets(data=request.data)
        body.is_valid(raise_exception=True)
        wanted = body.validated_data
        vapps = all_of(VApp.objects.for_tenant(self.tenant), wanted["vapps"])
        return vapps, all_of(Vm.objects.for_tenant(self.tenant), wanted["vms"])


class PlanApply(_Targeting):
    @answers({204: None}, request=Targets)
    def post(self, request: Request, plan_id: UUID, **_: Any) -> Response:
        plan = self.one(plan_id)
        vapps, vms = self.targets(request)
        service.apply_plan(request.user, plan, vapps, vms)
        return Response(status=HTTPStatus.NO_CONTENT)


class Revoke(_Targeting):
    @answers({204: None}, request=Targets)
    def post(self, request: Request, **_: Any) -> Response:
        vapps, vms = self.targets(request)
        service.revoke_plan(request.user, self.tenant, vapps, vms)
        return Response(status=HTTPStatus.NO_CONTENT)


class PlanRuns(TenantView):
    """Back up now."""

    queryset = Plan.objects.all()
    serializer_class = RunSerializer
    access = Access("tenant", Role.OPERATOR, Role.OPERATOR)

    @answers({202: RunSerializer}, request=RunRequest, parameters=[KEY])
    def post(self, request: Request, plan_id: UUID, **_: Any) -> Response:
        plan = self.one(plan_id)
        body = RunRequest(data=request.data)
        body.is_valid(raise_exception=True)
        return once(request, lambda: self._start(request, plan, **body.validated_data))

    def _start(
        self, request: Request, plan: Plan, vms: list[UUID] | None = None, common_time: datetime | None = None
    ) -> Response:
        chosen = None if vms is None else all_of(Vm.objects.for_tenant(self.tenant), vms)
        run = start_run(request.user, plan, chosen, common_time=common_time)
        where = reverse("api-run", args=[self.tenant.pk, run.pk])
        return Response(RunSerializer(run).data, status=HTTPStatus.ACCEPTED, headers={"Location": where})
