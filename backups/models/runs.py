import uuid
from datetime import datetime

from django.db import models

from backups.models.archives import Archive, Repository
from backups.models.inventory import VCenter, Vm
from backups.models.jobs import Job
from backups.models.plans import Metric, OverBudget, Plan, Policy, QuiescePolicy
from backups.models.tenancy import Tenant, TenantQuerySet


class RunState(models.TextChoices):
    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


RUN_FINAL = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})


class ItemState(models.TextChoices):
    QUEUED = "queued", "Queued"
    SNAPSHOTTING = "snapshotting", "Taking snapshot"
    WAITING = "waiting", "Waiting"
    ARCHIVING = "archiving", "Archiving"
    REMOVING = "removing", "Removing snapshot"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    ERRORED = "errored", "Error"
    CANCELLED = "cancelled", "Cancelled"
    SKIPPED = "skipped", "Skipped"


ITEM_FINAL = frozenset(
    {ItemState.SUCCEEDED, ItemState.FAILED, ItemState.ERRORED, ItemState.CANCELLED, ItemState.SKIPPED}
)
HOLDING = frozenset({ItemState.SNAPSHOTTING, ItemState.WAITING, ItemState.ARCHIVING, ItemState.REMOVING})
"""States in which an item may own a snapshot."""


class CancelMode(models.TextChoices):
    NONE = "", "Not cancelled"
    AFTER_CURRENT = "after_current", "After the current archives"
    NOW = "now", "Now"


