"""What the plan's page foretells while it is filled in: the next starts, and which archives there will be."""

from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from zoneinfo import ZoneInfo

from django.utils import timezone

from backups.errors import HotfirstError
from backups.models import Plan, Tenant
from backups.retention import Verdict
from backups.schedule import check_schedule, next_starts
from backups.services.archives import dry_run
from backups.services.plans import Promise, retention_preview, schedule_of
from portal.plan_forms import RetentionForm, ScheduleForm

LABELS = {
    "count": "Newest", "age": "By age", "daily": "Daily", "weekly": "Weekly", "monthly": "Monthly", "yearly": "Yearly",
}  # fmt: skip
RULES = list(LABELS)
RANKS = {rule: rank for rank, rule in enumerate(RULES)}
MOST_NAMED = 4
MOST_DOTS = 200
INCOMPLETE = "Complete the schedule to see"


@dataclass(frozen=True)
class Row:
    """The archives that one rule keeps, newest first; more than a few are told by the first and the last."""

    label: str
    times: list[datetime]
    so_far: str
    """What is kept besides, uncounted, for the period that goes on."""

    @property
    def named(self) -> list[datetime]:
        return self.times if len(self.times) <= MOST_NAMED else []

    @property
    def first(self) -> datetime:
        return self.times[-1]

    @property
    def last(self) -> datetime:
        return self.times[0]


def starts_of(schedule: ScheduleForm) -> dict[str, object]:
    """`at` and `zone`, or in `told` why there are none."""
    plan = _unsaved(schedule)
    if plan is None:
        return {"told": f"{INCOMPLETE} when it starts."}
    if not plan.cron:
        return {"told": "It starts only when somebody presses “Back up now”."}
    try:
        timed = schedule_of(plan)
        check_schedule(timed)
        return {"at": next_starts(timed, timezone.now(), 5), "zone": plan.time_zone}
    except HotfirstError as error:
        return {"told": str(error)}


def kept_by(schedule: ScheduleForm, retention: RetentionForm, tenant: Tenant, plan: Plan | None) -> dict[str, object]:
    """The promise with its rows and the dots of its strip, or in `told` why there is none."""
    tried = _unsaved(schedule, retention)
    if tried is None:
        return {"told": f"{INCOMPLETE} what will be kept."}
    try:
        promise = retention_preview(tried, timezone.now())
    except HotfirstError as error:
        return {"told": str(error)}
    going = _going(tried, tenant, plan)
    if promise is None:
        return {"told": "These rules apply to the archives of every “Back up now”.", **going}
    zone = ZoneInfo(tried.time_zone)
    return {"promise": promise, "zone": tried.time_zone, "rows": _rows(promise), "dots": _dots(promise, zone), **going}


def _unsaved(*forms: ScheduleForm | RetentionForm) -> Plan | None:
    """The plan as the forms hold it now; as they would send it if nobody has touched them yet."""
    options: dict[str, object] = {}
    for form in forms:
        filled = form if form.is_bound else type(form)(_as_sent(form))
        if not filled.is_valid():
            return None
        options |= filled.options()
    return Plan(**options)


def _as_sent(form: ScheduleForm | RetentionForm) -> dict[str, object]:
    windows = form.windows if isinstance(form, ScheduleForm) else []
    return {field.html_name: field.value() for field in chain(form, *windows)}


def _going(tried: Plan, tenant: Tenant, plan: Plan | None) -> dict[str, object]:
    if plan is None:
        return {}
    tried.pk, tried.tenant = plan.pk, tenant
    judged = dry_run(tried, timezone.now())
    gone = sorted(archive.backup_time for archive, verdict in judged if not verdict.stays)
    return {"there": len(judged), "going": len(gone), "gone": gone}


def _rows(promise: Promise) -> list[Row]:
    rows = [_row(rule, label, promise.kept) for rule, label in LABELS.items()]
    return [row for row in rows if row.times or row.so_far]


def _row(rule: str, label: str, kept: list[tuple[datetime, Verdict]]) -> Row:
    """The newest counts among the newest."""
    named = {"count": ("count", "newest")}.get(rule, (rule,))
    by_rule = [(at, reason) for at, verdict in kept for reason in verdict.reasons if reason.rule in named]
    so_far = next((reason.text for _, reason in by_rule if reason.so_far), "")
    return Row(label, [at for at, reason in by_rule if not reason.so_far], so_far)


def _dots(promise: Promise, zone: ZoneInfo) -> list[dict[str, object]]:
    """Each archive at its place in percent of the time, with the rule that keeps it longest. Of those that would lie
    upon each other one is drawn."""
    begin = min(at for at, _ in promise.kept)
    width_s = max((promise.until - begin).total_seconds(), 1.0)
    drawn: dict[float, tuple[int, datetime, Verdict]] = {}
    for at, verdict in promise.kept:
        place = round((at - begin).total_seconds() / width_s * MOST_DOTS) / MOST_DOTS
        rank = max(RANKS.get(reason.rule, 0) for reason in verdict.reasons)
        if place not in drawn or rank > drawn[place][0]:
            drawn[place] = rank, at, verdict
    return [
        {"left": f"{1 + 98 * place:.2f}%", "rule": RULES[rank], "told": f"{at.astimezone(zone):%a %Y-%m-%d}: {verdict}"}
        for place, (rank, at, verdict) in drawn.items()
    ]
