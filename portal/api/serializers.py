"""What the API shows. Nothing here decides; what is sent in is carried out by the services."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from backups.models import (
    Archive,
    AuditEntry,
    Datastore,
    Plan,
    Recovery,
    RecoveryItem,
    Repository,
    Run,
    RunItem,
    SnapshotRecord,
    Tenant,
    VApp,
    VCenter,
    Vm,
)
from backups.models.recoveries import RecoveryMode
from backups.models.runs import CancelMode
from backups.services.vcenters import LIMITS

CLOCK = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"
MOST_BLACKOUTS = 14


class TenantSerializer(serializers.ModelSerializer[Tenant]):
    class Meta:
        model = Tenant
        fields = ["id", "name", "created_at"]
        read_only_fields = ["id", "created_at"]
        extra_kwargs: dict[str, Any] = {"name": {"validators": []}}


class BlackoutSerializer(serializers.Serializer[Any]):
    """Nothing starts on these days from start to end, in the plan's time zone."""

    days = serializers.ListField(
        child=serializers.IntegerField(min_value=0, max_value=6), min_length=1, max_length=7, help_text="0 is Monday."
    )
    start = serializers.RegexField(CLOCK, help_text="HH:MM")
    end = serializers.RegexField(CLOCK, help_text="HH:MM; not after the start: on the next day.")


class PlanSerializer(serializers.ModelSerializer[Plan]):
    """Uniqueness and ranges are judged by the service, with its own sentences."""

    blackouts = serializers.ListField(child=BlackoutSerializer(), required=False, max_length=MOST_BLACKOUTS)

    class Meta:
        model = Plan
        fields = [
            "id", "name", "cron", "time_zone", "every_weeks", "first_week", "blackouts", "next_start_at", "keep_count",
            "keep_days", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly", "gfs_weekday", "repository",
            "policy", "metric", "batch_size", "vapps_whole", "hold_budget_s", "over_budget", "readers", "quiesce",
            "version", "created_at",
        ]  # fmt: skip
        read_only_fields = ["id", "next_start_at", "version", "created_at"]
        validators: list[Any] = []


class VAppSerializer(serializers.ModelSerializer[VApp]):
    class Meta:
        model = VApp
        fields = ["id", "name", "vcenter", "parent", "plan", "vanished_at"]


class VmSerializer(serializers.ModelSerializer[Vm]):
    class Meta:
        model = Vm
        fields = [
            "id", "name", "instance_uuid", "vcenter", "vapp", "plan", "host", "datastore", "powered_on",
            "capacity_bytes", "write_kbps", "read_kbps", "vanished_at",
        ]  # fmt: skip


class RunSerializer(serializers.ModelSerializer[Run]):
    class Meta:
        model = Run
        fields = [
            "id", "plan", "plan_name", "state", "policy", "metric", "batch_size", "vapps_whole", "hold_budget_s",
            "over_budget", "readers", "quiesce", "repository", "cancel", "paused_at", "common_time", "retry_of",
            "scheduled_for", "created_at", "started_at", "finished_at", "message", "error_code", "report",
        ]  # fmt: skip


class ForecastSerializer(serializers.Serializer[Any]):
    """What a run is expected to cost. Exposures in KB of snapshot growth; times in seconds."""

    policy = serializers.CharField()
    batch_size = serializers.IntegerField(help_text="0: all together.")
    readers = serializers.IntegerField()
    batches = serializers.IntegerField()
    exposure_kb = serializers.FloatField()
    bound_kb = serializers.FloatField(help_text="No order does better than this.")
    longest_hold_s = serializers.FloatField()
    window_s = serializers.FloatField()
    peak_kb = serializers.DictField(
        child=serializers.FloatField(), help_text="By datastore: the most that its snapshots hold at one time."
    )
    short_kb = serializers.DictField(child=serializers.FloatField(), help_text="By datastore: the room that lacks.")


class RunDetailSerializer(RunSerializer):
    """`forecast` was made before the first snapshot; empty until then."""

    forecast = serializers.SerializerMethodField()

    class Meta(RunSerializer.Meta):
        fields = [*RunSerializer.Meta.fields, "forecast"]

    @extend_schema_field(ForecastSerializer)
    def get_forecast(self, run: Run) -> dict[str, Any]:
        return {name: value for name, value in run.forecast.items() if name != "vms"}


