import ssl
import threading
from pathlib import Path

import pytest
from pyVim.connect import SmartConnect
from pyVmomi import vim, vmodl

from tests.lab.client import Client, PropertyCollector, pinned
from vsphere.lab.server import LabServer


def test_pyvmomis_own_way_to_connect_works_and_agrees_on_a_version(idle_lab: LabServer) -> None:
    end = idle_lab.endpoint
    service = SmartConnect(
        host=end.host,
        port=end.port,
        user=end.username,
        pwd=end.password,
        sslContext=pinned(end.certificate_pem),
    )
    assert service.content.about.apiType == "VirtualCenter"
    assert service.CurrentTime() is not None


def test_an_older_client_is_spared_what_it_does_not_know(idle_lab: LabServer) -> None:
    old = Client(idle_lab.endpoint, version="vim.version.version9").login()
    assert {vm.config.name for vm in old.all(vim.VirtualMachine)} == {"alice-db", "alice-web", "bob-web", "stray"}


def test_a_wrong_password_is_refused(idle_lab: LabServer) -> None:
    stranger = Client(idle_lab.endpoint)
    with pytest.raises(vim.fault.InvalidLogin):
        stranger.content.sessionManager.Login("mallory", "guess", None)


def test_without_a_session_calls_fail_and_reads_come_back_empty_with_the_reason(
    idle: Client, idle_lab: LabServer
) -> None:
    vm = idle.vm("stray")
    idle_lab.sessions.end_all()
    with pytest.raises(vim.fault.NotAuthenticated):
        vm.PowerOffVM_Task()
    with pytest.raises(vim.fault.NotAuthenticated):
        _ = vm.name
    spec = PropertyCollector.FilterSpec(
        objectSet=[PropertyCollector.ObjectSpec(obj=vm)],
        propSet=[PropertyCollector.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])],
    )
    answer = idle.content.propertyCollector.RetrievePropertiesEx([spec], PropertyCollector.RetrieveOptions())
    assert not answer.objects[0].propSet
    assert isinstance(answer.objects[0].missingSet[0].fault, vim.fault.NotAuthenticated)


def test_who_waits_for_updates_is_told_when_his_session_ends(idle: Client, idle_lab: LabServer) -> None:
    collector = idle.content.propertyCollector.CreatePropertyCollector()
    threading.Timer(0.2, idle_lab.sessions.end_all).start()
    with pytest.raises(vim.fault.NotAuthenticated):
        collector.WaitForUpdatesEx("", PropertyCollector.WaitOptions(maxWaitSeconds=10))


def test_an_idle_session_ends(idle: Client, idle_lab: LabServer) -> None:
    idle_lab.sessions.idle_s = -1
    with pytest.raises(vim.fault.NotAuthenticated):
        idle.vm("stray")


def test_views_die_with_their_session(idle: Client, idle_lab: LabServer) -> None:
    view = idle.content.viewManager.CreateContainerView(idle.content.rootFolder, [vim.VirtualMachine], True)
    idle.content.sessionManager.Logout()
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = view.view if idle.login() else None


def test_two_labs_in_one_process_know_nothing_of_each_other(idle: Client, tmp_path: Path) -> None:
    other = LabServer(tmp_path / "other", spec="small", load_scale=0).start()
    try:
        theirs = Client(other.endpoint).login()
        idle.done(idle.vm("stray").PowerOffVM_Task())
        assert theirs.vm("stray").runtime.powerState == "poweredOn"
        assert theirs.content.about.instanceUuid != idle.content.about.instanceUuid
    finally:
        other.stop()


def test_a_lab_that_stops_hangs_up_and_comes_back_with_the_same_certificate(tmp_path: Path) -> None:
    server = LabServer(tmp_path, spec="small", load_scale=0).start()
    client = Client(server.endpoint).login()
    before = server.endpoint
    server.stop()
    with pytest.raises((ConnectionError, ssl.SSLError)):
        client.service.CurrentTime()
    again = LabServer(tmp_path, port=before.port, load_scale=0).start()
    try:
        assert (again.endpoint.certificate_pem, again.endpoint.password) == (before.certificate_pem, before.password)
        assert client.login().service.CurrentTime() is not None
    finally:
        again.stop()
