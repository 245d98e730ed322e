from http import HTTPStatus
from typing import Any
from uuid import UUID

from django.shortcuts import get_object_or_404
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from backups.models import Datastore, Repository, Run, SnapshotRecord, Tenant, VApp, VCenter, Vm
from backups.services.inventory import assign_vapp, assign_vm, refresh
from backups.services.repositories import create_repository
from backups.services.tenants import create_tenant
from backups.services.vcenters import change_limits, enrol_vcenter, look_up_certificate
from portal.access import Access, tenants_of
from portal.api import serializers as s
from portal.api.base import ProviderView, answers, lists, token_of
from portal.api.filters import Filters


@lists(s.TenantSerializer)
class MyTenants(ListAPIView[Tenant]):
    """The tenants that the user, or the token, may enter."""

    access = Access("account")
    queryset = Tenant.objects.all()
    serializer_class = s.TenantSerializer
    ordering = ("name",)

    def get_queryset(self) -> Any:
        token = token_of(self.request)
        mine = Tenant.objects.filter(pk__in=[tenant.pk for tenant in tenants_of(self.request.user)])
        return mine.filter(pk=token.tenant_id) if token and token.tenant_id else mine


class ProviderList(ProviderView, ListAPIView[Any]):
    """Paged and filtered."""

    filter_backends = [Filters]


@lists(s.TenantSerializer)
class Tenants(ProviderList):
    queryset = Tenant.objects.all()
    serializer_class = s.TenantSerializer
    ordering = ("name",)
    filterset_fields = {"name": ["exact", "icontains"]}

    @answers({201: s.TenantSerializer})
    def post(self, request: Request) -> Response:
        body = s.TenantSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        tenant = create_tenant(request.user, **body.validated_data)
        return Response(s.TenantSerializer(tenant).data, status=HTTPStatus.CREATED)


@lists(s.VCenterSerializer)
class VCenters(ProviderList):
    queryset = VCenter.objects.all()
    serializer_class = s.VCenterSerializer
    ordering = ("name",)

    @answers({201: s.VCenterSerializer}, request=s.Enrolment)
    def post(self, request: Request) -> Response:
        body = s.Enrolment(data=request.data)
        body.is_valid(raise_exception=True)
        vcenter = enrol_vcenter(request.user, **body.validated_data)
        return Response(s.VCenterSerializer(vcenter).data, status=HTTPStatus.CREATED)


class VCenterCertificate(ProviderView):
    """The first step of enrolment: what certificate does the server show?"""

    queryset = VCenter.objects.all()
    serializer_class = s.Certificate

    @answers({200: s.Certificate}, request=s.Address)
    def post(self, request: Request) -> Response:
        body = s.Address(data=request.data)
        body.is_valid(raise_exception=True)
        pem, fingerprint = look_up_certificate(**body.validated_data)
        return Response({"certificate_pem": pem, "fingerprint": fingerprint})


class VCenterDetail(ProviderView):
    """Changes nothing but its limits; for the rest it is enrolled again."""

    queryset = VCenter.objects.all()
    serializer_class = s.VCenterSerializer

    @answers({200: s.VCenterSerializer})
    def get(self, request: Request, vcenter_id: UUID) -> Response:  # noqa: ARG002
        return Response(s.VCenterSerializer(get_object_or_404(VCenter, pk=vcenter_id)).data)

    @answers({200: s.VCenterSerializer}, request=s.VCenterLimits)
    def patch(self, request: Request, vcenter_id: UUID) -> Response:
        vcenter = get_object_or_404(VCenter, pk=vcenter_id)
        body = s.VCenterLimits(vcenter, data=request.data, partial=True)
        body.is_valid(raise_exception=True)
        change_limits(request.user, vcenter, **body.validated_data)
        return Response(s.VCenterSerializer(vcenter).data)


@lists(s.DatastoreSerializer)
class Datastores(ProviderList):
    queryset = Datastore.objects.all()
    serializer_class = s.DatastoreSerializer
    ordering = ("name",)

    def get_queryset(self) -> Any:
        datastores = super().get_queryset()
        if "vcenter_id" not in self.kwargs:
            return datastores
        return datastores.filter(vcenter=get_object_or_404(VCenter, pk=self.kwargs["vcenter_id"]))


@lists(s.TenantRunSerializer)
class AllRuns(ProviderList):
    queryset = Run.objects.select_related("tenant").defer("forecast")
    serializer_class = s.TenantRunSerializer
    ordering = ("-created_at",)
    filterset_fields = {"tenant": ["exact"], "state": ["exact"], "created_at": ["gte", "lt"]}


class VCenterRefresh(ProviderView):
    queryset = VCenter.objects.all()
    serializer_class = s.VCenterSerializer

    @answers({204: None}, request=None)
    def post(self, request: Request, vcenter_id: UUID) -> Response:  # noqa: ARG002
        refresh(get_object_or_404(VCenter, pk=vcenter_id))
        return Response(status=HTTPStatus.NO_CONTENT)


@lists(s.RepositorySerializer)
class Repositories(ProviderList):
    queryset = Repository.objects.all()
    serializer_class = s.RepositorySerializer
    ordering = ("name",)

    @answers({201: s.RepositorySerializer})
    def post(self, request: Request) -> Response:
        body = s.RepositorySerializer(data=request.data)
        body.is_valid(raise_exception=True)
        repository = create_repository(request.user, **body.validated_data)
        return Response(s.RepositorySerializer(repository).data, status=HTTPStatus.CREATED)


class Assignments(ProviderView):
    """Whose a vApp is, with its VMs; and whose a VM outside one."""

    queryset = VApp.objects.all()
    serializer_class = s.Assignment

    @answers({204: None}, request=s.Assignment)
    def post(self, request: Request) -> Response:
        body = s.Assignment(data=request.data)
        body.is_valid(raise_exception=True)
        wanted = body.validated_data
        tenant = get_object_or_404(Tenant, pk=wanted["tenant"]) if wanted["tenant"] else None
        for pk in wanted["vapps"]:
            assign_vapp(request.user, get_object_or_404(VApp, pk=pk), tenant)
        for pk in wanted["vms"]:
            assign_vm(request.user, get_object_or_404(Vm, pk=pk), tenant)
        return Response(status=HTTPStatus.NO_CONTENT)


@lists(s.SnapshotSerializer)
class OpenSnapshots(ProviderList):
    queryset = SnapshotRecord.objects.filter(removed_at=None).select_related("item__tenant", "item__run")
    serializer_class = s.SnapshotSerializer
    ordering = ("created_at",)
