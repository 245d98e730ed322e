"""Whom one talks to when a lease names an address: vCenter, or a host whose certificate vCenter vouches for."""

import hashlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyVmomi import vim

from backups.errors import CertificateMismatch, DiskUnreadable
from vsphere.certificates import pinned_context
from vsphere.disks.devices import address, connected, url_of
from vsphere.lab import certificate

device: Any = vim.vm.device


def disk(key: int, controller: int, unit: int) -> Any:
    return device.VirtualDisk(key=key, controllerKey=controller, unitNumber=unit)


HARDWARE = [
    device.ParaVirtualSCSIController(key=1000, busNumber=0),
    device.VirtualNVMEController(key=31000, busNumber=0),
    disk(2000, 1000, 0),
    disk(2001, 1000, 1),
    disk(32000, 31000, 0),
]


def url(key: str, **fields: Any) -> Any:
    return vim.HttpNfcLease.DeviceUrl(key=key, **fields)


def test_a_disk_is_found_by_its_place_whatever_the_order() -> None:
    urls = [
        url("/vm-7/VirtualNVMEController0:0"),
        url("/vm-7/nvram", disk=False),
        url("/vm-7/ParaVirtualSCSIController0:1"),
        url("/vm-7/ParaVirtualSCSIController0:0"),
    ]
    assert [urls.index(url_of(urls, HARDWARE, key)) for key in (2000, 2001, 32000)] == [3, 2, 0]


def test_places_of_unknown_names_are_taken_in_order_if_there_are_as_many_as_disks() -> None:
    urls = [url(f"/vm-7/disk-{n}") for n in "abc"]
    assert [urls.index(url_of(urls, HARDWARE, key)) for key in (2000, 2001, 32000)] == [0, 1, 2]
    for too_few in (urls[:2], [*urls[:2], url("/vm-7/VirtualNVMEController0:1")]):
        with pytest.raises(DiskUnreadable, match="no address"):
            url_of(too_few, HARDWARE, 2001)


class Server:
    def __init__(self, folder: Path) -> None:
        self.pem = certificate.ensure(folder, "127.0.0.1")
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: Any) -> None: ...

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.http.socket = certificate.server_context(self.pem).wrap_socket(self.http.socket, server_side=True)
        self.port = self.http.server_address[1]
        self.certificate = certificate.certificate_only(self.pem)

    @property
    def sha1(self) -> str:
        digest = hashlib.sha1(ssl.PEM_cert_to_DER_cert(self.certificate), usedforsecurity=False).hexdigest().upper()
        return ":".join(digest[i : i + 2] for i in range(0, 40, 2))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    threading.Thread(target=server.http.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def session(host: Server) -> Any:
    """As of a vCenter under another name."""
    return SimpleNamespace(host="vc.example", tls=pinned_context(host.certificate), cookie=lambda: (1, "vc=1"))


def of_host(host: Server, **fields: Any) -> Any:
    return url("/vm-7/x", url=f"https://127.0.0.1:{host.port}/nfc/ticket/disk-0.vmdk?a=b", **fields)


def ask(there: Any) -> None:
    connection = connected(there, 5)
    connection.request("GET", there.path)
    connection.getresponse().read()
    connection.close()


def test_a_star_stands_for_vcenter_itself(session: Any) -> None:
    there = address(session, url("/vm-7/x", url="https://*:8443/nfc/ticket/disk-0.vmdk"))
    assert (there.host, there.port, there.path) == ("vc.example", 8443, "/nfc/ticket/disk-0.vmdk")
    assert (there.tls, there.cookie) == (session.tls, "vc=1")


def test_a_host_is_known_by_the_certificate_that_vcenter_tells(session: Any, host: Server) -> None:
    for known in ({"sslThumbprint": host.sha1}, {"sslThumbprint": "", "sslCertificate": host.certificate}):
        there = address(session, of_host(host, **known))
        assert there.cookie == "", "the session is vCenter's alone"
        ask(there)
    assert host.asked == ["/nfc/ticket/disk-0.vmdk?a=b"] * 2


def test_a_host_with_another_certificate_is_sent_nothing(session: Any, host: Server, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = certificate.certificate_only(certificate.ensure(tmp_path / "other", "127.0.0.1"))
    with pytest.raises(CertificateMismatch) as refused:
        ask(address(session, of_host(host, sslThumbprint="AA" + host.sha1[2:])))
    assert "127.0.0.1" in refused.value.provider_message
    assert "127.0.0.1" not in str(refused.value)
    with pytest.raises(CertificateMismatch):
        ask(address(session, of_host(host, sslThumbprint="", sslCertificate=other)))
    with pytest.raises(DiskUnreadable, match="which certificate"):
        address(session, of_host(host, sslThumbprint=""))
    assert host.asked == []
