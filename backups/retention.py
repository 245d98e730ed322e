"""Which archives of one VM stay, and why. One rule of precedence: an archive stays while any rule keeps it."""

from calendar import monthrange
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

PERIODS = {"daily": "day", "weekly": "week", "monthly": "month", "yearly": "year"}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """`days` 0: no rule of age. Days, weeks, months and years are those of the time zone. An archive of `weekday` (0
    is Monday) stands for its week, and the last such for its month and year; where there is none, the last of all."""

    count: int = 1
    days: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    weekday: int = 6
    time_zone: str = "UTC"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    id: str
    backup_time: datetime
    good: bool = True
    locked_until: datetime | None = None
    in_use: bool = False


@dataclass(frozen=True)
class Reason:
    """`rule` is newest, count, age, daily, weekly, monthly, yearly, locked or in_use; `so_far`: its period goes on."""

    rule: str
    text: str
    so_far: bool = False


@dataclass(frozen=True)
class Verdict:
    """An archive stays while there are reasons; else `dropped` says why it goes."""

    reasons: tuple[Reason, ...]
    dropped: str = ""

    @property
    def stays(self) -> bool:
        return bool(self.reasons)

    def __str__(self) -> str:
        return self.dropped or "; ".join(reason.text for reason in self.reasons)


def judge(rules: Rules, archives: Sequence[Candidate], now: datetime) -> dict[str, Verdict]:
    """One verdict for each id, newest first. The newest good archive always stays. A damaged one takes no good one's
    place: it stays while it is young, locked, or fewer than `count` good ones are newer."""
    newest_first = sorted(archives, key=lambda archive: (archive.backup_time, archive.id), reverse=True)
    found: dict[str, list[Reason]] = {}
    newer = 0
    for archive in newest_first:
        found[archive.id] = list(_of_itself(rules, archive, newer, now))
        newer += archive.good
    for rule in PERIODS:
        for archive, reason in _of_periods(rules, rule, [each for each in newest_first if each.good], now):
            found[archive.id].append(reason)
    return {key: Verdict(tuple(reasons), "" if reasons else _why_not(rules)) for key, reasons in found.items()}


def preview(rules: Rules, starts: Sequence[datetime], now: datetime) -> list[tuple[datetime, Verdict]]:
    """What would be there at `now`, newest first, had each start given one good archive."""
    archives = [Candidate(id=start.isoformat(), backup_time=start) for start in starts if start <= now]
    verdicts = judge(rules, archives, now)
    return [(datetime.fromisoformat(key), verdict) for key, verdict in verdicts.items() if verdict.stays]


def _of_itself(rules: Rules, archive: Candidate, newer: int, now: datetime) -> Iterator[Reason]:
    if archive.good and newer == 0:
        yield Reason("newest", "the newest")
    elif newer < rules.count:
        yield Reason("count", f"among the newest {rules.count}")
    if rules.days and archive.backup_time > now - timedelta(days=rules.days):
        yield Reason("age", f"younger than {_days(rules.days)}")
    if archive.in_use:
        yield Reason("in_use", "being recovered")
    if archive.locked_until and archive.locked_until > now:
        yield Reason("locked", f"locked until {archive.locked_until.astimezone(ZoneInfo(rules.time_zone)):%Y-%m-%d}")


def _of_periods(
    rules: Rules, rule: str, newest_first: Sequence[Candidate], now: datetime
) -> Iterator[tuple[Candidate, Reason]]:
    """A period that goes on is not counted: what stands for it may yet change, and the ones before keep their place."""
    most: int = getattr(rules, rule)
    today = now.astimezone(ZoneInfo(rules.time_zone)).date()
    rank = 0
    for last_day, archive in _standing(rules, rule, newest_first).items() if most else ():
        if last_day > today:
            yield archive, Reason(rule, f"this {PERIODS[rule]}’s so far", so_far=True)
        elif rank < most:
            rank += 1
            yield archive, Reason(rule, f"{rule} {rank} of {most}")


def _standing(rules: Rules, rule: str, newest_first: Sequence[Candidate]) -> dict[date, Candidate]:
    """By the last day of each period, the archive that stands for it."""
    zone = ZoneInfo(rules.time_zone)
    standing: dict[date, Candidate] = {}
    chosen: set[date] = set()
    for archive in newest_first:
        day = archive.backup_time.astimezone(zone).date()
        last_day = _last_day(rule, day, rules.weekday)
        if last_day not in standing or (day.weekday() == rules.weekday and last_day not in chosen):
            standing[last_day] = archive
        if day.weekday() == rules.weekday:
            chosen.add(last_day)
    return standing


def _last_day(rule: str, day: date, weekday: int) -> date:
    """A week ends with the chosen weekday, so that its archive is the week's last."""
    match rule:
        case "weekly":
            return day + timedelta(days=(weekday - day.weekday()) % 7)
        case "monthly":
            return day.replace(day=monthrange(day.year, day.month)[1])
        case "yearly":
            return date(day.year, 12, 31)
    return day


def _why_not(rules: Rules) -> str:
    told = [f"older than {_days(rules.days)}"] if rules.days else []
    told.append("not the newest" if rules.count <= 1 else f"not among the newest {rules.count}")
    periods = [rule for rule in PERIODS if getattr(rules, rule)]
    if periods:
        told.append(f"not a {' or '.join(periods)} archive that is kept")
    return ", ".join(told[:-1]) + (" and " if told[1:] else "") + told[-1]


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"
