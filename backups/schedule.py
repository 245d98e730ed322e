"""When a plan starts: a cron expression in a time zone, decided in local wall-clock time."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterBadDateError, croniter

from backups.errors import InvalidRequest


def check_schedule(cron: str, time_zone: str) -> None:
    """Raises InvalidRequest with the reason."""
    try:
        ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidRequest(f"“{time_zone}” is not a time zone; choose one such as Europe/Berlin.") from error
    if cron and (len(cron.split()) != 5 or not croniter.is_valid(cron)):
        raise InvalidRequest(f"“{cron}” is not a schedule; write five cron fields, such as 0 22 * * 1-5.")
    try:
        next_starts(cron, time_zone, datetime.now(UTC), 1)
    except CroniterBadDateError as error:
        raise InvalidRequest(f"“{cron}” names a day that never comes; choose another.") from error


def next_starts(cron: str, time_zone: str, after: datetime, count: int) -> list[datetime]:
    """The next `count` starts strictly after `after`, in UTC. Local time is walked, not UTC: so the hour that
    autumn repeats fires once, and a start in the hour that spring skips comes an hour later."""
    if not cron:
        return []
    zone = ZoneInfo(time_zone)
    wall = croniter(cron, after.astimezone(zone).replace(tzinfo=None))
    starts: list[datetime] = []
    while len(starts) < count:
        local: datetime = wall.get_next(datetime)
        start = local.replace(tzinfo=zone).astimezone(UTC)
        if start > after and start not in starts:
            starts.append(start)
    return starts


def latest_start(cron: str, time_zone: str, missed: datetime, now: datetime) -> datetime:
    """The newest start from `missed` to `now`: however many were missed, one is caught up."""
    latest = missed
    while (following := next_starts(cron, time_zone, latest, 1)[0]) <= now:
        latest = following
    return latest
