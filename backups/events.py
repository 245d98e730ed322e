"""What watchers of a run or a recovery are told, as it happens."""

import json
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from backups.models import Event

CHANNEL = "hotfirst"


@transaction.atomic
def publish(topic: UUID, data: dict[str, Any]) -> None:
    """Seen by watchers once the surrounding transaction commits, and never if it rolls back. `data` is JSON and is
    shown to everyone who may see the topic."""
    event = Event.objects.create(topic=topic, data=json.loads(json.dumps(data, default=str)))
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, f"{event.pk} {topic}"])
