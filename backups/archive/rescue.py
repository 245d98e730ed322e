"""Finds tenants, archives and keys of a repository without the rest of the product, for `python -m backups.archive`."""

import getpass
import sys
from pathlib import Path

from backups.archive import key_objects, layout, recovery_sheet
from backups.archive.key_objects import MasterRing
from backups.archive.keys import TenantKeys
from backups.archive.store import ObjectStore
from backups.errors import ArchiveMissing, InvalidRequest, KeyUnavailable


def find_keys(store: ObjectStore, tenant: str | None, key_file: str | None, master_file: str | None) -> TenantKeys:
    """From a recovery sheet or a key file, by the master keys, or by the passphrase, which is asked for. Raises
    KeyUnavailable."""
    keys = _keys_of_file(key_file, master_file) if key_file else None
    if keys is None:
        tenant_id = find_tenant(store, tenant)
        if master_file:
            return key_objects.find_by_master(store, tenant_id, MasterRing.parse(_read(master_file)))
        return key_objects.find_by_passphrase(store, tenant_id, ask_passphrase(tenant_id))
    if tenant and keys.tenant_id != tenant:
        raise KeyUnavailable(f"This key is of tenant {keys.tenant_id}; leave --tenant out, or give the other key.")
    return keys


def _keys_of_file(key_file: str, master_file: str | None) -> TenantKeys:
    text = _read(key_file)
    if not text.lstrip().startswith("{"):
        return recovery_sheet.parse(text)
    if master_file:
        return key_objects.open_by_master(text.encode(), MasterRing.parse(_read(master_file)), key_file)
    return key_objects.open_by_passphrase(text.encode(), ask_passphrase(key_file), key_file)


def find_tenant(store: ObjectStore, wanted: str | None) -> str:
    """The only one of the repository, if none is named."""
    if wanted:
        layout.tenant(wanted)
        return wanted
    tenants = sorted({stored.name.split("/")[1] for stored in store.list("tenants/")})
    if not tenants:
        raise ArchiveMissing("This repository is empty.")
    if len(tenants) > 1:
        raise InvalidRequest(f"This repository holds several tenants; choose one with --tenant: {', '.join(tenants)}.")
    return tenants[0]


def find_archive(store: ObjectStore, tenant_id: str, wanted: str) -> str:
    """By the first letters of its id."""
    names = [stored.name.rpartition("/")[2] for stored in store.list(layout.archives(tenant_id))]
    found = [name for name in names if name.startswith(wanted)]
    if wanted in names:
        return wanted
    if not found:
        raise ArchiveMissing(f"There is no archive {wanted} of tenant {tenant_id} here; “list” shows those there are.")
    if len(found) > 1:
        raise InvalidRequest(f"Several archives begin with {wanted}; give more of the id: {', '.join(found[:5])}.")
    return found[0]


def ask_passphrase(what: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return getpass.getpass(f"Passphrase of {what}: ")


def _read(path: str) -> str:
    """“-” is standard input."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyUnavailable(f"The key file {path} cannot be read; check its name and that it is yours.") from error
