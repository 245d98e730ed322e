from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils.module_loading import import_string

from backups.errors import HotfirstError, InvalidRequest
from backups.models import VCenter
from backups.platform import Connection, Platform
from backups.services import audit, inventory
from backups.services.audit import Actor
from backups.vault import seal, unseal


def look_up_certificate(host: str, port: int) -> tuple[str, str]:
    """The server's certificate (PEM) and its SHA-256 fingerprint, for the operator to confirm."""
    with in_the_providers_words():
        pem: str = import_string(settings.HOTFIRST_FETCH_CERTIFICATE)(host, port)
    return pem, import_string(settings.HOTFIRST_FINGERPRINT)(pem)


def enrol_vcenter(actor: Actor, *, password: str, **fields: Any) -> VCenter:
    """`fields`: name, host, port, username, certificate_pem. Logs in and reads the inventory before anything is
    kept, so that a wrong address, certificate or password changes nothing. Under the name that it has already, the
    same vCenter is enrolled again: that is how its address, certificate or password is changed."""
    known = VCenter.objects.filter(name=fields["name"]).first()
    vcenter = VCenter(**fields)
    if known:
        vcenter.pk, vcenter.synced_at = known.pk, known.synced_at
    vcenter.sealed_password = seal(password.encode(), vcenter.pk, "vcenter password")
    with in_the_providers_words(), connect(vcenter) as platform:
        seen = platform.inventory()
    _refuse_another(known, fields["name"], seen.instance_uuid)
    with transaction.atomic():
        vcenter.instance_uuid = seen.instance_uuid
        vcenter.save(force_insert=known is None, force_update=known is not None)
        action = "vcenter.enrol_again" if known else "vcenter.enrol"
        audit.record(actor, None, action, vcenter.name, host=vcenter.host, port=vcenter.port)
        inventory.store(vcenter, seen)
    return vcenter


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
