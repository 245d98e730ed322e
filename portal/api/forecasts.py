from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from backups.models import Plan, Role
from backups.models.plans import Policy
from portal.access import Access
from portal.api.base import TenantView, answers
from portal.api.serializers import ForecastSerializer
from portal.forecasts import foretell, tried


class Options(serializers.Serializer[Any]):
    """Tried instead of the plan's own; nothing is saved."""

    policy = serializers.ChoiceField(choices=Policy.choices, required=False)
    batch_size = serializers.IntegerField(min_value=0, max_value=100_000, required=False, help_text="0: all together.")
    readers = serializers.IntegerField(min_value=1, max_value=64, required=False)
    hold_budget_s = serializers.IntegerField(min_value=0, max_value=7 * 86400, required=False)


class CourseSerializer(serializers.Serializer[Any]):
    """Seconds from the start of the run."""

    name = serializers.CharField()
    batch = serializers.IntegerField()
    snapshot_s = serializers.FloatField()
    start_s = serializers.FloatField()
    removed_s = serializers.FloatField()
    hold_s = serializers.FloatField()
    growth_kb = serializers.FloatField()


class LeftOutSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    reason = serializers.CharField()


class PlanForecastSerializer(serializers.Serializer[Any]):
    own = ForecastSerializer()
    vms = CourseSerializer(many=True)
    left_out = LeftOutSerializer(many=True, help_text="The VMs that would get no backup.")
    others = ForecastSerializer(many=True, help_text="Other orders, batch sizes and readers; the least exposure first.")


class PlanForecast(TenantView):
    """What the plan's next run is expected to cost, from what is known of its VMs; no vCenter is asked."""

    access = Access("tenant", Role.VIEWER)
    queryset = Plan.objects.select_related("tenant")
    serializer_class = PlanForecastSerializer

    @answers({200: PlanForecastSerializer}, parameters=[Options])
    def get(self, request: Request, plan_id: UUID, **_: Any) -> Response:
        plan = self.one(plan_id)
        asked = Options(data=request.query_params)
        asked.is_valid(raise_exception=True)
        told = foretell(tried(plan, asked.validated_data))
        answer = {
            "own": told.own.totals(),
            "vms": told.own.courses,
            "left_out": [{"name": told.own.names[id_], "reason": told.own.left_out[id_]} for id_ in told.own.left_out],
            "others": [other.totals() for other in told.others],
        }
        return Response(PlanForecastSerializer(answer).data)
