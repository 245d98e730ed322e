"""vSphere's faults and the network's, each translated once, in a sentence for the tenant and one for the provider."""

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from xml.parsers.expat import ExpatError

from pyVmomi import vmodl

from backups.errors import CertificateMismatch, PlatformError, PlatformUnreachable
from vsphere.sentences import ASK, SENTENCES, UNKNOWN

TRANSPORT_ERRORS = (OSError, http.client.HTTPException, ExpatError, UnicodeError)


def translated(fault: Exception) -> PlatformError:
    """What a fault means. Errors that are already ours pass through."""
    if isinstance(fault, PlatformError):
        return fault
    said = next((each for each in SENTENCES if isinstance(fault, each.kinds)), UNKNOWN)
    fields = _Fields(fault)
    return said.error(said.tenant.format_map(fields), provider=said.provider.format_map(fields))


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


AWAY = "The virtualization platform cannot be reached at the moment; it is tried again later."


def unreachable(error: Exception, address: str) -> PlatformError:
    """What an error of the network means. `address`: host:port."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _mistrusted(error, address)
    return PlatformUnreachable(AWAY, provider=_of_network(error, address))


def _mistrusted(error: ssl.SSLCertVerificationError, address: str) -> PlatformError:
    tenant = f"The virtualization platform does not prove that it is the one that was enrolled; {ASK}."
    if "too weak" in str(error):
        told = f"{address} shows a certificate whose key or signature is too weak to be trusted; replace it in vCenter."
        return PlatformError(tenant, provider=told)
    return CertificateMismatch(
        tenant,
        provider=f"{address} shows another certificate than the one confirmed for this vCenter. Nothing was sent to "
        "it. If the certificate was renewed, compare its fingerprint and confirm it under vCenters.",
    )


def _of_network(error: Exception, address: str) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{address} does not speak TLS as a vCenter does; check the address and the port."
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"The name in {address} is not known; check the address for typing errors."
    if isinstance(error, ConnectionRefusedError):
        return f"Nobody listens at {address}; check the address and the port, and whether vCenter is running."
    if isinstance(error, TimeoutError):
        return f"{address} did not answer in time; check the address, the network and firewalls."
    return f"The connection to {address} broke ({_said(error)}); it is tried again later."


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
