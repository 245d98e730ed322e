"""Where hints go. Long work has a queue of its own, so that it never keeps the tick waiting."""

from django_q.tasks import async_task

READERS = "readers"


def hint(func: str, *args: str, long: bool = False) -> None:
    """Part of the transaction it is called in: rolled back with it, seen by workers only after it."""
    name = " ".join([func.rpartition(".")[2], *args])
    async_task(func, *args, task_name=name[:100], cluster=READERS if long else None)