class RunItemSerializer(serializers.ModelSerializer[RunItem]):
    """`reason`: why the VM was left for later, or why everything was read. Holds count what was held before a snapshot
    was given back in `earlier_hold_s`."""

    hold_s = serializers.FloatField(read_only=True, allow_null=True)
    exposure_kb = serializers.FloatField(read_only=True, allow_null=True)
    full = serializers.BooleanField(source="archive.full", read_only=True, allow_null=True, default=None)
    skew_ms = serializers.SerializerMethodField(help_text="Its snapshot after the first one of its batch.")
    forecast_hold_s = serializers.SerializerMethodField()
    forecast_growth_kb = serializers.SerializerMethodField()

    class Meta:
        model = RunItem
        fields = [
            "id", "vm", "vm_name", "vapp_name", "state", "position", "reader", "batch", "reason", "held_back", "host",
            "datastore", "load", "load_kbps", "load_reason", "load_at", "expected_s", "priority", "raised", "alone",
            "snapshot_at", "archiving_at", "archived_at", "removing_at", "removed_at", "finished_at", "quiesced",
            "skew_ms", "hold_s", "earlier_hold_s", "exposure_kb", "grown_bytes", "forecast_hold_s",
            "forecast_growth_kb", "archive", "full", "transport", "bytes_total", "bytes_expected", "bytes_read",
            "bytes_new", "bytes_stored", "message", "error_code",
        ]  # fmt: skip

    def get_skew_ms(self, item: RunItem) -> int | None:
        begin = self.context.get("begins", {}).get(item.batch)
        return round(1000 * (item.snapshot_at - begin).total_seconds()) if begin and item.snapshot_at else None

    def get_forecast_hold_s(self, item: RunItem) -> float | None:
        return self._foretold(item).get("hold_s")

    def get_forecast_growth_kb(self, item: RunItem) -> float | None:
        return self._foretold(item).get("growth_kb")

    def _foretold(self, item: RunItem) -> dict[str, float]:
        found: dict[str, float] = self.context.get("foretold", {}).get(str(item.pk), {})
        return found


class ArchiveSerializer(serializers.ModelSerializer[Archive]):
    class Meta:
        model = Archive
        fields = [
            "id", "vm", "vm_name", "vapp_name", "run", "repository", "backup_time", "state", "full", "full_reason",
            "bytes_total", "bytes_read", "bytes_new", "bytes_stored", "locked_until", "verified_at", "deleted_at",
        ]  # fmt: skip


class Lock(serializers.Serializer[Any]):
    until = serializers.DateTimeField(help_text="A lock is only ever prolonged.")


class ReasonSerializer(serializers.Serializer[Any]):
    rule = serializers.CharField(help_text="newest, count, age, daily, weekly, monthly, yearly or locked")
    text = serializers.CharField()


class KeptSerializer(serializers.Serializer[Any]):
    backup_time = serializers.DateTimeField()
    reasons = ReasonSerializer(many=True)


class GoingSerializer(serializers.Serializer[Any]):
    archive = serializers.UUIDField()
    vm_name = serializers.CharField()
    backup_time = serializers.DateTimeField()
    reason = serializers.CharField()


class RetentionSerializer(serializers.Serializer[Any]):
    """What the plan would keep of each VM after the coming year's starts, and what it would delete of today's."""

    starts = serializers.IntegerField(help_text="How many starts are foreseen; 0 for a plan that starts by hand.")
    until = serializers.DateTimeField(allow_null=True)
    kept = KeptSerializer(many=True)
    archives_now = serializers.IntegerField()
    going_now = serializers.IntegerField(help_text="How many of them the next run would delete.")
    going = GoingSerializer(many=True, help_text="The first hundred of those.")


class RecoveryPointSerializer(serializers.Serializer[Any]):
    run = serializers.UUIDField(source="run.pk")
    backup_time = serializers.DateTimeField()
    complete = serializers.BooleanField(help_text="Every VM that the vApp had then is among the archives.")
    archives = ArchiveSerializer(many=True)


class RecoveryItemSerializer(serializers.ModelSerializer[RecoveryItem]):
    class Meta:
        model = RecoveryItem
        fields = [
            "id", "archive", "vm_name", "new_vm_name", "state", "bytes_total", "bytes_done", "bytes_written",
            "warnings", "message", "started_at", "finished_at",
        ]  # fmt: skip


class RecoverySerializer(serializers.ModelSerializer[Recovery]):
    items = RecoveryItemSerializer(many=True, read_only=True)

    class Meta:
        model = Recovery
        fields = [
            "id", "mode", "vapp_name", "new_name", "power_on", "host", "datastore", "networks", "same_identity",
            "state", "cancelled", "created_at", "started_at", "finished_at", "message", "error_code", "items",
        ]  # fmt: skip


class AuditEntrySerializer(serializers.ModelSerializer[AuditEntry]):
    class Meta:
        model = AuditEntry
        fields = ["number", "actor_name", "by_provider", "action", "subject", "detail", "at"]


class RepositorySerializer(serializers.ModelSerializer[Repository]):
    class Meta:
        model = Repository
        fields = ["id", "name", "path"]
        read_only_fields = ["id"]
        extra_kwargs: dict[str, Any] = {"name": {"validators": []}, "path": {"validators": []}}


