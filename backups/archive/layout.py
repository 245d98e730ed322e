"""Where objects lie in a repository: FORMAT.md, section 2."""

import re
from typing import NamedTuple

from backups.errors import InvalidRequest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class PackRef(NamedTuple):
    """`session` in hexadecimal: the writer session that made it, which is how gc knows that it is still at work."""

    session: str
    number: int


def tenant(tenant_id: str) -> str:
    return f"tenants/{_checked(tenant_id)}"


def packs(tenant_id: str) -> str:
    return f"{tenant(tenant_id)}/packs/"


def pack(tenant_id: str, ref: PackRef) -> str:
    return f"{packs(tenant_id)}{ref.session[:2]}/{ref.session}-{ref.number:08x}"


def pack_ref(name: str) -> PackRef:
    session, _, number = name.rpartition("/")[2].partition("-")
    return PackRef(session, int(number, 16))


def indexes(tenant_id: str) -> str:
    return f"{tenant(tenant_id)}/index/"


def archives(tenant_id: str) -> str:
    return f"{tenant(tenant_id)}/archives/"


def archive(tenant_id: str, archive_id: str) -> str:
    return f"{archives(tenant_id)}{_checked(archive_id)}"


def deleted(tenant_id: str) -> str:
    return f"{tenant(tenant_id)}/deleted/"


def deleted_archive(tenant_id: str, archive_id: str) -> str:
    return f"{deleted(tenant_id)}{_checked(archive_id)}"


def sessions(tenant_id: str) -> str:
    return f"{tenant(tenant_id)}/sessions/"


def condemned(tenant_id: str) -> str:
    return f"{tenant(tenant_id)}/condemned/"


def damaged(tenant_id: str) -> str:
    return f"{tenant(tenant_id)}/damaged/"


def clock(tenant_id: str) -> str:
    return f"{tenant(tenant_id)}/clock/"


def key_objects(tenant_id: str) -> str:
    return f"{tenant(tenant_id)}/keys/"


def locks(tenant_id: str) -> str:
    return f"{tenant(tenant_id)}/locks/"


def archive_locks(tenant_id: str, archive_id: str) -> str:
    return f"{locks(tenant_id)}{_checked(archive_id)}/"


def _checked(name: str) -> str:
    """Ids become parts of paths."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(f"“{name}” cannot be used as an id; use letters, digits, “-” and “_”.")
    return name
