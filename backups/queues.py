"""Where hints go. Long work has a queue of its own, so that it never keeps the tick waiting."""

from django.utils import timezone
from django_q.models import OrmQ
from django_q.tasks import async_task

READERS = "readers"


def undelivered(key: str) -> int:
    """Messages that no host has fetched yet."""
    return OrmQ.objects.filter(key=key, lock__lte=timezone.now()).count()


def hint(func: str, *args: str, long: bool = False) -> None:
    """Part of the transaction it is called in: rolled back with it, seen by workers only after it."""
    name = " ".join([func.rpartition(".")[2], *args])
    async_task(func, *args, task_name=name[:100], cluster=READERS if long else None)
