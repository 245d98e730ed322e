"""Between a cron expression and the few controls that most people need."""

from typing import Any

WEEKDAYS = (("1", "Mon"), ("2", "Tue"), ("3", "Wed"), ("4", "Thu"), ("5", "Fri"), ("6", "Sat"), ("0", "Sun"))
FREQUENCIES = (
    ("hand", "By hand only"),
    ("hourly", "Hourly"),
    ("daily", "Daily"),
    ("weekly", "Weekly"),
    ("monthly", "Monthly"),
    ("expert", "Expert"),
)


def compose(
    frequency: str, *, minute: int = 0, at: str = "22:00", weekdays: list[str], month_day: int = 1, cron: str = ""
) -> str:
    """`at` is HH:MM. By hand gives an empty expression."""
    hour, _, past = at.partition(":")
    when = f"{int(past or 0)} {int(hour or 0)}"
    return {
        "hand": "",
        "hourly": f"{minute} * * * *",
        "daily": f"{when} * * *",
        "weekly": f"{when} * * {','.join(weekdays) or '0'}",
        "monthly": f"{when} {month_day} * *",
        "expert": " ".join(cron.split()),
    }[frequency]


def decompose(cron: str) -> dict[str, Any]:
    """The controls' values; what they cannot say stays an expert's expression."""
    found: dict[str, Any] = {"cron": cron}
    if not cron:
        return found | {"frequency": "hand"}
    minute, hour, day, month, weekday = cron.split()
    if not minute.isdigit() or month != "*":
        return found | {"frequency": "expert"}
    if (hour, day, weekday) == ("*", "*", "*"):
        return found | {"frequency": "hourly", "minute": int(minute)}
    if not hour.isdigit():
        return found | {"frequency": "expert"}
    found["at"] = f"{int(hour):02}:{int(minute):02}"
    return found | _on_days(day, weekday)


def _on_days(day: str, weekday: str) -> dict[str, Any]:
    if (day, weekday) == ("*", "*"):
        return {"frequency": "daily"}
    if day == "*" and set(weekday.split(",")) <= {value for value, _ in WEEKDAYS}:
        return {"frequency": "weekly", "weekdays": weekday.split(",")}
    if weekday == "*" and day.isdigit() and int(day) <= 31:
        return {"frequency": "monthly", "month_day": int(day)}
    return {"frequency": "expert"}


def in_words(cron: str) -> str:
    found = decompose(cron)
    names = dict(WEEKDAYS)
    days = ", ".join(names[day] for day in found.get("weekdays", []))
    return {
        "hand": "By hand only",
        "hourly": f"Hourly at :{found.get('minute', 0):02}",
        "daily": f"Daily at {found.get('at')}",
        "weekly": f"{days} at {found.get('at')}",
        "monthly": f"Monthly on day {found.get('month_day')} at {found.get('at')}",
        "expert": cron,
    }[found["frequency"]]
