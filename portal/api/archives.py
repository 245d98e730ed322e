from http import HTTPStatus
from typing import Any
from uuid import UUID

from django.urls import reverse
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from backups.engine.recovering import Placement
from backups.models import Archive, Recovery, Role
from backups.models.recoveries import RecoveryMode
from backups.services.archives import delete_archive, lock_archive, verify_archive
from backups.services.recoveries import cancel_recovery, recovery_points, start_recovery
from portal.access import Access
from portal.api.base import TenantList, TenantView, acts_for_provider, all_of, answers, lists
from portal.api.idempotency import once
from portal.api.plans import KEY
from portal.api.serializers import (
    ArchiveSerializer,
    Lock,
    RecoveryPointSerializer,
    RecoveryRequest,
    RecoverySerializer,
    VAppName,
    Verified,
)

PLACEMENT = ("host", "datastore", "networks", "same_identity")
READ = Access("tenant", Role.VIEWER)
VAPP = OpenApiParameter("vapp_name", str, required=True)
OPERATE = Access("tenant", Role.VIEWER, Role.OPERATOR)


@lists(ArchiveSerializer)
class Archives(TenantList):
    access = READ
    queryset = Archive.objects.all()
    serializer_class = ArchiveSerializer
    ordering = ("-backup_time",)
    filterset_fields = {
        "vm": ["exact"],
        "run": ["exact"],
        "vapp_name": ["exact"],
        "state": ["exact"],
        "backup_time": ["gte", "lt"],
    }


class ArchiveDetail(TenantView):
    access = Access("tenant", Role.VIEWER, Role.ADMIN)
    queryset = Archive.objects.all()
    serializer_class = ArchiveSerializer

    @answers({200: ArchiveSerializer})
    def get(self, request: Request, archive_id: UUID, **_: Any) -> Response:  # noqa: ARG002
        return Response(ArchiveSerializer(self.one(archive_id)).data)

    @answers({204: None})
    def delete(self, request: Request, archive_id: UUID, **_: Any) -> Response:
        delete_archive(request.user, self.one(archive_id))
        return Response(status=HTTPStatus.NO_CONTENT)


class ArchiveVerify(TenantView):
    access = OPERATE
    queryset = Archive.objects.all()
    serializer_class = Verified

    @answers({200: Verified}, request=None)
    def post(self, request: Request, archive_id: UUID, **_: Any) -> Response:
        return Response({"good": verify_archive(request.user, self.one(archive_id))})


class ArchiveLock(TenantView):
    """Until then neither retention nor a person deletes the archive."""

    access = Access("tenant", Role.VIEWER, Role.ADMIN)
    queryset = Archive.objects.all()
    serializer_class = ArchiveSerializer

    @answers({200: ArchiveSerializer}, request=Lock)
    def post(self, request: Request, archive_id: UUID, **_: Any) -> Response:
        archive = self.one(archive_id)
        body = Lock(data=request.data)
        body.is_valid(raise_exception=True)
        return Response(ArchiveSerializer(lock_archive(request.user, archive, **body.validated_data)).data)


class RecoveryPoints(TenantView):
    """The backup times that a vApp can be recovered to, newest first, with the archives of its VMs."""

    access = READ
    queryset = Archive.objects.all()
    serializer_class = RecoveryPointSerializer
    pagination_class = None

    @answers({200: RecoveryPointSerializer(many=True)}, parameters=[VAPP])
    def get(self, request: Request, **_: Any) -> Response:
        asked = VAppName(data=request.query_params)
        asked.is_valid(raise_exception=True)
        points = recovery_points(self.tenant, **asked.validated_data)
        return Response(RecoveryPointSerializer(points, many=True).data)


@lists(RecoverySerializer)
class Recoveries(TenantList):
    """As new needs the role operator, in place administrator: it overwrites."""

    access = OPERATE
    queryset = Recovery.objects.prefetch_related("items")
    serializer_class = RecoverySerializer
    ordering = ("-created_at",)
    filterset_fields = {"state": ["exact"], "created_at": ["gte", "lt"]}

    @answers({202: RecoverySerializer}, request=RecoveryRequest, parameters=[KEY])
    def post(self, request: Request, **_: Any) -> Response:
        body = RecoveryRequest(data=request.data)
        body.is_valid(raise_exception=True)
        wanted = dict(body.validated_data)
        if wanted["mode"] == RecoveryMode.IN_PLACE:
            self.need(Role.ADMIN)
        return once(request, lambda: self._start(request, wanted))

    def _start(self, request: Request, wanted: dict[str, Any]) -> Response:
        mine = Archive.objects.for_tenant(self.tenant).select_related("vm__vcenter")
        archives = all_of(mine, wanted.pop("archives"))
        placement = Placement(**{name: wanted.pop(name) for name in PLACEMENT})
        recovery = start_recovery(
            request.user, self.tenant, archives, placement=placement, everywhere=acts_for_provider(request), **wanted
        )
        where = reverse("api-recovery", args=[self.tenant.pk, recovery.pk])
        return Response(RecoverySerializer(recovery).data, status=HTTPStatus.ACCEPTED, headers={"Location": where})


class RecoveryDetail(TenantView):
    access = READ
    queryset = Recovery.objects.prefetch_related("items")
    serializer_class = RecoverySerializer

    @answers({200: RecoverySerializer})
    def get(self, request: Request, recovery_id: UUID, **_: Any) -> Response:  # noqa: ARG002
        return Response(RecoverySerializer(self.one(recovery_id)).data)


class RecoveryCancel(TenantView):
    access = Access("tenant", Role.OPERATOR, Role.OPERATOR)
    queryset = Recovery.objects.prefetch_related("items")
    serializer_class = RecoverySerializer

    @answers({202: RecoverySerializer}, request=None)
    def post(self, request: Request, recovery_id: UUID, **_: Any) -> Response:
        recovery = self.one(recovery_id)
        if recovery.mode == RecoveryMode.IN_PLACE:
            self.need(Role.ADMIN)
        cancel_recovery(request.user, recovery)
        return Response(RecoverySerializer(self.one(recovery_id)).data, status=HTTPStatus.ACCEPTED)
