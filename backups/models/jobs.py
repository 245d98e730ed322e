"""What runs, run items and recoveries share: a state that only `transition` moves, and a lease on the worker."""

from datetime import datetime
from typing import Any, Self

from django.db import models


class Job(models.Model):
    """One long job, one row. `attempt` only grows: it fences out a worker that lost its lease, since every write
    of a worker names the attempt it was given."""

    state = models.CharField(max_length=12)
    attempt = models.PositiveIntegerField(default=0)
    failures = models.PositiveIntegerField(default=0)
    lease_owner = models.CharField(max_length=120, blank=True, default="")
    lease_until = models.DateTimeField(null=True, db_index=True)
    hinted_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    error_code = models.CharField(max_length=40, blank=True, default="")
    message = models.TextField(blank=True, default="")

    class Meta:
        abstract = True

    def mine(self) -> "models.QuerySet[Self]":
        """This row, if nobody has moved or taken it since it was read."""
        return type(self)._default_manager.filter(pk=self.pk, attempt=self.attempt, state=self.state)

    def transition(self, new: str, **fields: Any) -> bool:
        """Moves the row from the state and attempt that this object holds; False if somebody else was first."""
        won = self.mine().update(state=new, **fields) == 1
        if won:
            self.state = new
            for name, value in fields.items():
                if not isinstance(value, models.expressions.Combinable):
                    setattr(self, name, value)
        return won

    @property
    def duration_s(self) -> float | None:
        end: datetime | None = self.finished_at
        return (end - self.started_at).total_seconds() if end and self.started_at else None
