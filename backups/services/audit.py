import hashlib
import json
from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.utils import timezone

from backups.locks import exclusive
from backups.models import AuditEntry, Tenant

START = "0" * 64
Actor = User | AnonymousUser | None
"""Who acts; None is Hotfirst itself. Views are never open to an anonymous user, whatever the type says."""


def record(actor: Actor, tenant: Tenant | None, action: str, subject: str, **detail: Any) -> AuditEntry:
    """Call it in the transaction of the deed. `detail` is JSON and never holds a secret."""
    with exclusive("audit"):
        last = AuditEntry.objects.order_by("-number").first()
        entry = AuditEntry(
            number=last.number + 1 if last else 1,
            tenant=tenant,
            actor=actor if isinstance(actor, User) else None,
            actor_name=actor.get_username() if actor else "Hotfirst",
            by_provider=bool(actor and actor.is_staff),
            action=action,
            subject=subject,
            detail=detail,
            at=timezone.now(),
            previous_hash=last.hash if last else START,
        )
        entry.hash = hash_of(entry)
        entry.save(force_insert=True)
    return entry


def hash_of(entry: AuditEntry) -> str:
    """SHA-256 over the entry before and everything in this one but its own hash."""
    body = {
        "number": entry.number,
        "tenant": str(entry.tenant_id or ""),
        "actor": entry.actor_name,
        "by_provider": entry.by_provider,
        "action": entry.action,
        "subject": entry.subject,
        "detail": entry.detail,
        "at": entry.at.isoformat(),
        "previous": entry.previous_hash,
    }
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def broken_link() -> AuditEntry | None:
    """The first entry that was changed, or that follows one that was removed; None if the chain holds."""
    previous_hash, number = START, 1
    for entry in AuditEntry.objects.order_by("number").iterator():
        intact = entry.number == number and entry.previous_hash == previous_hash and entry.hash == hash_of(entry)
        if not intact:
            return entry
        previous_hash, number = entry.hash, number + 1
    return None
