"""What an operator is told when a vCenter is enrolled with something wrong."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from backups.errors import CertificateMismatch, LoginFailed, PlatformError, PlatformUnreachable
from backups.models import VCenter, Vm
from backups.platform import Connection, Quiesce
from backups.services.inventory import refresh
from backups.services.vcenters import enrol_vcenter, look_up_certificate
from tests.contract.test_snapshots import take
from tests.contract.worlds import LAB, connection_to
from vsphere import session
from vsphere.lab import certificate
from vsphere.lab.server import LabServer
from vsphere.platform import connect, fetch_certificate, fingerprint


@contextmanager
def refused(kind: type[PlatformError], told: str) -> Iterator[None]:
    """The provider is told `told`; the tenant neither an address nor a user name."""
    with pytest.raises(kind) as caught:
        yield
    assert re.search(told, caught.value.provider_message)
    for secret in ("127.0.0.1", "administrator", "vcenter.invalid"):
        assert secret not in str(caught.value)


@pytest.fixture
def right(lab: LabServer) -> Connection:
    return connection_to(lab)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_the_certificate_is_fetched_and_its_fingerprint_shown(right: Connection) -> None:
    pem = fetch_certificate(right.host, right.port)
    shown = fingerprint(pem)
    assert shown == fingerprint(right.certificate_pem)
    assert len(shown) == 95
    assert set(shown) <= set("0123456789ABCDEF:")


def test_a_wrong_password_says_what_to_correct(right: Connection) -> None:
    with refused(LoginFailed, "user name or the password"):
        connect(replace(right, password="wrong"))


def test_another_certificate_is_refused_before_anything_is_sent(
    lab: LabServer, right: Connection, tmp_path: Path
) -> None:
    certificate.ensure(tmp_path, "127.0.0.1")
    other = certificate.certificate_only(tmp_path / "certificate.pem")
    sessions = len(lab.sessions.all())
    with refused(CertificateMismatch, "another certificate"):
        connect(replace(right, certificate_pem=other))
    assert len(lab.sessions.all()) == sessions


def test_the_confirmed_certificate_is_accepted_also_when_it_has_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "VALID_DAYS", 0)
    expired = LabServer(tmp_path, spec=LAB).start()
    try:
        connect(connection_to(expired)).close()
    finally:
        expired.stop()


def test_a_certificate_that_changes_stops_everything_until_it_is_confirmed(tmp_path: Path) -> None:
    lab = LabServer(tmp_path, spec=LAB).start()
    platform, port = connect(connection_to(lab)), lab.endpoint.port
    vm = platform.inventory().vms[0]
    snapshot = take(platform, vm, quiesce=Quiesce.NO)
    reader = platform.open_disk(snapshot, vm.disks[0])
    old = connection_to(lab)
    lab.stop()
    (tmp_path / "certificate.pem").unlink()
    changed = LabServer(tmp_path, port, spec=LAB).start()
    try:
        began = time.monotonic()
        with refused(CertificateMismatch, "confirm it under vCenters"):
            platform.inventory()
        with refused(CertificateMismatch, "confirm it under vCenters"):
            platform.remove_snapshot(snapshot.name, vm.ref)
        with refused(CertificateMismatch, "confirm it under vCenters"):
            connect(old)
        with pytest.raises(PlatformError):
            reader.read(0, 512)
        assert time.monotonic() - began < 20
        confirmed = fetch_certificate(old.host, port)
        assert fingerprint(confirmed) != fingerprint(old.certificate_pem)
        again = connect(replace(old, certificate_pem=confirmed))
        assert {each.uuid for each in again.inventory().vms} >= {vm.uuid}
        again.remove_snapshot(snapshot.name, vm.ref)
        again.close()
    finally:
        changed.stop()


def test_a_certificate_that_is_none_says_so(right: Connection) -> None:
    with refused(PlatformError, "confirm it again"):
        connect(replace(right, certificate_pem="-"))


def test_nobody_listening_says_check_the_address(right: Connection, closed_port: int) -> None:
    with refused(PlatformUnreachable, "check the address and the port"):
        connect(replace(right, port=closed_port))
    with refused(PlatformUnreachable, "check the address and the port"):
        fetch_certificate("127.0.0.1", closed_port)


def test_a_silent_host_does_not_hang(right: Connection, silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused(PlatformUnreachable, "did not answer in time"):
        session.Session(replace(right, port=silent_port), timeout_s=0.3)
    with refused(PlatformUnreachable, "did not answer in time"):
        fetch_certificate("127.0.0.1", silent_port, timeout_s=0.3)


def test_a_name_that_does_not_exist_is_called_unknown(right: Connection) -> None:
    with refused(PlatformUnreachable, "not known"):
        connect(replace(right, host="vcenter.invalid"))


def test_no_password_shows_in_the_errors_or_the_connection(right: Connection) -> None:
    assert right.password not in repr(right)
    with pytest.raises(LoginFailed) as caught:
        connect(replace(right, username="nobody"))
    assert right.password not in str(caught.value)


@pytest.mark.parametrize("host", ["..", "a" * 64 + ".example", "no such name"])
def test_a_name_that_cannot_be_one_is_told(host: str) -> None:
    with refused(PlatformUnreachable, "check the address"):
        fetch_certificate(host, 443)


@pytest.mark.django_db
def test_a_vcenter_with_a_new_certificate_is_enrolled_again_and_keeps_its_history(tmp_path: Path) -> None:
    lab = LabServer(tmp_path, spec=LAB).start()
    port, end = lab.endpoint.port, lab.endpoint

    def enrol() -> VCenter:
        pem, shown = look_up_certificate(end.host, port)
        assert shown == fingerprint(pem)
        told = {"host": end.host, "port": port, "username": end.username, "certificate_pem": pem}
        return enrol_vcenter(None, name="Lab", password=end.password, **told)

    vcenter = enrol()
    before = set(Vm.objects.values_list("pk", flat=True))
    lab.stop()
    (tmp_path / "certificate.pem").unlink()
    changed = LabServer(tmp_path, port, spec=LAB).start()
    try:
        with pytest.raises(CertificateMismatch):
            refresh(vcenter)
        vcenter.refresh_from_db()
        assert "compare its fingerprint and confirm it" in vcenter.sync_error
        assert enrol().pk == vcenter.pk
        refresh(VCenter.objects.get())
        assert set(Vm.objects.filter(vanished_at=None).values_list("pk", flat=True)) == before
        assert VCenter.objects.get().sync_error == ""
    finally:
        changed.stop()
