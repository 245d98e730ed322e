"""Trust in a vCenter: the operator confirms one certificate by its fingerprint, and only that one is accepted.

pyVmomi's own `thumbprint` does not pin once it reuses connections, so OpenSSL does it, for SOAP and files alike.
"""

import hashlib
import ssl

from vsphere.faults import TRANSPORT_ERRORS, unreachable

NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python's ssl does not name."""


def fetch_certificate(host: str, port: int = 443, timeout_s: float = 10) -> str:
    """The certificate that the server shows, as PEM. It is not trusted before its fingerprint is confirmed."""
    try:
        return ssl.get_server_certificate((host, port), timeout=timeout_s)
    except TRANSPORT_ERRORS as error:
        raise unreachable(error, f"{host}:{port}") from error


def fingerprint(pem: str) -> str:
    """SHA-256, as vCenter shows it: `AA:BB:…`."""
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest().upper()
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


def pinned_context(pem: str) -> ssl.SSLContext:
    """Accepts exactly this certificate, whatever name it is issued to, whoever signed it and however old it is: they
    expire unnoticed, and the operator has confirmed this one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=pem)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
    return context
