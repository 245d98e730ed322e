import uuid

from django.conf import settings
from django.db import models

from backups.models.archives import Archive
from backups.models.inventory import VCenter
from backups.models.jobs import Job
from backups.models.tenancy import Tenant, TenantQuerySet


class RecoveryMode(models.TextChoices):
    AS_NEW = "as_new", "As new"
    IN_PLACE = "in_place", "In place"


class RecoveryState(models.TextChoices):
    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    ERRORED = "errored", "Error"
    CANCELLED = "cancelled", "Cancelled"


RECOVERY_FINAL = frozenset(
    {RecoveryState.SUCCEEDED, RecoveryState.FAILED, RecoveryState.ERRORED, RecoveryState.CANCELLED}
)


class Recovery(Job):
    """Archives on their way back to VMs: a whole vApp, or some VMs. One worker at a time carries it out."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="recoveries")
    vcenter = models.ForeignKey(VCenter, on_delete=models.PROTECT, related_name="recoveries")
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True)
    mode = models.CharField(max_length=10, choices=RecoveryMode)
    vapp_name = models.CharField(max_length=255, blank=True, default="")
    """The vApp that is recovered; empty for VMs outside one."""
    new_name = models.CharField(max_length=255, blank=True, default="")
    """As new: the new vApp's name, or the name of the single new VM."""
    vapp_ref = models.CharField(max_length=80, blank=True, default="")
    host = models.CharField(max_length=255, blank=True, default="")
    """As new: the chosen one; empty: where the VM was, or where that can be done."""
    datastore = models.CharField(max_length=255, blank=True, default="")
    networks = models.JSONField(default=dict)
    """Archived network to the one to use instead, null to leave its cards disconnected; others stay."""
    same_identity = models.BooleanField(default=False)
    cancelled = models.BooleanField(default=False)
    power_on = models.BooleanField(default=False)
    state = models.CharField(max_length=10, choices=RecoveryState, default=RecoveryState.QUEUED, db_index=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantQuerySet["Recovery"].as_manager()

    class Meta:
        ordering = ["-created_at"]
        verbose_name_plural = "recoveries"

    def __str__(self) -> str:
        return f"{self.vapp_name or self.new_name} {self.get_mode_display()}"


class RecoveryItem(models.Model):
    """One VM of a recovery. `done` counts only what is durable, so that a repeated attempt is harmless."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    recovery = models.ForeignKey(Recovery, on_delete=models.CASCADE, related_name="items")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="recovery_items")
    archive = models.ForeignKey(Archive, on_delete=models.PROTECT, related_name="recovery_items")
    vm_name = models.CharField(max_length=255)
    state = models.CharField(max_length=10, choices=RecoveryState, default=RecoveryState.QUEUED)
    new_vm_name = models.CharField(max_length=255, blank=True, default="")
    vm_ref = models.CharField(max_length=80, blank=True, default="")
    was_powered_on = models.BooleanField(null=True)
    bytes_total = models.BigIntegerField(default=0)
    bytes_done = models.BigIntegerField(default=0)
    bytes_written = models.BigIntegerField(default=0)
    warnings = models.JSONField(default=list)
    message = models.TextField(blank=True, default="")
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    objects = TenantQuerySet["RecoveryItem"].as_manager()

    class Meta:
        ordering = ["vm_name"]

    def __str__(self) -> str:
        return f"{self.vm_name}: {self.state}"
