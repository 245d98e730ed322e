import uuid

from django.core.validators import MaxValueValidator
from django.db import models

from backups.models.tenancy import Tenant, TenantQuerySet


class VCenter(models.Model):
    """A vCenter that provider staff enrolled. The password is sealed by the vault and bound to this row. Caps of 0
    do not limit; they hold for all tenants' runs together."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    host = models.CharField(max_length=255)
    port = models.PositiveIntegerField(default=443)
    username = models.CharField(max_length=255)
    sealed_password = models.BinaryField()
    certificate_pem = models.TextField()
    instance_uuid = models.CharField(max_length=64, blank=True, default="")
    snapshots_per_datastore = models.PositiveIntegerField("open snapshots per datastore", default=0)
    snapshots_per_host = models.PositiveIntegerField("open snapshots per host", default=0)
    readers_per_datastore = models.PositiveIntegerField("readers per datastore", default=0)
    readers_per_host = models.PositiveIntegerField("readers per host", default=0)
    latency_stop_ms = models.PositiveIntegerField(
        "start nothing new above", default=0, help_text="Milliseconds of datastore latency; 0: never hold back."
    )
    latency_slow_ms = models.PositiveIntegerField(
        "slow what runs above", default=0, help_text="Milliseconds of datastore latency; 0: never slow down."
    )
    reserve_percent = models.PositiveIntegerField(
        "free space left alone",
        default=10,
        validators=[MaxValueValidator(90)],
        help_text="Percent of a datastore's capacity that snapshots must not be forecast to take.",
    )
    sampled_at = models.DateTimeField(null=True)
    """When a worker last took it upon itself to sample the loads of its VMs."""
    swept_at = models.DateTimeField(null=True)
    """When a worker last took it upon itself to remove orphaned snapshots."""
    watched_until = models.DateTimeField(null=True)
    """Until then one worker alone follows its changes."""
    synced_at = models.DateTimeField(null=True)
    sync_error = models.TextField(blank=True, default="")

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Datastore(models.Model):
    """Free space and latency as last measured: what caps, the latency gate and forecasts go by."""

    vcenter = models.ForeignKey(VCenter, on_delete=models.CASCADE, related_name="datastores")
    name = models.CharField(max_length=255)
    capacity_bytes = models.BigIntegerField(default=0)
    free_bytes = models.BigIntegerField(default=0)
    latency_ms = models.FloatField(null=True)
    measured_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["vcenter", "name"], name="one_row_per_datastore")]

    def __str__(self) -> str:
        return self.name


class Present(models.Model):
    """A thing that was seen in a vCenter; it stays here after it went, since archives still name it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    vcenter = models.ForeignKey(VCenter, on_delete=models.PROTECT, related_name="%(class)ss")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, related_name="%(class)ss")
    plan = models.ForeignKey("backups.Plan", on_delete=models.SET_NULL, null=True, related_name="%(class)ss")
    ref = models.CharField(max_length=80)
    name = models.CharField(max_length=255)
    vanished_at = models.DateTimeField(null=True)

    class Meta:
        abstract = True


class VApp(Present):
    parent = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="children")

    objects = TenantQuerySet["VApp"].as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["vcenter", "ref"], name="one_row_per_vapp")]

    def __str__(self) -> str:
        return self.name


class Vm(Present):
    """`plan` is the plan applied to the VM itself; without one, the plan of its vApp counts."""

    instance_uuid = models.CharField(max_length=64)
    vapp = models.ForeignKey(VApp, on_delete=models.SET_NULL, null=True, related_name="vms")
    host = models.CharField(max_length=255, blank=True, default="")
    datastore = models.CharField(max_length=255, blank=True, default="")
    powered_on = models.BooleanField(default=False)
    capacity_bytes = models.BigIntegerField(default=0)
    write_kbps = models.FloatField(default=0)
    read_kbps = models.FloatField(default=0)

    objects = TenantQuerySet["Vm"].as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["vcenter", "instance_uuid"], name="one_row_per_vm")]

    def __str__(self) -> str:
        return self.name

    @property
    def effective_plan(self) -> "models.Model | None":
        return self.plan or (self.vapp.plan if self.vapp else None)


class LoadSample(models.Model):
    """A VM's own load history, in KB/s and operations/s; vCenter keeps none per disk."""

    vm = models.ForeignKey(Vm, on_delete=models.CASCADE, related_name="load_samples")
    at = models.DateTimeField()
    write_kbps = models.FloatField()
    read_kbps = models.FloatField()
    write_iops = models.FloatField()
    read_iops = models.FloatField()

    class Meta:
        indexes = [models.Index(fields=["vm", "at"]), models.Index(fields=["at"])]

    def __str__(self) -> str:
        return f"{self.vm} at {self.at}"
