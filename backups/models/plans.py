import uuid

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from backups.models.archives import Repository
from backups.models.tenancy import Tenant, TenantQuerySet


class Policy(models.TextChoices):
    HIGHEST_LOAD = "highest_load", "Busiest first"
    LEAST_DISTURBANCE = "least_disturbance", "Least disturbance (load ÷ expected duration)"
    NAME = "name", "By name"


class QuiescePolicy(models.TextChoices):
    REQUIRE = "require", "Require"
    TRY = "try", "Try, go on without"
    NO = "no", "No"


class Plan(models.Model):
    """What, when, how long kept, where to and how. Due plans are found by `next_start_at`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="plans")
    name = models.CharField(max_length=100)
    cron = models.CharField("schedule", max_length=100, blank=True, default="", help_text="Empty: only by hand.")
    time_zone = models.CharField(max_length=64, default="UTC")
    next_start_at = models.DateTimeField(null=True, db_index=True)
    keep_count = models.PositiveIntegerField(
        "archives kept", default=7, validators=[MinValueValidator(1), MaxValueValidator(10000)]
    )
    keep_days = models.PositiveIntegerField(
        "days kept", default=30, validators=[MaxValueValidator(36500)], help_text="0: only the count decides."
    )
    repository = models.ForeignKey(Repository, on_delete=models.PROTECT, related_name="plans")
    policy = models.CharField("order", max_length=20, choices=Policy, default=Policy.HIGHEST_LOAD)
    batch_size = models.PositiveIntegerField(default=0, help_text="0: all VMs are snapshotted together.")
    readers = models.PositiveIntegerField(default=2, validators=[MinValueValidator(1), MaxValueValidator(64)])
    quiesce = models.CharField(max_length=10, choices=QuiescePolicy, default=QuiescePolicy.TRY)
    version = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantQuerySet["Plan"].as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "name"],
                name="plan_names_differ",
                violation_error_message="There is a plan of this name already; choose another name.",
            )
        ]

    def __str__(self) -> str:
        return self.name
