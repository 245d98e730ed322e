import uuid

from django.conf import settings
from django.db import models

from backups.models.tenancy import Tenant, TenantQuerySet


class AuditEntry(models.Model):
    """Who did what to what, written in the same transaction as the deed. Each entry's hash covers the one before,
    so a removed or changed entry shows. Never secrets in `detail`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    number = models.PositiveBigIntegerField(unique=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, related_name="audit_entries")
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True)
    actor_name = models.CharField(max_length=150)
    by_provider = models.BooleanField(default=False)
    action = models.CharField(max_length=60)
    subject = models.CharField(max_length=255)
    detail = models.JSONField(default=dict)
    at = models.DateTimeField()
    previous_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)

    objects = TenantQuerySet["AuditEntry"].as_manager()

    class Meta:
        ordering = ["-number"]
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.actor_name} {self.action} {self.subject}"
