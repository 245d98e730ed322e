"""Which archives of one VM stay, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, kw_only=True)
class Kept:
    id: str
    backup_time: datetime


def reasons_to_keep(archives: Sequence[Kept], *, count: int, days: int, now: datetime) -> dict[str, str]:
    """The ids that stay, each with the reason; an archive stays if any rule keeps it, and the newest always
    stays. `days` 0: only the count decides."""
    newest_first = sorted(archives, key=lambda a: a.backup_time, reverse=True)
    reasons: dict[str, str] = {}
    for rank, archive in enumerate(newest_first):
        if rank < max(count, 1):
            reasons[archive.id] = "the newest" if rank == 0 else f"among the newest {count}"
        elif days and archive.backup_time > now - timedelta(days=days):
            reasons[archive.id] = f"younger than {days} days"
    return reasons
