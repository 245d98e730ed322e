"""Where objects lie in a repository: FORMAT.md, section 2."""

import re
from typing import NamedTuple

from backups.errors import InvalidRequest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
SESSION = re.compile(r"[0-9a-f]{32}")
PACK_NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{8}")


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


def is_pack(name: str) -> bool:
    """A folder may hold files that are not ours."""
    return PACK_NAME.fullmatch(name.rpartition("/")[2]) is not None


def is_index(tenant_id: str, name: str) -> bool:
    return name.startswith(indexes(tenant_id)) and NAME.fullmatch(name[len(indexes(tenant_id)) :]) is not None


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
