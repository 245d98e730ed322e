"""When a plan starts, decided in local wall-clock time. Whatever falls into a time in which nothing can start, a
blackout or the hour that spring skips, comes later and is not lost; what comes at one moment starts once."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, takewhile
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterBadDateError, croniter

from backups.errors import InvalidRequest

NEVER = timedelta(days=30 * 365)
JUST_BEFORE = timedelta(seconds=1)
DAY = timedelta(days=1)
MOST_BLACKOUTS = 50
MINUTES_A_DAY, MINUTES_A_WEEK = 24 * 60, 7 * 24 * 60
BLACKOUT_EXAMPLE = "write days from 0 (Monday) to 6, a start and an end, such as 08:00 and 18:00"


@dataclass(frozen=True)
class Blackout:
    """On these days (0 is Monday) nothing starts from `start` on; an `end` not after it is on the next day."""

    days: frozenset[int]
    start: time
    end: time


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`cron` empty: only by hand. Of `every_weeks` the first counted week is that of `first_week`."""

    cron: str = ""
    time_zone: str = "UTC"
    every_weeks: int = 1
    first_week: date | None = None
    blackouts: tuple[Blackout, ...] = ()


def read_blackouts(told: object) -> tuple[Blackout, ...]:
    """From `[{"days": [0, 1], "start": "08:00", "end": "18:00"}]`. Raises InvalidRequest with the reason."""
    if not isinstance(told, list):
        raise InvalidRequest("The blackouts are not a list of windows.")
    if len(told) > MOST_BLACKOUTS:
        raise InvalidRequest(f"A plan has at most {MOST_BLACKOUTS} blackouts; name several days in one.")
    return tuple(_read_blackout(window) for window in told)


def _read_blackout(window: Any) -> Blackout:
    if not isinstance(window, Mapping) or set(window) != {"days", "start", "end"}:
        raise InvalidRequest(f"A blackout is not understood; {BLACKOUT_EXAMPLE}.")
    days = window["days"]
    if not isinstance(days, list) or not days or any(type(day) is not int or not 0 <= day <= 6 for day in days):
        raise InvalidRequest(f"A blackout needs its days; {BLACKOUT_EXAMPLE}.")
    return Blackout(frozenset(days), _read_time(window["start"]), _read_time(window["end"]))


def _read_time(told: object) -> time:
    try:
        return datetime.strptime(str(told), "%H:%M").time()
    except ValueError as error:
        raise InvalidRequest(f"“{told}” is not a time of day; {BLACKOUT_EXAMPLE}.") from error


