import uuid

from django.db import models

from backups.models.tenancy import Tenant, TenantQuerySet


class Repository(models.Model):
    """A folder where archives lie. It belongs to the provider; archives of all tenants lie apart within it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    path = models.CharField(max_length=500)

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "repositories"

    def __str__(self) -> str:
        return self.name


class TenantKey(models.Model):
    """A tenant's archive keys. The private key and the write secret are sealed by the vault, bound to this row."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.OneToOneField(Tenant, on_delete=models.CASCADE, related_name="key")
    public_key = models.BinaryField()
    sealed_private_key = models.BinaryField()
    sealed_write_secret = models.BinaryField()

    def __str__(self) -> str:
        return f"Key of {self.tenant}"


class ArchiveState(models.TextChoices):
    GOOD = "good", "Good"
    DAMAGED = "damaged", "Damaged"
    DELETED = "deleted", "Deleted"


class Archive(models.Model):
    """A VM at its backup time. The id names the manifest in the repository. Names are copied: the VM may go."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="archives")
    repository = models.ForeignKey(Repository, on_delete=models.PROTECT, related_name="archives")
    vm = models.ForeignKey("backups.Vm", on_delete=models.PROTECT, related_name="archives")
    run = models.ForeignKey("backups.Run", on_delete=models.SET_NULL, null=True, related_name="archives")
    vm_name = models.CharField(max_length=255)
    vapp_name = models.CharField(max_length=255, blank=True, default="")
    backup_time = models.DateTimeField()
    state = models.CharField(max_length=10, choices=ArchiveState, default=ArchiveState.GOOD)
    full = models.BooleanField()
    full_reason = models.CharField(max_length=255, blank=True, default="")
    bytes_total = models.BigIntegerField()
    bytes_read = models.BigIntegerField()
    bytes_new = models.BigIntegerField()
    bytes_stored = models.BigIntegerField()
    vapp_config = models.JSONField(null=True)
    """The vApp's resource settings and start order at backup time; None outside a vApp."""
    change_ids = models.JSONField(default=dict)
    """Disk key to the change id at backup time: what the next run's changes are measured from."""
    locked_until = models.DateTimeField(null=True)
    """Until then neither retention nor a person deletes it."""
    verified_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)

    objects = TenantQuerySet["Archive"].as_manager()

    class Meta:
        ordering = ["-backup_time"]
        indexes = [models.Index(fields=["vm", "-backup_time"]), models.Index(fields=["tenant", "-backup_time"])]

    def __str__(self) -> str:
        return f"{self.vm_name} at {self.backup_time:%Y-%m-%d %H:%M}"
