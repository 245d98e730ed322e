from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.module_loading import import_string

from backups.errors import HotfirstError, InvalidRequest, PermissionMissing
from backups.models import VCenter
from backups.platform import Connection, MissingPrivilege, Platform
from backups.services import audit, inventory
from backups.services.audit import Actor
from backups.vault import seal, unseal

LIMITS = (
    "snapshots_per_datastore",
    "snapshots_per_host",
    "readers_per_datastore",
    "readers_per_host",
    "latency_stop_ms",
    "latency_slow_ms",
    "reserve_percent",
)


def look_up_certificate(host: str, port: int) -> tuple[str, str]:
    """The server's certificate (PEM) and its SHA-256 fingerprint, for the operator to confirm."""
    with in_the_providers_words():
        pem: str = import_string(settings.HOTFIRST_FETCH_CERTIFICATE)(host, port)
    return pem, import_string(settings.HOTFIRST_FINGERPRINT)(pem)


def enrol_vcenter(actor: Actor, *, password: str, **fields: Any) -> VCenter:
    """`fields`: name, host, port, username, certificate_pem. Logs in and reads the inventory before anything is
    kept, so that a wrong address, certificate or password changes nothing. Under the name that it has already, the
    same vCenter is enrolled again: that is how its address, certificate or password is changed. An account that may
    not do what backups need is refused; what only recoveries need is said beside the vCenter."""
    known = VCenter.objects.filter(name=fields["name"]).first()
    vcenter = VCenter(**fields)
    if known:
        vcenter.pk, vcenter.synced_at = known.pk, known.synced_at
    vcenter.sealed_password = seal(password.encode(), vcenter.pk, "vcenter password")
    with in_the_providers_words(), connect(vcenter) as platform:
        _refuse_unable(platform)
        lacking, seen = what_is_lacking(platform), platform.inventory()
    _refuse_another(known, fields["name"], seen.instance_uuid)
    with transaction.atomic():
        vcenter.instance_uuid = seen.instance_uuid
        vcenter.save(force_insert=known is None, force_update=known is not None)
        action = "vcenter.enrol_again" if known else "vcenter.enrol"
        audit.record(actor, None, action, vcenter.name, host=vcenter.host, port=vcenter.port)
        inventory.store(vcenter, seen, lacking)
    return vcenter


def change_limits(actor: Actor, vcenter: VCenter, **limits: int) -> None:
    """Runs that go on keep to the new limits from their next step on. Raises InvalidRequest."""
    unknown = set(limits) - set(LIMITS)
    if unknown:
        raise InvalidRequest(f"A vCenter has no limit {', '.join(sorted(unknown))}.")
    for name, value in limits.items():
        setattr(vcenter, name, value)
    _check_limits(vcenter)
    with transaction.atomic():
        vcenter.save(update_fields=list(limits))
        audit.record(actor, None, "vcenter.limits", vcenter.name, **limits)


def _check_limits(vcenter: VCenter) -> None:
    try:
        vcenter.clean_fields(exclude={field.name for field in VCenter._meta.fields} - set(LIMITS))
    except ValidationError as error:
        name, told = next(iter(error.message_dict.items()))
        field: Any = VCenter._meta.get_field(name)
        raise InvalidRequest(f"{field.verbose_name}: {told[0]}".capitalize()) from error
    slow_ms, stop_ms = vcenter.latency_slow_ms, vcenter.latency_stop_ms
    if stop_ms and slow_ms > stop_ms:
        raise InvalidRequest("Slow down what runs at a lower latency than the one at which nothing new starts.")


def what_is_lacking(platform: Platform) -> str:
    """Sentences for the provider about what the account is not allowed; empty if it is allowed all that is needed."""
    missing = platform.missing_privileges()
    told = []
    for purpose, effect in EFFECTS.items():
        lacking = [each for each in missing if each.purpose == purpose]
        if lacking:
            told.append(f"{effect} will fail until the vCenter account has {_listed(lacking)}.")
    return " ".join(told)


EFFECTS = {"back up": "Backups", "recover": "Recoveries"}


def _refuse_unable(platform: Platform) -> None:
    lacking = [each for each in platform.missing_privileges() if each.purpose == "back up"]
    if lacking:
        raise PermissionMissing(
            f"The vCenter account lacks privileges that backups need: {_listed(lacking)}. Add them to its role in "
            "vCenter and try again."
        )


def _listed(missing: Sequence[MissingPrivilege]) -> str:
    by_place: dict[tuple[str, ...], list[str]] = {}
    for each in missing:
        by_place.setdefault(each.places, []).append(each.privilege)
    return "; ".join(f"{', '.join(names)} on {', '.join(places)}" for places, names in by_place.items())


def _refuse_another(known: VCenter | None, name: str, instance_uuid: str) -> None:
    """A name stays with its vCenter, and a vCenter with its name."""
    if known and known.instance_uuid != instance_uuid:
        raise InvalidRequest(f"There is another vCenter named {name} already; choose another name.")
    twin = VCenter.objects.filter(instance_uuid=instance_uuid).exclude(name=name).first()
    if twin:
        raise InvalidRequest(
            f"This vCenter is enrolled already, under the name {twin.name}; to change its address, certificate or "
            "password, enrol it again under that name."
        )


@contextmanager
def in_the_providers_words() -> Iterator[None]:
    """For what only provider staff does: errors are told with addresses, privileges and vCenter's own words."""
    try:
        yield
    except HotfirstError as error:
        raise error.for_provider() from error


@contextmanager
def connect(vcenter: VCenter) -> Iterator[Platform]:
    """A platform session; logged out at the end. Raises PlatformError with a sentence for the user."""
    connection = Connection(
        host=vcenter.host,
        port=vcenter.port,
        username=vcenter.username,
        password=unseal(vcenter.sealed_password, vcenter.pk, "vcenter password").decode(),
        certificate_pem=vcenter.certificate_pem,
    )
    platform: Platform = import_string(settings.HOTFIRST_PLATFORM)(connection)
    try:
        yield platform
    finally:
        platform.close()