class Run(Job):
    """One execution of a plan. The plan's name and options are copied: a later change of the plan does not
    rewrite what happened. The lease is the coordinator's, who takes snapshots; readers lease items."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="runs")
    plan = models.ForeignKey(Plan, on_delete=models.SET_NULL, null=True, related_name="runs")
    plan_name = models.CharField(max_length=100)
    repository = models.ForeignKey(Repository, on_delete=models.PROTECT, related_name="runs")
    policy = models.CharField(max_length=20, choices=Policy)
    metric = models.CharField(max_length=20, choices=Metric, default=Metric.WRITE_KBPS)
    batch_size = models.PositiveIntegerField()
    vapps_whole = models.BooleanField(default=True)
    hold_budget_s = models.PositiveIntegerField(default=0)
    over_budget = models.CharField(max_length=12, choices=OverBudget, default=OverBudget.RETRY_ALONE)
    readers = models.PositiveIntegerField()
    quiesce = models.CharField(max_length=10, choices=QuiescePolicy)
    state = models.CharField(max_length=10, choices=RunState, default=RunState.QUEUED, db_index=True)
    cancel = models.CharField(max_length=20, choices=CancelMode, blank=True, default=CancelMode.NONE)
    paused_at = models.DateTimeField(null=True)
    """While set, nothing new is snapshotted or archived; VMs that waited have given their snapshots back."""
    common_time = models.DateTimeField(null=True)
    """The common snapshot time that was asked for; None: as soon as may be."""
    retry_of = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="retries")
    scheduled_for = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    forecast = models.JSONField(default=dict)
    """What the run was expected to cost, as `backups.forecast` made it before the first snapshot."""
    report = models.JSONField(default=dict)

    objects = TenantQuerySet["Run"].as_manager()

    class Meta:
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["tenant", "-created_at"])]
        constraints = [
            models.UniqueConstraint(fields=["plan", "scheduled_for"], name="one_run_per_scheduled_start"),
        ]

    def __str__(self) -> str:
        return f"{self.plan_name} {self.created_at:%Y-%m-%d %H:%M}"


class RunItem(Job):
    """A run's part for one VM: what is claimed, retried and shown. `priority` is what the run's policy made of
    the load; the waiting item with the highest one is archived next."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="items")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="run_items")
    vm = models.ForeignKey(Vm, on_delete=models.PROTECT, related_name="run_items")
    vm_name = models.CharField(max_length=255)
    vapp_name = models.CharField(max_length=255, blank=True, default="")
    state = models.CharField(max_length=12, choices=ItemState, default=ItemState.QUEUED)
    outcome = models.CharField(max_length=12, choices=ItemState, blank=True, default="")
    """The final state that `removing` leads to, once the snapshot is gone."""
    batch = models.PositiveIntegerField(null=True)
    reason = models.CharField(max_length=255, blank=True, default="")
    """Why the VM was left for a later batch, or why everything was read."""
    held_back = models.CharField(max_length=255, blank=True, default="")
    """Why it waits though a reader may be free: a cap, or a datastore that is slow."""
    host = models.CharField(max_length=255, blank=True, default="")
    datastore = models.CharField(max_length=255, blank=True, default="")
    load_kbps = models.FloatField(default=0)
    """What the VM is expected to write, in KB/s: so fast its snapshot grows."""
    load = models.FloatField(default=0)
    """The load in the run's metric, which the order goes by."""
    load_reason = models.CharField(max_length=255, blank=True, default="")
    load_at = models.DateTimeField(null=True)
    expected_s = models.FloatField(default=0)
    """Seconds that its archive is expected to take."""
    priority = models.FloatField(default=0)
    raised = models.PositiveIntegerField(default=0)
    """Raised by hand: the highest goes before every priority."""
    alone = models.BooleanField(default=False)
    """Its hold went beyond the budget once; it is tried again in a batch of its own."""
    position = models.PositiveIntegerField(null=True)
    """The place in the order of archiving, from 1."""
    reader = models.PositiveIntegerField(null=True)
    """Which of the run's readers took it, from 1."""
    snapshot_attempt = models.PositiveIntegerField(default=0)
    snapshot_name = models.CharField(max_length=80, blank=True, default="")
    snapshot_ref = models.CharField(max_length=80, blank=True, default="")
    snapshot_at = models.DateTimeField(null=True)
    held_since = models.DateTimeField(null=True)
    """When the snapshot was asked for, by our own clock: `snapshot_at` is by vCenter's."""
    quiesced = models.BooleanField(default=False)
    archiving_at = models.DateTimeField(null=True)
    archived_at = models.DateTimeField(null=True)
    removing_at = models.DateTimeField(null=True)
    removed_at = models.DateTimeField(null=True)
    earlier_hold_s = models.FloatField(default=0)
    """How long it kept snapshots that it gave back: for a pause, or for going beyond the hold budget."""
    grown_bytes = models.BigIntegerField(null=True)
    """What the snapshot's delta files held just before they went; None where nobody could say."""
    archive = models.ForeignKey(Archive, on_delete=models.SET_NULL, null=True, related_name="+")
    transport = models.CharField(max_length=255, blank=True, default="")
    bytes_total = models.BigIntegerField(default=0)
    bytes_expected = models.BigIntegerField(default=0)
    bytes_read = models.BigIntegerField(default=0)
    bytes_new = models.BigIntegerField(default=0)
    bytes_stored = models.BigIntegerField(default=0)

    objects = TenantQuerySet["RunItem"].as_manager()

    class Meta:
        ordering = ["position", "-priority", "vm_name"]
        constraints = [models.UniqueConstraint(fields=["run", "vm"], name="one_item_per_vm")]
        indexes = [
            models.Index(fields=["state", "-raised", "-priority"]),
            models.Index(fields=["datastore", "state"]),
            models.Index(fields=["vm", "-finished_at"]),
        ]

    def __str__(self) -> str:
        return f"{self.vm_name}: {self.state}"

    @property
    def held_from(self) -> datetime | None:
        return self.held_since or self.snapshot_at

    @property
    def hold_s(self) -> float | None:
        """Seconds the VM kept our snapshot."""
        if not (self.held_from and self.removed_at):
            return None
        return (self.removed_at - self.held_from).total_seconds()

    @property
    def exposure_kb(self) -> float | None:
        """Snapshot growth: load × hold."""
        return None if self.hold_s is None else self.load_kbps * self.hold_s


class SnapshotRecord(models.Model):
    """The snapshot journal: a row is written before the snapshot is asked for, and closed once it is gone. A row
    that no item holds is an orphan, and the tick removes its snapshot."""

    name = models.CharField(max_length=80, unique=True)
    vcenter = models.ForeignKey(VCenter, on_delete=models.PROTECT, related_name="snapshot_records")
    vm_ref = models.CharField(max_length=80)
    item = models.ForeignKey(RunItem, on_delete=models.CASCADE, related_name="snapshot_records")
    created_at = models.DateTimeField(auto_now_add=True)
    removed_at = models.DateTimeField(null=True, db_index=True)

    def __str__(self) -> str:
        return self.name
