from http import HTTPStatus
from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response

from backups.models import Repository, Role, VApp, Vm
from backups.services.inventory import refresh_tenant
from portal.access import Access
from portal.api.base import TenantList, TenantView, answers, lists
from portal.api.serializers import RepositoryNameSerializer, VAppSerializer, VmSerializer

READ = Access("tenant", Role.VIEWER)


@lists(VAppSerializer)
class VApps(TenantList):
    access = READ
    queryset = VApp.objects.all()
    serializer_class = VAppSerializer
    ordering = ("name",)
    filterset_fields = {"name": ["exact", "icontains"], "plan": ["exact"], "vanished_at": ["isnull"]}


@lists(VmSerializer)
class Vms(TenantList):
    access = READ
    queryset = Vm.objects.all()
    serializer_class = VmSerializer
    ordering = ("name",)
    filterset_fields = {
        "name": ["exact", "icontains"],
        "vapp": ["exact"],
        "plan": ["exact"],
        "vanished_at": ["isnull"],
    }


@lists(RepositoryNameSerializer)
class Repositories(TenantList):
    """Where this tenant's plans may archive to."""

    access = READ
    queryset = Repository.objects.all()
    serializer_class = RepositoryNameSerializer
    ordering = ("name",)

    def get_queryset(self) -> Any:
        return Repository.objects.all()


class Refresh(TenantView):
    """Reads the vCenters' inventories again."""

    access = Access("tenant", Role.VIEWER, Role.OPERATOR)
    queryset = Vm.objects.all()
    serializer_class = VmSerializer

    @answers({204: None}, request=None)
    def post(self, request: Request, **_: Any) -> Response:  # noqa: ARG002
        refresh_tenant(self.tenant)
        return Response(status=HTTPStatus.NO_CONTENT)
