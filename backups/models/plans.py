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


class Metric(models.TextChoices):
    WRITE_KBPS = "write_kbps", "Writes (KB/s)"
    TOTAL_KBPS = "total_kbps", "Reads and writes (KB/s)"
    IOPS = "iops", "Operations per second"


class OverBudget(models.TextChoices):
    SKIP = "skip", "Skip the VM in this run"
    RETRY_ALONE = "retry_alone", "Remove its snapshot, and retry it alone at the end"


class Weekday(models.IntegerChoices):
    MONDAY = 0
    TUESDAY = 1
    WEDNESDAY = 2
    THURSDAY = 3
    FRIDAY = 4
    SATURDAY = 5
    SUNDAY = 6


class Plan(models.Model):
    """What, when, how long kept, where to and how. Due plans are found by `next_start_at`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="plans")
    name = models.CharField(max_length=100)
    cron = models.CharField("schedule", max_length=100, blank=True, default="", help_text="Empty: only by hand.")
    time_zone = models.CharField(max_length=64, default="UTC")
    every_weeks = models.PositiveIntegerField(
        "every so many weeks", default=1, validators=[MinValueValidator(1), MaxValueValidator(52)]
    )
    first_week = models.DateField(null=True, blank=True, help_text="A day of the first week that counts.")
    blackouts = models.JSONField(default=list, blank=True)
    """Windows in which nothing starts, in the plan's time zone: `{"days": [0–6, Monday 0], "start": "08:00",
    "end": "18:00"}`; an end before its start is on the next day."""
    next_start_at = models.DateTimeField(null=True, db_index=True)
    keep_count = models.PositiveIntegerField(
        "archives kept", default=7, validators=[MinValueValidator(1), MaxValueValidator(10000)]
    )
    keep_days = models.PositiveIntegerField(
        "days kept", default=30, validators=[MaxValueValidator(36500)], help_text="0: only the count decides."
    )
    keep_daily = models.PositiveIntegerField("daily archives kept", default=0, validators=[MaxValueValidator(10000)])
    keep_weekly = models.PositiveIntegerField("weekly archives kept", default=0, validators=[MaxValueValidator(10000)])
    keep_monthly = models.PositiveIntegerField("monthly archives kept", default=0, validators=[MaxValueValidator(1200)])
    keep_yearly = models.PositiveIntegerField("yearly archives kept", default=0, validators=[MaxValueValidator(100)])
    gfs_weekday = models.PositiveIntegerField(
        "day of the weekly archive",
        choices=Weekday,
        default=Weekday.SUNDAY,
        help_text="Its archive stands for the week, and the month's last one for the month.",
    )
    repository = models.ForeignKey(Repository, on_delete=models.PROTECT, related_name="plans")
    policy = models.CharField("order", max_length=20, choices=Policy, default=Policy.HIGHEST_LOAD)
    metric = models.CharField("load measured by", max_length=20, choices=Metric, default=Metric.WRITE_KBPS)
    batch_size = models.PositiveIntegerField(default=0, help_text="0: all VMs are snapshotted together.")
    vapps_whole = models.BooleanField(
        "vApps stay whole", default=True, help_text="All VMs of a vApp are snapshotted at the same time."
    )
    hold_budget_s = models.PositiveIntegerField(
        "longest hold",
        default=0,
        validators=[MaxValueValidator(7 * 86400)],
        help_text="Seconds that a VM may keep its snapshot; 0: no limit.",
    )
    over_budget = models.CharField(
        "beyond the longest hold", max_length=12, choices=OverBudget, default=OverBudget.RETRY_ALONE
    )
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