def check_schedule(schedule: Schedule) -> None:
    """Raises InvalidRequest with the reason."""
    try:
        ZoneInfo(schedule.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidRequest(f"“{schedule.time_zone}” is not a time zone; choose one such as Europe/Berlin.") from error
    if not 1 <= schedule.every_weeks <= 52:
        raise InvalidRequest("A plan starts every 1 to 52 weeks.")
    cron = schedule.cron
    if cron and (len(cron.split()) != 5 or _at_random(cron) or not croniter.is_valid(cron)):
        raise InvalidRequest(f"“{cron}” is not a schedule; write five cron fields, such as 0 22 * * 1-5.")
    if _cover_the_week(schedule.blackouts):
        raise InvalidRequest("The blackouts cover the whole week, so nothing could ever start; leave some time free.")
    if cron and not next_starts(schedule, datetime.now(UTC), 1):
        raise InvalidRequest(f"“{cron}” names a day that never comes; choose another.")


def _at_random(cron: str) -> bool:
    """croniter reads R so, and would name another time on every look."""
    return any(part.upper().startswith("R") for part in re.split(r"[\s,]", cron))


def next_starts(schedule: Schedule, after: datetime, count: int) -> list[datetime]:
    return list(islice(starts(schedule, after), count))


def starts(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """Strictly after `after`, rising, in UTC, without end unless the cron expression never comes again. Those that
    fall into a blackout come at its end, as one, and are not looked at singly."""
    if not schedule.cron or _cover_the_week(schedule.blackouts):
        return
    blackouts = _Blackouts(schedule)
    last = after
    since: datetime | None = blackouts.begin(after)
    while since is not None:
        hindered = None
        for at in _unhindered(schedule, since):
            start = blackouts.end(at)
            if start > last:
                yield start
                last = start
            if start > at:
                hindered = start
                break
        since = hindered


def due(schedule: Schedule, missed: datetime, now: datetime) -> tuple[datetime | None, datetime | None]:
    """What to do about a start whose time has come: the start to make now and the next one. However many were
    missed, one is made up for; within a blackout it waits for the end."""
    free = _Blackouts(schedule).end(now)
    if free != now:
        return None, free
    return latest_start(schedule, missed, now), next(starts(schedule, now), None)


def latest_start(schedule: Schedule, missed: datetime, now: datetime) -> datetime:
    """The newest start from `missed` to `now`. The search reaches back in growing steps, since a plan of every
    minute may have slept for a year."""
    back = timedelta(hours=1)
    while (begin := max(now - back, missed)) > missed:
        found = list(takewhile(lambda start: start <= now, starts(schedule, begin)))
        if found:
            return found[-1]
        back *= 8
    return [missed, *takewhile(lambda start: start <= now, starts(schedule, missed))][-1]


def _unhindered(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """The starts as if there were no blackouts. The hour that autumn repeats fires the first time; a time that
    spring skips comes as much later as the clock was put forward."""
    zone = ZoneInfo(schedule.time_zone)
    last, skipped = after, list[datetime]()
    local = after.astimezone(zone)
    put_forward = (local.utcoffset() or timedelta()) - ((after - DAY).astimezone(zone).utcoffset() or timedelta())
    for wall in _wall_times(schedule, local.replace(tzinfo=None) - max(put_forward, timedelta())):
        at = wall.replace(tzinfo=zone).astimezone(UTC)
        if at.astimezone(zone).replace(tzinfo=None) != wall:
            skipped.append(at)
            continue
        for start in (*(early for early in skipped if early < at), at):
            if start > last:
                yield start
                last = start
        skipped = [late for late in skipped if late > at]


def _wall_times(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    times = croniter(schedule.cron, after)
    try:
        while (wall := times.get_next(datetime)) < after + NEVER:
            weeks = _weeks_to_wait(schedule, wall.date())
            if weeks:
                monday = wall.date() - wall.weekday() * DAY + weeks * 7 * DAY
                times.set_current(datetime.combine(monday, time.min) - JUST_BEFORE, force=True)
            else:
                yield wall
    except CroniterBadDateError:
        return


def _weeks_to_wait(schedule: Schedule, day: date) -> int:
    """0 in a week that counts. Weeks begin on Monday."""
    if schedule.first_week is None and schedule.every_weeks == 1:
        return 0
    first = schedule.first_week or date(1970, 1, 5)
    weeks = ((day - day.weekday() * DAY) - (first - first.weekday() * DAY)).days // 7
    return -weeks if weeks < 0 else -weeks % schedule.every_weeks


class _Blackouts:
    """Those of a schedule in UTC, by the local day on which they begin. Where the clock is changed a window is taken
    rather too long than too short."""

    def __init__(self, schedule: Schedule) -> None:
        self._blackouts, self._zone = schedule.blackouts, ZoneInfo(schedule.time_zone)
        self._days: dict[date, list[tuple[datetime, datetime]]] = {}

    def end(self, at: datetime) -> datetime:
        """`at`, or the end of the blackouts it lies in."""
        while window := self._around(at):
            at = window[1]
        return at

    def begin(self, at: datetime) -> datetime:
        """`at`, or the moment before the blackouts it lies in."""
        while window := self._around(at):
            at = window[0] - JUST_BEFORE
        return at

    def _around(self, at: datetime) -> tuple[datetime, datetime] | None:
        if not self._blackouts:
            return None
        today = at.astimezone(self._zone).date()
        for day in (today - DAY, today, today + DAY):
            for begin, end in self._of(day):
                if begin <= at < end:
                    return begin, end
        return None

    def _of(self, day: date) -> list[tuple[datetime, datetime]]:
        if day not in self._days:
            todays = [blackout for blackout in self._blackouts if day.weekday() in blackout.days]
            self._days[day] = [self._window(day, blackout) for blackout in todays]
        return self._days[day]

    def _window(self, day: date, blackout: Blackout) -> tuple[datetime, datetime]:
        last_day = day if blackout.end > blackout.start else day + DAY
        begin = min(_both_readings(datetime.combine(day, blackout.start), self._zone))
        return begin, max(_both_readings(datetime.combine(last_day, blackout.end), self._zone))


def _both_readings(wall: datetime, zone: ZoneInfo) -> list[datetime]:
    return [wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]


def _cover_the_week(blackouts: Sequence[Blackout]) -> bool:
    covered_until = 0
    for begin, end in sorted(_minutes(blackouts)):
        if begin > covered_until:
            return False
        covered_until = max(covered_until, end)
    return covered_until >= MINUTES_A_WEEK


def _minutes(blackouts: Sequence[Blackout]) -> Iterator[tuple[int, int]]:
    """Each window in minutes since Monday, and once more a week before: the last night reaches into Monday."""
    for blackout in blackouts:
        start = blackout.start.hour * 60 + blackout.start.minute
        end = blackout.end.hour * 60 + blackout.end.minute
        length = (end - start - 1) % MINUTES_A_DAY + 1
        for day in blackout.days:
            begin = day * MINUTES_A_DAY + start
            yield begin, begin + length
            yield begin - MINUTES_A_WEEK, begin - MINUTES_A_WEEK + length
