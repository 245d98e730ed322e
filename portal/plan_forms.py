"""The plan's page in three forms: when it starts, what it keeps, and how it runs. The services carry it out."""

import re
from functools import lru_cache
from typing import Any
from zoneinfo import available_timezones

from django import forms
from django.forms.utils import flatatt
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from backups.models import Plan
from portal.schedules import EVERY_DAY, FREQUENCIES, MONTHLY, STEPS, WEEKDAYS, compose, decompose

SCHEDULE_OPTIONS = ("cron", "time_zone", "every_weeks", "first_week", "blackouts")
GRANDFATHERS = ("keep_daily", "keep_weekly", "keep_monthly", "keep_yearly")
BLACKOUT_DAYS = tuple((str(number), name) for number, (_, name) in enumerate(WEEKDAYS))
ZONES = sorted(available_timezones())
CHOSEN = SafeString(" selected")
MOST_BLACKOUTS, SPARE_BLACKOUTS = 14, 2
USUAL = {field.name: field.get_default() for field in Plan._meta.concrete_fields}
HOLD_UNITS = (("60", "minutes"), ("1", "seconds"), ("3600", "hours"))


class Time(forms.TimeInput):
    input_type = "time"

    def __init__(self) -> None:
        super().__init__(format="%H:%M")


class TimeZones(forms.Select):
    """Six hundred options: each through its template they took longer than the rest of the page."""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:  # noqa: ARG002
        return format_html("<select{}>{}</select>", flatatt({**(attrs or {}), "name": name}), zone_options(str(value)))


@lru_cache(len(ZONES))
def zone_options(chosen: str) -> SafeString:
    rows = ((zone, CHOSEN if zone == chosen else "", zone) for zone in ZONES)
    return format_html_join("", '<option value="{}"{}>{}</option>', rows)


class BlackoutForm(forms.Form):
    """One window, or nothing if all of it is left empty."""

    days = forms.MultipleChoiceField(
        choices=BLACKOUT_DAYS, required=False, widget=forms.CheckboxSelectMultiple, label="Nothing starts on"
    )
    start = forms.TimeField(required=False, widget=Time, label="From")
    end = forms.TimeField(required=False, widget=Time, label="To")

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        told = [bool(data.get("days")), data.get("start") is not None, data.get("end") is not None]
        if not self.errors and any(told) and not all(told):
            raise forms.ValidationError("Choose the days, a start and an end; or leave all of it empty.")
        return data

    def window(self) -> dict[str, Any] | None:
        data = self.cleaned_data
        if not data["days"]:
            return None
        days = sorted(int(day) for day in data["days"])
        return {"days": days, "start": f"{data['start']:%H:%M}", "end": f"{data['end']:%H:%M}"}


class ScheduleForm(forms.Form):
    """Its cleaned data holds what SCHEDULE_OPTIONS names: `cron` is composed from the controls."""

    frequency = forms.ChoiceField(choices=FREQUENCIES, widget=forms.RadioSelect, initial="daily", label="Start")
    every_hours = forms.TypedChoiceField(
        choices=[(step, "every hour" if step == 1 else f"every {step} hours") for step in STEPS],
        coerce=int, empty_value=None, initial=1, required=False, label="How often",
    )  # fmt: skip
    minute = forms.IntegerField(min_value=0, max_value=59, initial=0, required=False, label="At minute")
    from_hour = forms.IntegerField(min_value=0, max_value=23, initial=0, required=False, label="From hour")
    to_hour = forms.IntegerField(
        min_value=0, max_value=23, initial=23, required=False, label="To hour",
        help_text="Or past midnight: 22 to 4.",
    )  # fmt: skip
    hour_days = forms.MultipleChoiceField(
        choices=WEEKDAYS, required=False, widget=forms.CheckboxSelectMultiple, label="On these days", initial=EVERY_DAY
    )
    at = forms.TimeField(initial="22:00", required=False, label="Time of day", widget=Time)
    weekdays = forms.MultipleChoiceField(
        choices=WEEKDAYS, required=False, widget=forms.CheckboxSelectMultiple, label="Days of the week"
    )
    every_weeks = forms.IntegerField(
        min_value=1, max_value=52, initial=1, required=False, label="Every so many weeks", help_text="1: every week."
    )
    first_week = forms.DateField(
        required=False, label="First week", widget=forms.DateInput({"type": "date"}, format="%Y-%m-%d"),
        help_text="Any day of the first week that counts; empty: this week.",
    )  # fmt: skip
    month_on = forms.ChoiceField(choices=MONTHLY, required=False, initial="day", label="On")
    month_day = forms.IntegerField(
        min_value=1, max_value=31, initial=1, required=False, label="Day of the month",
        help_text="A month that lacks the day has no start.",
    )  # fmt: skip
    month_weekday = forms.ChoiceField(choices=WEEKDAYS, required=False, initial="1", label="Weekday")
    cron = forms.CharField(
        max_length=100, required=False, label="Cron expression",
        help_text="Minute, hour, day, month, weekday; for example 0 22 * * 1-5.",
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false"}),
    )  # fmt: skip
    time_zone = forms.ChoiceField(choices=lambda: [(zone, zone) for zone in ZONES], initial="UTC", widget=TimeZones)

    def __init__(self, data: Any = None, *, initial: Any = None) -> None:
        super().__init__(data, initial=initial)
        known = (initial or {}).get("blackouts", [])
        sent = {key for key in data or () if re.fullmatch(r"blackout-\d+-start", key)}
        count = max(len(sent), SPARE_BLACKOUTS) if data is not None else len(known) + SPARE_BLACKOUTS
        self.windows = [
            BlackoutForm(data, prefix=f"blackout-{row}", initial=known[row] if row < len(known) else None)
            for row in range(min(count, MOST_BLACKOUTS))
        ]

    @property
    def has_blackouts(self) -> bool:
        return any(window.errors or window.initial or window.has_changed() for window in self.windows)

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("frequency") == "weekly" and not data.get("weekdays"):
            self.add_error("weekdays", "Choose at least one day.")
        if data.get("frequency") == "expert" and not data.get("cron"):
            self.add_error("cron", "Write a cron expression, or choose another kind of schedule.")
        if not all(window.is_valid() for window in self.windows):
            self.add_error(None, "One of the blackouts is not complete.")
        if not self.errors:
            data |= self._composed(data)
        return data

    def _composed(self, data: dict[str, Any]) -> dict[str, Any]:
        names = ("hour_days", "weekdays", "month_on", "month_weekday", "month_day", "cron", "every_hours", "minute")
        controls = {name: data[name] for name in (*names, "from_hour", "to_hour") if data.get(name) not in (None, "")}
        at = f"{data['at']:%H:%M}" if data.get("at") else "0:00"
        by_weeks = data["frequency"] in ("weekly", "expert")
        windows = [window.window() for window in self.windows]
        return {
            "cron": compose(data["frequency"], at=at, **controls),
            "every_weeks": (by_weeks and data.get("every_weeks")) or 1,
            "first_week": data.get("first_week") if by_weeks else None,
            "blackouts": [window for window in windows if window],
        }

    def options(self) -> dict[str, Any]:
        return {name: self.cleaned_data[name] for name in SCHEDULE_OPTIONS}


