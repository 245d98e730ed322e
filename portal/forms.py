"""Forms are given the tenant and offer its rows only; what they say is carried out by the services."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from zoneinfo import available_timezones

from django import forms
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password

from backups.models import Plan, Role, Tenant
from backups.models.recoveries import RecoveryMode
from portal.schedules import FREQUENCIES, WEEKDAYS, compose, decompose

EXPIRIES = (("30", "30 days"), ("90", "90 days"), ("365", "A year"))


class ScheduleForm(forms.Form):
    """Its cleaned data holds `cron`, composed from the controls, and the time zone."""

    frequency = forms.ChoiceField(choices=FREQUENCIES, widget=forms.RadioSelect, initial="daily", label="Start")
    minute = forms.IntegerField(min_value=0, max_value=59, initial=0, required=False, label="Minute past the hour")
    at = forms.TimeField(
        initial="22:00", required=False, label="Time of day", widget=forms.TimeInput({"type": "time"}, format="%H:%M")
    )
    weekdays = forms.MultipleChoiceField(
        choices=WEEKDAYS, required=False, widget=forms.CheckboxSelectMultiple, label="Days of the week"
    )
    month_day = forms.IntegerField(min_value=1, max_value=31, initial=1, required=False, label="Day of the month")
    cron = forms.CharField(
        max_length=100,
        required=False,
        label="Cron expression",
        help_text="Minute, hour, day, month, weekday; for example 0 22 * * 1-5.",
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false"}),
    )
    time_zone = forms.ChoiceField(choices=lambda: [(z, z) for z in sorted(available_timezones())], initial="UTC")

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("frequency") == "weekly" and not data.get("weekdays"):
            self.add_error("weekdays", "Choose at least one day.")
        if data.get("frequency") == "expert" and not data.get("cron"):
            self.add_error("cron", "Write a cron expression, or choose another kind of schedule.")
        if not self.errors:
            data["cron"] = self._composed(data)
        return data

    def _composed(self, data: dict[str, Any]) -> str:
        return compose(
            data["frequency"],
            minute=data.get("minute") or 0,
            at=f"{data['at']:%H:%M}" if data.get("at") else "0:00",
            weekdays=data.get("weekdays") or [],
            month_day=data.get("month_day") or 1,
            cron=data.get("cron") or "",
        )


class PlanForm(forms.ModelForm):  # type: ignore[type-arg]
    """`version` is what the user read: a plan that somebody else changed meanwhile is not overwritten."""

    version = forms.IntegerField(widget=forms.HiddenInput, required=False)

    class Meta:
        model = Plan
        fields = ["name", "keep_count", "keep_days", "repository", "policy", "batch_size", "readers", "quiesce"]
        labels = {"batch_size": "VMs in a batch", "quiesce": "Quiesce the guests", "readers": "Readers"}
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

    def options(self) -> dict[str, Any]:
        return {name: self.cleaned_data[name] for name in self.Meta.fields}


def schedule_of(plan: Plan | None, data: Any = None) -> ScheduleForm:
    initial = decompose(plan.cron) | {"time_zone": plan.time_zone} if plan else {}
    return ScheduleForm(data, initial={"frequency": "daily", "weekdays": ["0"], "at": "22:00"} | initial)


class RecoveryForm(forms.Form):
    mode = forms.ChoiceField(choices=RecoveryMode, widget=forms.RadioSelect, initial=RecoveryMode.AS_NEW)
    power_on = forms.BooleanField(required=False, label="Power on afterwards")

    def __init__(self, *args: Any, may_overwrite: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not may_overwrite:
            mode: Any = self.fields["mode"]
            mode.choices = [(RecoveryMode.AS_NEW.value, RecoveryMode.AS_NEW.label)]


class TargetForm(forms.Form):
    """One vApp or VM that is recovered. Its choices carry a key and the archives of one backup time."""

    point = forms.ChoiceField(
        label="Backup time",
        error_messages={"invalid_choice": "Choose one of the backup times in this list.", "required": "Choose a time."},
    )
    new_name = forms.CharField(max_length=80, required=False, label="New name")

    def __init__(self, *args: Any, name: str, choices: Sequence[Any], first: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        point: Any = self.fields["point"]
        point.choices = [(str(choice.key), self._said(choice)) for choice in choices]
        whole = next((str(choice.key) for choice in choices if choice.complete), None)
        point.initial = first if first in dict(point.choices) else whole
        self.fields["new_name"].initial = f"{name[:70]}-recovered"

    @staticmethod
    def _said(choice: Any) -> str:
        at = min(archive.backup_time for archive in choice.archives)
        count = len(choice.archives)
        told = f"{at:%Y-%m-%d %H:%M:%S} UTC · {count} VM{'' if count == 1 else 's'}"
        return told if choice.complete else f"{told}, not all"

    def require_name(self, needed: bool) -> None:
        self.fields["new_name"].required = needed
        self.fields["new_name"].error_messages["required"] = "Give what is recovered a name."


class TokenForm(forms.Form):
    name = forms.CharField(max_length=100, help_text="What will use it, so that you know it again.")
    role = forms.ChoiceField(choices=Role, initial=Role.VIEWER)
    expiry = forms.ChoiceField(choices=EXPIRIES, label="Valid for", initial="90")

    def expires_in(self) -> timedelta:
        return timedelta(days=int(self.cleaned_data["expiry"]))


class TenantForm(forms.Form):
    name = forms.CharField(max_length=100)


class MemberForm(forms.Form):
    """A user that exists, or with a password a new one."""

    username = forms.CharField(max_length=150, label="User name", widget=forms.TextInput({"autocomplete": "off"}))
    password = forms.CharField(
        required=False,
        widget=forms.PasswordInput({"autocomplete": "new-password"}),
        label="Password for a new user",
        help_text="Leave it empty for a user who exists already.",
    )
    role = forms.ChoiceField(choices=Role, initial=Role.VIEWER)

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        username, password = data.get("username", ""), data.get("password", "")
        self.user = User.objects.filter(username=username).first()
        if self.user and password:
            self.add_error("password", f"{username} exists already; leave the password empty.")
        elif not self.user and not password:
            self.add_error("password", f"There is no user {username} yet; give the new user a password.")
        elif not self.user:
            self._check_new(username, password)
        return data

    def _check_new(self, username: str, password: str) -> None:
        try:
            fresh = User(username=username)
            fresh.clean_fields(exclude=["password"])
            validate_password(password, fresh)
        except forms.ValidationError as error:
            self.add_error("password", error.messages)

    def member(self) -> User:
        """Creates the user if he is new."""
        data = self.cleaned_data
        return self.user or User.objects.create_user(data["username"], password=data["password"])


class AddressForm(forms.Form):
    host = forms.CharField(max_length=255, label="Address", help_text="A host name or an IP address.")
    port = forms.IntegerField(min_value=1, max_value=65535, initial=443)


class EnrolForm(forms.Form):
    """The certificate is not among the fields: it was looked up, confirmed, and waits in the session."""

    name = forms.CharField(max_length=100, help_text="How it is called here.")
    username = forms.CharField(max_length=255, label="User", widget=forms.TextInput({"autocomplete": "off"}))
    password = forms.CharField(widget=forms.PasswordInput({"autocomplete": "new-password"}))
    confirmed = forms.BooleanField(label="The fingerprint is that of this vCenter")


class RepositoryForm(forms.Form):
    name = forms.CharField(max_length=100)
    path = forms.CharField(max_length=500, label="Folder", help_text="An absolute path on the hosts that archive.")


class AssignForm(forms.Form):
    tenant = forms.ModelChoiceField(Tenant.objects.all(), required=False, empty_label="Nobody", label="Assign to")
