"""One login at a vCenter, shared by several threads.

Each login has a stub of its own, so a lost session never mixes cookies with the next. Calls are closures over the
stub and are given the current one: `session.call(lambda stub: vim.VirtualMachine(ref, stub).Destroy_Task())`. Views,
filters and collectors die with their session and must be made inside one closure.
"""

import http.client
import logging
import re
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from xml.etree import ElementTree

from pyVmomi import vim, vmodl
from pyVmomi.SoapAdapter import SoapStubAdapter
from pyVmomi.VmomiSupport import GetServiceVersions, versionIdMap

from backups.errors import PlatformError, PlatformUnreachable
from backups.platform import Connection
from vsphere.certificates import pinned_context
from vsphere.faults import AWAY, TRANSPORT_ERRORS, translated, unreachable
from vsphere.sentences import ASK

T = TypeVar("T")
TIMEOUT_S = 60
TRIES = 4
LOGINS = 10
"""Lost sessions in one call before it gives up. Other programs and operators may end ours several times."""
KEEP_ALIVE_S = 300
"""vCenter ends a session after 30 idle minutes; disk data over another connection does not count as use."""
POOL_SIZE = 8

HARMLESS = re.compile(
    r"(Fetch|(Continue)?Retrieve|Query|Find|Has|WaitForUpdates|CheckForUpdates|CancelWait|Refresh|CurrentTime|Log(in|out)"
    r"|Create(Filter|PropertyCollector|ContainerView|ListView)|Destroy(PropertyCollector|PropertyFilter|View)"
    r"|CreateImportSpec|CreateDescriptor|HttpNfcLease(Progress|Abort|GetManifest)).*"
)
"""Methods by their names in the WSDL that may be sent twice. Every other one changes something."""

log = logging.getLogger(__name__)