class RepositoryNameSerializer(serializers.ModelSerializer[Repository]):
    """What a tenant may know of a repository."""

    class Meta:
        model = Repository
        fields = ["id", "name"]


class VCenterSerializer(serializers.ModelSerializer[VCenter]):
    class Meta:
        model = VCenter
        fields = ["id", "name", "host", "port", "username", "instance_uuid", "synced_at", "sync_error", *LIMITS]


class VCenterLimits(serializers.ModelSerializer[VCenter]):
    """For the runs of all tenants together; caps and latencies of 0 do not limit."""

    class Meta:
        model = VCenter
        fields = LIMITS


class DatastoreSerializer(serializers.ModelSerializer[Datastore]):
    """As last measured."""

    class Meta:
        model = Datastore
        fields = ["name", "capacity_bytes", "free_bytes", "latency_ms", "measured_at"]


class TenantRunSerializer(RunSerializer):
    tenant_name = serializers.CharField(source="tenant.name", read_only=True)

    class Meta(RunSerializer.Meta):
        fields = ["tenant", "tenant_name", *RunSerializer.Meta.fields]


class SnapshotSerializer(serializers.ModelSerializer[SnapshotRecord]):
    """An open snapshot, with its owner."""

    tenant = serializers.CharField(source="item.tenant.name")
    plan_name = serializers.CharField(source="item.run.plan_name")
    vm_name = serializers.CharField(source="item.vm_name")
    run = serializers.UUIDField(source="item.run_id")
    grown_bytes = serializers.IntegerField(source="item.grown_bytes", allow_null=True)

    class Meta:
        model = SnapshotRecord
        fields = ["name", "vcenter", "tenant", "plan_name", "vm_name", "run", "created_at", "grown_bytes"]


class Targets(serializers.Serializer[Any]):
    """What a plan is applied to or revoked from."""

    vapps = serializers.ListField(child=serializers.UUIDField(), default=list)
    vms = serializers.ListField(child=serializers.UUIDField(), default=list)


class RunRequest(serializers.Serializer[Any]):
    vms = serializers.ListField(child=serializers.UUIDField(), required=False, help_text="Only these; else all.")
    common_time = serializers.DateTimeField(
        required=False, allow_null=True, help_text="When the snapshots are taken, within seven days; null: now."
    )


class CancelRequest(serializers.Serializer[Any]):
    mode = serializers.ChoiceField(choices=[CancelMode.NOW, CancelMode.AFTER_CURRENT], default=CancelMode.NOW)


class VAppName(serializers.Serializer[Any]):
    vapp_name = serializers.CharField(max_length=255)


class RecoveryRequest(serializers.Serializer[Any]):
    archives = serializers.ListField(child=serializers.UUIDField(), help_text="One for each VM.")
    mode = serializers.ChoiceField(choices=RecoveryMode.choices)
    vapp_name = serializers.CharField(default="", allow_blank=True, help_text="Empty: the VMs alone.", max_length=255)
    new_name = serializers.CharField(default="", allow_blank=True, max_length=255)
    power_on = serializers.BooleanField(default=False)
    host = serializers.CharField(default="", allow_blank=True, max_length=255, help_text="As new; empty: as it was.")
    datastore = serializers.CharField(default="", allow_blank=True, max_length=255)
    networks = serializers.DictField(
        child=serializers.CharField(allow_null=True, max_length=255),
        default=dict,
        help_text="An archived network to the one to use instead; null leaves its cards disconnected. Others stay.",
    )
    same_identity = serializers.BooleanField(default=False, help_text="Only where the original VM has gone.")


class Starts(serializers.Serializer[Any]):
    starts = serializers.ListField(child=serializers.DateTimeField())


class Verified(serializers.Serializer[Any]):
    good = serializers.BooleanField()


class Address(serializers.Serializer[Any]):
    host = serializers.CharField(max_length=255)
    port = serializers.IntegerField(min_value=1, max_value=65535, default=443)


class Certificate(serializers.Serializer[Any]):
    certificate_pem = serializers.CharField()
    fingerprint = serializers.CharField(help_text="SHA-256. Compare it before you enrol.")


class Enrolment(Address):
    name = serializers.CharField(max_length=100)
    username = serializers.CharField(max_length=255)
    password = serializers.CharField(write_only=True, trim_whitespace=False)
    certificate_pem = serializers.CharField(help_text="As looked up, its fingerprint confirmed.")


class Assignment(serializers.Serializer[Any]):
    tenant = serializers.UUIDField(allow_null=True)
    vapps = serializers.ListField(child=serializers.UUIDField(), default=list)
    vms = serializers.ListField(child=serializers.UUIDField(), default=list)
