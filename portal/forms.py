"""Forms are given the tenant and offer its rows only; what they say is carried out by the services."""

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any
from urllib.parse import quote, unquote

from django import forms
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password

from backups.engine.recovering import Placement
from backups.models import Role, Tenant
from backups.models.recoveries import RecoveryMode

NETWORK, DISCONNECTED, TO = "network-", "disconnected", "to:"
EXPIRIES = (("30", "30 days"), ("90", "90 days"), ("365", "A year"))


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


class PlacementForm(forms.Form):
    """Where one vApp or VM goes as new; empty choices leave it as it was. The networks, which its archives name, are
    asked for when those are known."""

    host = forms.ChoiceField(required=False, label="Host")
    datastore = forms.ChoiceField(required=False, label="Datastore")
    same_identity = forms.BooleanField(
        required=False,
        label="Keep the identity of the original",
        help_text="Only where the original VM has gone. Otherwise a VM gets new addresses and a new id.",
    )

    def __init__(self, *args: Any, homes: tuple[list[str], list[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, offered in zip(("host", "datastore"), homes, strict=True):
            field: Any = self.fields[name]
            field.choices = [("", "As it was"), *((each, each) for each in offered)]

    def offer(self, archived: Sequence[str], networks: Sequence[str]) -> None:
        for name in archived:
            choices = [("", f"{name}, as it was"), (DISCONNECTED, "Disconnected")]
            choices[1:1] = [(f"{TO}{each}", each) for each in networks if each != name]
            self.fields[NETWORK + quote(name, safe="")] = forms.ChoiceField(
                choices=choices, required=False, label=f"Network {name}"
            )

    def network_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self.fields if name.startswith(NETWORK)]

    def placement(self) -> Placement:
        """Networks as they were sent, so that a choice that is no longer offered is refused with its own words."""
        data = self.cleaned_data
        start = self.add_prefix(NETWORK)
        networks = {
            unquote(key.removeprefix(start)): None if value == DISCONNECTED else value.removeprefix(TO)
            for key, value in self.data.items()
            if key.startswith(start) and value
        }
        return Placement(
            host=data["host"],
            datastore=data["datastore"],
            networks=networks,
            same_identity=data["same_identity"],
        )


class LockForm(forms.Form):
    """Its day counts to its end, in UTC."""

    until = forms.DateField(label="Locked until", widget=forms.DateInput({"type": "date"}, format="%Y-%m-%d"))

    def end(self) -> datetime:
        return datetime.combine(self.cleaned_data["until"] + timedelta(days=1), time.min, tzinfo=UTC)


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
    path = forms.CharField(
        max_length=500,
        label="Folder or address",
        help_text="An absolute path on all hosts, or s3://bucket/prefix?endpoint=https://host&region=name. The keys of "
        "a bucket are not written here: portal and workers find them in their environment, as AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY.",
    )


class AssignForm(forms.Form):
    tenant = forms.ModelChoiceField(Tenant.objects.all(), required=False, empty_label="Nobody", label="Assign to")
