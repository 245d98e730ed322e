"""Between a cron expression and the few controls that most people need."""

import re
from typing import Any

WEEKDAYS = (("1", "Mon"), ("2", "Tue"), ("3", "Wed"), ("4", "Thu"), ("5", "Fri"), ("6", "Sat"), ("0", "Sun"))
EVERY_DAY = [value for value, _ in WEEKDAYS]
FREQUENCIES = (
    ("hand", "By hand only"),
    ("hourly", "Hourly"),
    ("daily", "Daily"),
    ("weekly", "Weekly"),
    ("monthly", "Monthly"),
    ("expert", "Expert"),
)
MONTHLY = (
    ("day", "a day of the month"),
    ("last", "the last day"),
    ("1", "the first …"),
    ("2", "the second …"),
    ("3", "the third …"),
    ("4", "the fourth …"),
    ("L", "the last …"),
)
ORDINALS = {"1": "first", "2": "second", "3": "third", "4": "fourth", "L": "last"}
STEPS = (1, 2, 3, 4, 6, 8, 12)


def compose(
    frequency: str,
    *,
    minute: int = 0,
    every_hours: int = 1,
    from_hour: int = 0,
    to_hour: int = 23,
    hour_days: list[str] = EVERY_DAY,
    at: str = "22:00",
    weekdays: list[str],
    month_on: str = "day",
    month_day: int = 1,
    month_weekday: str = "1",
    cron: str = "",
) -> str:
    """`at` is HH:MM. By hand gives an empty expression."""
    hour, _, past = at.partition(":")
    when = f"{int(past or 0)} {int(hour or 0)}"
    return {
        "hand": "",
        "hourly": f"{minute} {_hours(every_hours, from_hour, to_hour)} * * {_days(hour_days)}",
        "daily": f"{when} * * *",
        "weekly": f"{when} * * {_days(weekdays)}",
        "monthly": f"{when} {_month_days(month_on, month_day, month_weekday)}",
        "expert": " ".join(cron.split()),
    }[frequency]


def _hours(every: int, first: int, last: int) -> str:
    hours = "*" if (first, last) == (0, 23) else f"{first}-{last}"
    return hours if every == 1 else f"{hours}/{every}"


def _days(chosen: list[str]) -> str:
    days = [day for day in EVERY_DAY if day in chosen]
    if len(days) in (0, 7):
        return "*"
    return "1-5" if days == EVERY_DAY[:5] else ",".join(days)


def _month_days(on: str, day: int, weekday: str) -> str:
    if on in ORDINALS:
        return f"* * L{weekday}" if on == "L" else f"* * {weekday}#{on}"
    return f"{'L' if on == 'last' else day} * *"


def decompose(cron: str) -> dict[str, Any]:
    """The controls' values; what they cannot say stays an expert's expression."""
    found: dict[str, Any] = {"cron": cron}
    if not cron:
        return found | {"frequency": "hand"}
    minute, hour, day, month, weekday = cron.split()
    if not minute.isdigit() or month != "*":
        return found | {"frequency": "expert"}
    if hourly := _in_window(hour, day, weekday):
        return found | hourly | {"frequency": "hourly", "minute": int(minute)}
    if not hour.isdigit():
        return found | {"frequency": "expert"}
    found["at"] = f"{int(hour):02}:{int(minute):02}"
    return found | _on_days(day, weekday)


def _in_window(hour: str, day: str, weekday: str) -> dict[str, Any] | None:
    window = re.fullmatch(r"(?:\*|(\d+)-(\d+))(?:/(\d+))?", hour)
    days = _weekdays(weekday)
    if not window or day != "*" or not days or int(window[3] or 1) not in STEPS:
        return None
    first, last = int(window[1] or 0), int(window[2] or 23)
    return {"every_hours": int(window[3] or 1), "from_hour": first, "to_hour": last, "hour_days": days}


def _weekdays(field: str) -> list[str]:
    """Empty if it is more than a list of days."""
    found: set[str] = set()
    for part in ("1-7" if field == "*" else field).split(","):
        days = re.fullmatch(r"([0-7])(?:-([0-7]))?", part)
        if not days:
            return []
        found |= {str(day % 7) for day in range(int(days[1]), int(days[2] or days[1]) + 1)}
    return [day for day in EVERY_DAY if day in found]


def _on_days(day: str, weekday: str) -> dict[str, Any]:
    if (day, weekday) == ("*", "*"):
        return {"frequency": "daily"}
    if day == "*" and (days := _weekdays(weekday)):
        return {"frequency": "weekly", "weekdays": days}
    if day == "*" and (nth := re.fullmatch(r"L([0-6])|([0-6])#([1-4])", weekday)):
        return {"frequency": "monthly", "month_on": nth[3] or "L", "month_weekday": nth[1] or nth[2]}
    if weekday == "*" and day in ("L", "l"):
        return {"frequency": "monthly", "month_on": "last"}
    if weekday == "*" and day.isdigit() and int(day) <= 31:
        return {"frequency": "monthly", "month_day": int(day)}
    return {"frequency": "expert"}


def in_words(cron: str, every_weeks: int = 1) -> str:
    found = decompose(cron)
    at = found.get("at")
    told = {
        "hand": "By hand only",
        "hourly": _hourly_in_words(found),
        "daily": f"Daily at {at}",
        "weekly": f"{_named(found.get('weekdays', []))} at {at}",
        "monthly": f"Monthly on {_month_in_words(found)} at {at}",
        "expert": cron,
    }[found["frequency"]]
    return told if every_weeks == 1 else f"{told}, every {every_weeks} weeks"


def _hourly_in_words(found: dict[str, Any]) -> str:
    every, first, last = found.get("every_hours", 1), found.get("from_hour", 0), found.get("to_hour", 23)
    told = f"{'Hourly' if every == 1 else f'Every {every} hours'} at :{found.get('minute', 0):02}"
    if (first, last) != (0, 23):
        told += f", {first:02}–{last:02} h"
    days = found.get("hour_days", EVERY_DAY)
    return told if days == EVERY_DAY else f"{told}, {_named(days)}"


def _month_in_words(found: dict[str, Any]) -> str:
    on = found.get("month_on", "day")
    if on in ORDINALS:
        return f"the {ORDINALS[on]} {dict(WEEKDAYS)[found['month_weekday']]}"
    return "the last day" if on == "last" else f"day {found.get('month_day')}"


def _named(days: list[str]) -> str:
    return "Mon–Fri" if days == EVERY_DAY[:5] else ", ".join(dict(WEEKDAYS)[day] for day in days)
