"""vSphere's faults and the network's, each said once in a sentence for the tenant."""

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from xml.parsers.expat import ExpatError

from pyVmomi import vim, vmodl

from backups.errors import (
    CertificateMismatch,
    DiskUnreadable,
    LoginFailed,
    NotFound,
    PermissionMissing,
    PlatformError,
    PlatformUnreachable,
    RecoveryRefused,
    SnapshotFailed,
)

TRANSPORT_ERRORS = (OSError, http.client.HTTPException, ExpatError, UnicodeError)

_SENTENCES: tuple[tuple[type[Exception], type[PlatformError], str], ...] = (
    (
        vim.fault.InvalidLogin,
        LoginFailed,
        "vCenter did not accept the user name or the password; correct them under vCenters.",
    ),
    (
        vim.fault.NotAuthenticated,
        LoginFailed,
        "vCenter keeps ending the session; look whether the account may log in and has sessions left.",
    ),
    (
        vim.fault.NoPermission,
        PermissionMissing,
        "The vCenter account lacks the privilege {privilegeId}; add it to the account's role in vCenter.",
    ),
    (
        vmodl.fault.ManagedObjectNotFound,
        NotFound,
        "This object is no longer in vCenter; refresh the inventory.",
    ),
    (
        vim.fault.DuplicateName,
        RecoveryRefused,
        "vCenter has something named {name} at this place already; choose another name.",
    ),
    (
        vim.fault.InvalidPowerState,
        RecoveryRefused,
        "The VM is {existingState}, which does not allow this; change its power state and try again.",
    ),
    (
        vim.fault.InsufficientResourcesFault,
        RecoveryRefused,
        "The host or resource pool has too few resources ({detail}); choose another place or free some.",
    ),
    (
        vim.fault.NoDiskSpace,
        SnapshotFailed,
        "The datastore {datastore} is full; free some space on it.",
    ),
    (
        vim.fault.SnapshotFault,
        SnapshotFailed,
        "vCenter could not take the snapshot: {detail} Look at the VM's events in vCenter.",
    ),
    (
        vim.fault.TaskInProgress,
        SnapshotFailed,
        "Another task is running on this VM in vCenter; it is tried again later.",
    ),
    (
        vmodl.fault.HostNotConnected,
        PlatformUnreachable,
        "The VM's host is not connected to vCenter; look at the host's state in vCenter.",
    ),
    (
        vmodl.fault.HostCommunication,
        PlatformUnreachable,
        "vCenter cannot reach the VM's host; look at the host's state in vCenter.",
    ),
    (
        vim.fault.FileNotFound,
        NotFound,
        "The file {file} is no longer on its datastore.",
    ),
    (
        vim.fault.FileFault,
        DiskUnreadable,
        "vCenter could not open the file {file}: {detail}",
    ),
    (
        vmodl.fault.NotSupported,
        PlatformError,
        "This vCenter or VM does not support what was asked: {detail}",
    ),
)


def translated(fault: Exception) -> PlatformError:
    """What a fault means. Errors that are already ours pass through."""
    if isinstance(fault, PlatformError):
        return fault
    for kind, error, sentence in _SENTENCES:
        if isinstance(fault, kind):
            return error(sentence.format_map(_Fields(fault)))
    return PlatformError(f"vCenter refused: {detail(fault)} Look at its tasks and events for more.")


def detail(fault: Exception) -> str:
    """vCenter's own words, as a sentence; the fault's name where it has none."""
    told = str(getattr(fault, "msg", None) or getattr(fault, "reason", None) or "").strip()
    told = told or f"({type(fault).__name__.split('.')[-1]})"
    return told if told[-1] in ".!?" else f"{told}."


class _Fields(dict[str, str]):
    def __init__(self, fault: Exception) -> None:
        super().__init__(detail=detail(fault))
        self._fault = fault

    def __missing__(self, name: str) -> str:
        return str(getattr(self._fault, name, None) or "(unknown)")


@contextmanager
def translating() -> Iterator[None]:
    """The border: inside, vSphere's faults; outside, only ours. Serves as a decorator too."""
    try:
        yield
    except vmodl.MethodFault as fault:
        raise translated(fault) from fault


def unreachable(error: Exception, address: str) -> PlatformError:
    """What an error of the network means. `address`: host:port."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateMismatch(
            f"{address} shows another certificate than the one confirmed for this vCenter. Nothing was sent to it. "
            "If the certificate was renewed, compare its fingerprint and confirm it under vCenters."
        )
    if isinstance(error, ssl.SSLError):
        return PlatformUnreachable(f"{address} does not speak TLS as a vCenter does; check the address and the port.")
    if isinstance(error, socket.gaierror | UnicodeError):
        return PlatformUnreachable(f"The name in {address} is not known; check the address for typing errors.")
    if isinstance(error, ConnectionRefusedError):
        return PlatformUnreachable(
            f"Nobody listens at {address}; check the address and the port, and whether vCenter is running."
        )
    if isinstance(error, TimeoutError):
        return PlatformUnreachable(f"{address} did not answer in time; check the address, the network and firewalls.")
    return PlatformUnreachable(f"The connection to {address} broke ({_said(error)}); it is tried again later.")


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
