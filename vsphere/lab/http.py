"""The HTTPS front: /sdk for SOAP, /folder for the datastores' files."""

import contextlib
import json
import logging
import re
import socket
import ssl
import xml.parsers.expat
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pyVmomi import vmodl

from vsphere.lab import control, folder, nfc, tagging, wire
from vsphere.lab.entities import Lab
from vsphere.lab.sessions import Call, Session, Sessions

COOKIE = re.compile(r'vmware_soap_session="?([^";]+)')
BEFORE_LOGIN = {"Login", "RetrieveServiceContent", "CurrentTime", "RetrieveProperties", "RetrievePropertiesEx"}
PROPERTIES_BEFORE_LOGIN = {"content", "currentSession", "serverClock"}
CHUNK_BYTES = 1 << 20
IDLE_CONNECTION_S = 1800
log = logging.getLogger(__name__)


class LabHttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(
        self, address: tuple[str, int], lab: Lab, sessions: Sessions, tags: tagging.Tags, context: ssl.SSLContext
    ) -> None:
        self.lab, self.sessions, self.tags = lab, sessions, tags
        self._open: set[Any] = set()
        super().__init__(address, Handler)
        # The handshake is left to the worker thread: one slow client must not keep the others waiting.
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Hangs up on everybody, as a vCenter that goes down does."""
        super().server_close()
        for request in tuple(self._open):
            with contextlib.suppress(OSError):  # The client was faster.
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up when they like, and probe the certificate without speaking HTTP."""
        log.debug("connection from %s ended", client_address, exc_info=True)


class Handler(BaseHTTPRequestHandler):
    server: LabHttpServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE_CONNECTION_S
    # Without both of these every answer waits for a delayed acknowledgement.
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    @property
    def lab(self) -> Lab:
        return self.server.lab

    def session(self) -> Session | None:
        match = COOKIE.search(self.headers.get("Cookie", ""))
        return self.server.sessions.find(match[1] if match else None)

    def body(self) -> Iterator[bytes]:
        """The request's body piece by piece; some clients send it chunked."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            yield from self._pieces(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield from self._pieces(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            """Trailers mean nothing here."""

    def _pieces(self, left: int) -> Iterator[bytes]:
        while left:
            piece = self.rfile.read(min(left, CHUNK_BYTES))
            if not piece:
                raise ConnectionError("The client hung up in the middle of a body.")
            left -= len(piece)
            yield piece

    def reply(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "text/plain",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.head(status, len(body), content_type, headers)
        self.wfile.write(body)
        self.wfile.flush()

    def head(self, status: int, length: int, content_type: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def do_POST(self) -> None:
        if self.path == control.PATH:
            control.faults(self)
        elif self.path.startswith(nfc.PREFIX):
            nfc.put(self)
        elif self.path.startswith(tagging.PREFIX):
            tagging.serve(self)
        else:
            self._soap()

    def _soap(self) -> None:
        body = b"".join(self.body())
        version = wire.client_version(self.headers.get("SOAPAction", ""))
        call = Call(self.session(), f"https://{self.headers.get('Host')}")
        try:
            status, answer = 200, self._answer(body, version, call)
        except vmodl.MethodFault as fault:
            status, answer = 500, wire.fault(fault, version)
        except Exception as error:
            log.exception("a request failed")
            status, answer = 500, wire.fault(vmodl.fault.SystemError(reason=repr(error), msg=repr(error)), version)
        cookie = {}
        if call.new_session:
            cookie["Set-Cookie"] = f'vmware_soap_session="{call.new_session.key}"; Path=/; HttpOnly; Secure'
        self.reply(status, answer, "text/xml; charset=utf-8", cookie)

    def _answer(self, body: bytes, version: str, call: Call) -> bytes:
        try:
            request = wire.parse_request(body, version)
        except (KeyError, ValueError, TypeError, AttributeError, xml.parsers.expat.ExpatError) as error:
            raise vmodl.fault.InvalidRequest(msg=f"The request cannot be read: {error}") from error
        method = request.method.wsdlName
        if method == "Fetch":
            return wire.answer(request.method, self._fetch(request, call), version)
        if call.session is None and method not in BEFORE_LOGIN:
            raise wire.not_authenticated(request.this)
        managed = self.lab.registry.find(request.this)
        self.lab.faults.before_call(method, getattr(managed, "name", ""))
        serve = getattr(managed, method, None)
        if serve is None:
            raise vmodl.fault.MethodNotFound(
                receiver=request.this, method=method, msg=f"The lab does not know {method}."
            )
        return wire.answer(request.method, serve(call, **request.arguments), version)

    def _fetch(self, request: wire.Request, call: Call) -> Any:
        name = request.arguments["prop"]
        if call.session is None and name not in PROPERTIES_BEFORE_LOGIN:
            raise wire.not_authenticated(request.this)
        if name == "currentSession":
            return call.session.info if call.session else None
        with self.lab.registry.lock:
            try:
                return self.lab.registry.find(request.this).get(name)
            except AttributeError:
                raise vmodl.fault.InvalidRequest(msg=f"There is no property {name}.") from None

    def do_GET(self) -> None:
        if self.path.startswith("/sdk/vimServiceVersions.xml"):
            self.reply(200, wire.versions_xml(), "text/xml")
        elif self.path.startswith("/folder"):
            folder.get(self)
        elif self.path.startswith(tagging.PREFIX):
            tagging.serve(self)
        elif self.path.startswith(nfc.PREFIX):
            nfc.get(self)
        elif self.path == control.PATH:
            control.faults(self)
        elif self.path == "/":
            about = {"name": "Lab vCenter", "sdk": "/sdk"}
            self.reply(200, json.dumps(about).encode(), "application/json")
        else:
            self.reply(404)

    def do_DELETE(self) -> None:
        if self.path.startswith(tagging.PREFIX):
            tagging.serve(self)
        else:
            self.reply(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        if self.path.startswith("/folder"):
            folder.put(self)
        elif self.path.startswith(nfc.PREFIX):
            nfc.put(self)
        elif self.path == control.PATH:
            control.faults(self)
        else:
            self.reply(404)