class _Stub(SoapStubAdapter):
    """Remembers for each thread whether it has sent something that may have changed vCenter."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._thread = threading.local()

    def begin(self) -> None:
        self._thread.has_changed = False

    @property
    def has_changed(self) -> bool:
        return bool(self._thread.has_changed)

    def InvokeMethod(self, mo: Any, info: Any, args: Any, outerStub: Any = None) -> Any:  # noqa: N802, N803 - pyVmomi's
        self._thread.has_changed = getattr(self._thread, "has_changed", False) or not HARMLESS.match(info.wsdlName)
        return super().InvokeMethod(mo, info, args, outerStub)


class Session:
    def __init__(self, connection: Connection, *, timeout_s: float = TIMEOUT_S) -> None:
        """Logs in. Raises PlatformUnreachable, CertificateMismatch, LoginFailed."""
        self.address = f"{connection.host}:{connection.port}"
        self.host, self.port, self.timeout_s = connection.host, connection.port, timeout_s
        self._connection = connection
        self.tls = _tls(connection)
        self._lock = threading.Lock()
        self._epoch = self._failures = 0
        self._failure: Exception | None = None
        self._stub: Any = None
        self.content: Any = None
        try:
            self._version = self._negotiate()
            self._login(0)
        except vmodl.MethodFault as fault:
            raise translated(fault) from fault
        except TRANSPORT_ERRORS as error:
            raise unreachable(error, self.address) from error
        self._closed = threading.Event()
        threading.Thread(target=self._keep_alive, name=f"keep-alive {self.address}", daemon=True).start()

    def _negotiate(self) -> str:
        """The newest version that both sides know. pyVmomi's SmartConnect asks the same without a time-out."""
        connection = http.client.HTTPSConnection(self.host, self.port, context=self.tls, timeout=self.timeout_s)
        try:
            connection.request("GET", "/sdk/vimServiceVersions.xml")
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        offered = _versions(body) if response.status == 200 else set()
        common = [v for v in GetServiceVersions("vim25") if versionIdMap[v] in offered]
        if not common:
            raise PlatformUnreachable(
                AWAY, provider=f"{self.address} does not answer as a vCenter does; check the address and the port."
            )
        return str(common[0])

    def _login(self, seen_epoch: int) -> None:
        """One thread logs in and the others wait for it, and share its success or its failure: each of them trying in
        turn would take as many time-outs as there are threads."""
        seen_failures = self._failures
        with self._lock:
            if seen_epoch != self._epoch:
                return
            if seen_failures != self._failures and self._failure is not None:
                raise self._failure
            try:
                stub, content = self._logged_in()
            except Exception as error:
                self._failure = error
                self._failures += 1
                raise
            if self._stub is not None:
                self._stub.DropConnections()
            self._stub, self.content = stub, content
            self._epoch += 1

    def _logged_in(self) -> tuple[_Stub, Any]:
        stub = _Stub(
            host=self.host,
            port=self.port,
            version=self._version,
            sslContext=self.tls,
            poolSize=POOL_SIZE,
            httpConnectionTimeout=self.timeout_s,
        )
        content: Any = vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()
        content.sessionManager.Login(self._connection.username, self._connection.password, None)
        return stub, content

    def call(self, request: Callable[[Any], T], *, repeatable: bool = True, tries: int = TRIES) -> T:
        """`request` is given the stub. It runs again after a lost session, always: vCenter refused it unread. After
        an error of the network it runs again only if it has sent nothing that changes vCenter, for that may have
        arrived, and is `repeatable`. Raises vSphere's faults and PlatformUnreachable."""
        logins = attempts = 0
        while True:
            seen_epoch, stub = self._epoch, self._stub
            stub.begin()
            try:
                return request(stub)
            except vim.fault.NotAuthenticated:
                logins += 1
                if logins == LOGINS:
                    raise
                self.renew(seen_epoch)
            except TRANSPORT_ERRORS as error:
                attempts += 1
                hopeless = isinstance(error, ssl.SSLCertVerificationError)
                if hopeless or stub.has_changed or not repeatable or attempts == tries:
                    raise unreachable(error, self.address) from error
                time.sleep(0.2 * 4 ** (attempts - 1))

    def renew(self, seen_epoch: int) -> None:
        """Logs in again unless another thread already has since `seen_epoch`."""
        try:
            self._login(seen_epoch)
        except TRANSPORT_ERRORS as error:
            raise unreachable(error, self.address) from error

    @property
    def credentials(self) -> tuple[str, str]:
        """User name and password, for vCenter's interfaces that know nothing of this login."""
        return self._connection.username, self._connection.password

    def cookie(self) -> tuple[int, str]:
        """The epoch and the cookie header that file transfers send."""
        with self._lock:
            return self._epoch, str(self._stub.cookie).partition(";")[0]

    def _keep_alive(self) -> None:
        while not self._closed.wait(KEEP_ALIVE_S):
            try:
                self.call(lambda stub: vim.ServiceInstance("ServiceInstance", stub).CurrentTime())
            except (PlatformError, vmodl.MethodFault) as error:
                log.warning("keep-alive at %s: %s", self.address, error)

    def close(self) -> None:
        self._closed.set()
        try:
            vim.SessionManager(self.content.sessionManager._moId, self._stub).Logout()
        except (vmodl.MethodFault, *TRANSPORT_ERRORS) as error:
            log.info("logout at %s: %s", self.address, error)
        self._stub.DropConnections()


def _tls(connection: Connection) -> ssl.SSLContext:
    try:
        return pinned_context(connection.certificate_pem)
    except (ssl.SSLError, ValueError) as error:
        raise PlatformError(
            f"The virtualization platform cannot be trusted as it was enrolled; {ASK}.",
            provider="The certificate kept for this vCenter cannot be read; fetch and confirm it again under vCenters.",
        ) from error


def _versions(body: bytes) -> set[str]:
    try:
        tree = ElementTree.fromstring(body)  # noqa: S314 - from the pinned server
    except ElementTree.ParseError:
        return set()
    return {str(element.text) for element in tree.iter("version")}
