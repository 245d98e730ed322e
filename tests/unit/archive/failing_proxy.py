"""Stands before an S3 server and fails a share of the calls, in the ways in which networks and services fail."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import urlsplit

FAILURES = ("refused", "answer lost", "cut before", "cut after", "cut in the middle")
"""Before or after the server has done what it was asked to; with an answer, without one, or with half of one."""


class FailingProxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, endpoint: str, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(endpoint).netloc
        self.share = 0.2
        self.seen: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fate(self) -> str:
        with self._lock:
            fate = self._random.choice(FAILURES) if self._random.random() < self.share else "served"
            self.seen[fate] += 1
        return fate


@contextmanager
def before(endpoint: str, seed: int) -> Iterator[FailingProxy]:
    with FailingProxy(endpoint, seed) as proxy:
        Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FailingProxy

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):
            super().handle_one_request()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fate = self.server.fate()
        if fate == "refused":
            self._answer_503()
        elif fate == "cut before":
            self.close_connection = True
        else:
            self._forward(fate, body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815

    def _forward(self, fate: str, body: bytes) -> None:
        upstream = HTTPConnection(self.server.upstream)
        # The host is part of what is signed.
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if fate == "answer lost":
            self._answer_503()
        elif fate == "cut after":
            self.close_connection = True
        else:
            self._answer(answer, content, len(content) // 2 if fate == "cut in the middle" else len(content))

    def _answer(self, answer: HTTPResponse, content: bytes, sent_bytes: int) -> None:
        self.send_response(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        self.wfile.write(content[:sent_bytes])
        self.close_connection = sent_bytes < len(content)

    def _answer_503(self) -> None:
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        return
