from django.db import models


class Event(models.Model):
    """Something a watcher of `topic` (a run's or recovery's id) should look at. Append-only, pruned by age. The id
    is the server-sent event's id; ids may commit out of order, so a watcher always starts from the full state."""

    topic = models.UUIDField()
    data = models.JSONField()
    at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        indexes = [models.Index(fields=["topic", "id"])]

    def __str__(self) -> str:
        return f"{self.topic} {self.pk}"