def schedule_form(plan: Plan | None, data: Any = None) -> ScheduleForm:
    initial: dict[str, Any] = {"frequency": "daily", "weekdays": ["0"], "at": "22:00"}
    if plan:
        initial |= decompose(plan.cron) | {name: getattr(plan, name) for name in SCHEDULE_OPTIONS}
        if (plan.every_weeks > 1 or plan.first_week) and initial["frequency"] != "weekly":
            initial["frequency"] = "expert"
    return ScheduleForm(data, initial=initial)


class _PlanPart(forms.ModelForm):  # type: ignore[type-arg]
    """A field that is left empty, or that an older page did not have, takes the plan's usual value."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in self.Meta.usual:  # type: ignore[attr-defined]
            self.fields[name].required = False

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        for name in self.Meta.usual:  # type: ignore[attr-defined]
            if data.get(name) in (None, ""):
                data[name] = USUAL[name]
        return data

    def options(self) -> dict[str, Any]:
        return {name: self.cleaned_data[name] for name in self.Meta.fields}  # type: ignore[attr-defined]


class RetentionForm(_PlanPart):
    class Meta:
        model = Plan
        fields = ["keep_count", "keep_days", *GRANDFATHERS, "gfs_weekday"]
        usual = (*GRANDFATHERS, "gfs_weekday")
        labels = {"keep_daily": "Daily", "keep_weekly": "Weekly", "keep_monthly": "Monthly", "keep_yearly": "Yearly"}

    @property
    def has_grandfathers(self) -> bool:
        return any(self[name].errors or self[name].value() not in (None, "", 0, "0") for name in GRANDFATHERS)


class PlanForm(_PlanPart):
    """`version` is what the user read: a plan that somebody else changed meanwhile is not overwritten."""

    version = forms.IntegerField(widget=forms.HiddenInput, required=False)
    hold = forms.IntegerField(
        min_value=0, required=False, label="Longest hold", help_text="How long a VM may keep its snapshot; 0: no limit."
    )
    hold_unit = forms.TypedChoiceField(
        choices=HOLD_UNITS, coerce=int, empty_value=None, initial="60", required=False, label="Unit"
    )

    class Meta:
        model = Plan
        fields = [
            "name", "repository", "policy", "metric", "readers", "batch_size", "vapps_whole", "over_budget", "quiesce",
        ]  # fmt: skip
        usual = ("metric", "over_budget")
        labels = {
            "batch_size": "VMs in a batch",
            "quiesce": "Quiesce the guests",
            "readers": "Readers",
            "vapps_whole": "Keep vApps whole",
        }
        help_texts = {
            "policy": "Which VM is archived first once the snapshots are taken.",
            "batch_size": "How many VMs are snapshotted together; 0 for all of them.",
            "readers": "How many VMs are archived at the same time.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        repository: Any = self.fields["repository"]
        repository.empty_label = None
        self.fields["version"].initial = self.instance.version
        hold_s = self.instance.hold_budget_s
        unit_s = next(unit for unit in (3600, 60, 1) if hold_s % unit == 0) if hold_s else 60
        self.fields["hold"].initial, self.fields["hold_unit"].initial = hold_s // unit_s, str(unit_s)

    @property
    def is_usual(self) -> bool:
        """Whether nobody has reason to look at how it runs."""
        shown = ("policy", "metric", "readers", "batch_size", "vapps_whole", "quiesce", "hold")
        wrong = any(self[name].errors for name in shown)
        changed = any(getattr(self.instance, name) != USUAL[name] for name in shown[:-1])
        return not wrong and not changed and not self.instance.hold_budget_s

    def options(self) -> dict[str, Any]:
        hold_s = (self.cleaned_data.get("hold") or 0) * (self.cleaned_data.get("hold_unit") or 60)
        return super().options() | {"hold_budget_s": hold_s}
