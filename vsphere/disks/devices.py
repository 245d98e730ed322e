"""The addresses that a lease gives for its disks: which one is whose, and whom one talks to there."""

import hashlib
import http.client
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pyVmomi import vim

from backups.errors import CertificateMismatch, DiskUnreadable
from vsphere.certificates import pinned_context
from vsphere.session import Session

PLACE = re.compile(r"/([A-Za-z]+?)(\d+):(\d+)$")
"""`/vm-7/ParaVirtualSCSIController0:1`: kind and bus of the controller, and unit."""


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    path: str
    tls: ssl.SSLContext
    sha1: str = ""
    """Where the certificate itself is not known, what its hash must be."""
    cookie: str = ""


def url_of(urls: Sequence[Any], hardware: Sequence[Any], disk_key: int) -> Any:
    """Of the disk with this key. By its place; where the names of places are not as expected, by their order. Raises
    DiskUnreadable."""
    disks = [each for each in hardware if isinstance(each, vim.vm.device.VirtualDisk)]
    wanted = next(each for each in disks if each.key == disk_key)
    of_disks = [url for url in urls if url.disk is not False]
    for url in of_disks:
        if _place(url.key) == _place_of(wanted, hardware):
            return url
    if len(of_disks) == len(disks) and not any(_place(url.key) for url in of_disks):
        return of_disks[disks.index(wanted)]
    raise DiskUnreadable("vCenter offers no address for this disk; it is tried again later.")


def _place(key: str) -> tuple[str, int, int] | None:
    match = PLACE.search(key)
    return (match[1], int(match[2]), int(match[3])) if match else None


def _place_of(disk: Any, hardware: Sequence[Any]) -> tuple[str, int, int]:
    controller = next((each for each in hardware if each.key == disk.controllerKey), None)
    kind = type(controller).__name__.rpartition(".")[2]
    return kind, getattr(controller, "busNumber", 0), disk.unitNumber or 0


def address(session: Session, url: Any) -> Address:
    """vCenter's own certificate is the pinned one; of a host it names, vCenter says which. Raises DiskUnreadable."""
    parts = urlsplit(url.url)
    port = parts.port or 443
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    if parts.hostname in ("*", session.host):
        return Address(session.host, port, path, session.tls, cookie=session.cookie()[1])
    if certificate := getattr(url, "sslCertificate", None):
        return Address(parts.hostname or "", port, path, pinned_context(certificate))
    if not url.sslThumbprint:
        raise DiskUnreadable("vCenter does not say which certificate the VM's host has, so its disk is not read.")
    return Address(parts.hostname or "", port, path, _unverified(), sha1=url.sslThumbprint)


def _unverified() -> ssl.SSLContext:
    """Whoever uses it compares the certificate before anything is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connected(there: Address, timeout_s: float) -> http.client.HTTPSConnection:
    """Raises the network's errors and CertificateMismatch."""
    connection = http.client.HTTPSConnection(there.host, there.port, context=there.tls, timeout=timeout_s)
    try:
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        raise _mismatch(there) from error
    if there.sha1 and _sha1(connection) != there.sha1.replace(":", "").lower():
        connection.close()
        raise _mismatch(there)
    return connection


def _mismatch(there: Address) -> CertificateMismatch:
    return CertificateMismatch(
        "The VM's host shows another certificate than the one vCenter has of it. Nothing was sent to it.",
        provider=f"{there.host} shows another certificate than the one vCenter has of it. Nothing was sent to it; "
        "look whether the host's certificate was renewed, and reconnect the host in vCenter.",
    )


def _sha1(connection: http.client.HTTPSConnection) -> str:
    """SHA-1 is what vCenter tells of a host's certificate."""
    shown: Any = connection.sock
    return hashlib.sha1(shown.getpeercert(binary_form=True), usedforsecurity=False).hexdigest()
