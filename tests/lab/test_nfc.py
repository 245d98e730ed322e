"""Disks in and out over NFC, and the leases that allow it."""

import io
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pyVmomi import vim, vmodl

from tests.lab.client import MIB, Client, disk, flat_url, new_vm_spec
from tests.lab.test_restart import Process
from vsphere.disks.streamoptimized import Encoder, grains, read_header
from vsphere.lab.pools import default_resources
from vsphere.lab.server import LabServer

VMDK = "application/x-vnd.vmware-streamVmdk"


def ready(lease: Any) -> Any:
    deadline = time.monotonic() + 5
    while lease.state == "initializing":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return lease


def until(condition: Any, timeout_s: float = 5) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(entity: Any) -> bool:
    try:
        return not entity.name
    except vmodl.fault.ManagedObjectNotFound:
        return True


def path_of(lease: Any, number: int = 0) -> str:
    return urlsplit(lease.info.deviceUrl[number].url).path


def unpacked(raw: bytes) -> bytes:
    stream = io.BytesIO(raw)
    header = read_header(stream)
    content = bytearray(header.capacity_bytes)
    for start, data in grains(stream, header):
        content[start : start + len(data)] = data
    return bytes(content)


def packed(content: bytes) -> Iterator[bytes]:
    encoder = Encoder(len(content))
    yield encoder.begin()
    yield from encoder.add(0, content)
    yield from encoder.end()


def test_a_snapshot_of_a_running_vm_is_carried_out_as_it_was(lab: LabServer, client: Client) -> None:
    vm = client.vm("alice-db")
    lease = ready(client.snapshot(vm).ExportSnapshot())
    time.sleep(0.5)  # the guest writes
    assert [url.key.rpartition("/")[2] for url in lease.info.deviceUrl] == [
        "ParaVirtualSCSIController0:0",
        "ParaVirtualSCSIController0:1",
    ]
    for number, key in enumerate((2000, 2001)):
        status, headers, data = client.request("GET", path_of(lease, number))
        assert (status, headers["Content-Type"]) == (200, VMDK)
        assert unpacked(data) == client.read_flat(vm, key)
    lease.Progress(100)
    lease.Complete()
    assert lease.state == "done"
    assert client.request("GET", path_of(lease))[0] == 404


def test_a_snapshot_above_others_is_carried_out_with_what_lies_below(idle: Client, idle_lab: LabServer) -> None:
    vm = idle.vm("stray")
    below = idle.snapshot(vm, "before the upgrade")
    _, lab_disk = next(iter(idle_lab.lab.vms[vm._moId].disks()))
    lab_disk.write(3 * MIB, b"written above the user's snapshot")
    lease = ready(idle.snapshot(vm, "ours").ExportSnapshot())
    lab_disk.write(3 * MIB, b"WRITTEN later")
    content = unpacked(idle.request("GET", path_of(lease))[2])
    assert content[3 * MIB :].startswith(b"written above")
    assert content != idle.read_flat(vm), "the flat file holds the oldest snapshot"
    lease.Complete()
    assert not unpacked(idle.request("GET", path_of(ready(below.ExportSnapshot())))[2])[3 * MIB :].startswith(
        b"written"
    )


def test_a_vm_is_exported_only_when_it_is_off(idle: Client) -> None:
    vm = idle.vm("stray")
    with pytest.raises(vim.fault.InvalidPowerState):
        vm.ExportVm()
    idle.done(vm.PowerOffVM_Task())
    assert unpacked(idle.request("GET", path_of(ready(vm.ExportVm())))[2]) == idle.read_flat(vm)


def test_a_held_lease_blocks_what_would_change_the_vm(idle: Client) -> None:
    vm = idle.vm("stray")
    snapshot = idle.snapshot(vm)
    lease = ready(snapshot.ExportSnapshot())
    for refused in (vm.PowerOffVM_Task, vm.Destroy_Task, lambda: snapshot.RemoveSnapshot_Task(False)):
        with pytest.raises(vim.fault.TaskInProgress):
            refused()
    lease.Abort()
    until(lambda: not idle_leases(vm, idle))
    idle.done(snapshot.RemoveSnapshot_Task(False))


def idle_leases(vm: Any, client: Client) -> bool:
    try:
        client.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="free again")))
    except vim.fault.TaskInProgress:
        return True
    return False


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[LabServer]:
    server = LabServer(tmp_path / "lab", spec="small", load_scale=0, lease_timeout_s=0.5).start()
    yield server
    server.stop()


def test_a_lease_without_progress_dies_and_one_with_it_lives(impatient: LabServer) -> None:
    client = Client(impatient.endpoint).login()
    lease = ready(client.snapshot(client.vm("stray")).ExportSnapshot())
    for percent in range(8):
        time.sleep(0.1)
        lease.Progress(percent)
    assert (lease.state, lease.transferProgress) == ("ready", 7)
    path = path_of(lease)
    until(lambda: lease.state == "error")
    assert isinstance(lease.error, vim.fault.Timedout)
    assert client.request("GET", path)[0] == 404
    with pytest.raises(vim.fault.Timedout):
        lease.Progress(8)


def test_a_lease_dies_with_its_session(idle_lab: LabServer, idle: Client) -> None:
    other = Client(idle_lab.endpoint).login()
    path = path_of(ready(other.snapshot(other.vm("stray")).ExportSnapshot()))
    other.content.sessionManager.Logout()
    assert idle.request("GET", path)[0] == 404
    until(lambda: not idle_leases(idle.vm("stray"), idle))


def begin_import(client: Client, *disk_bytes: int, name: str = "alice-copy") -> Any:
    spec = vim.vm.VmImportSpec(configSpec=new_vm_spec(name, *disk_bytes))
    return ready(client.pool.ImportVApp(spec, client.vm_folder, None))


def test_a_vm_is_imported_with_its_disks(idle: Client) -> None:
    content = bytearray(3 * MIB)
    content[MIB : MIB + 70_000] = random.Random(3).randbytes(70_000)
    lease = begin_import(idle, 3 * MIB, MIB)
    assert idle.request("POST", path_of(lease), packed(content), Content_Type=VMDK)[0] == 201
    lease.Complete()
    vm = idle.vm("alice-copy")
    assert vm == lease.info.entity
    until(lambda: not idle_leases(vm, idle))
    assert idle.read_flat(vm) == content
    assert idle.read_flat(vm, 2001) == bytes(MIB)


def test_an_import_that_is_given_up_leaves_nothing(idle: Client, idle_lab: LabServer) -> None:
    lease = begin_import(idle, MIB)
    entity = lease.info.entity
    url = flat_url(entity)
    lease.Abort()
    until(lambda: is_gone(entity))
    assert idle.request("GET", url)[0] == 404
    assert lease.state == "error"


def test_an_import_that_a_kill_has_interrupted_is_gone_after_the_restart(tmp_path: Path) -> None:
    lab = Process(tmp_path)
    try:
        client = Client(lab.endpoint).login()
        begin_import(client, MIB, name="half")
        lease = begin_import(client, MIB, name="whole")
        lease.Complete()
        until(lambda: not idle_leases(client.vm("whole"), client))
    finally:
        lab.kill()
    lab = Process(tmp_path)
    try:
        names = {vm.name for vm in Client(lab.endpoint).login().all(vim.VirtualMachine)}
    finally:
        lab.kill()
    assert "half" not in names
    assert {"whole", "stray"} < names


def test_what_is_no_disk_or_too_big_is_refused(idle: Client) -> None:
    lease = begin_import(idle, MIB)
    for body in (b"no disk".ljust(70_000), b"".join(packed(bytes(2 * MIB))), b"".join(packed(bytes(MIB)))[:600]):
        assert idle.request("POST", path_of(lease), body)[0] == 500
    export = ready(idle.snapshot(idle.vm("stray")).ExportSnapshot())
    assert idle.request("POST", path_of(export), b"")[0] == 404


def test_a_vapp_is_imported_with_the_vapp_nested_in_it(idle: Client) -> None:
    def member(name: str, order: int) -> Any:
        entry = vim.vApp.EntityConfigInfo(startOrder=order, startAction="powerOn")
        return vim.vm.VmImportSpec(configSpec=new_vm_spec(name, MIB), entityConfig=entry)

    def vapp(name: str, *children: Any) -> Any:
        config = vim.vApp.VAppConfigSpec()
        return vim.vApp.VAppImportSpec(
            name=name, vAppConfigSpec=config, resourcePoolSpec=default_resources(), child=list(children)
        )

    spec = vapp("outer", member("late", 2), member("early", 1), vapp("inner", member("deep", 1)))
    lease = ready(idle.pool.ImportVApp(spec, idle.vm_folder, None))
    assert len(lease.info.deviceUrl) == 3
    lease.Complete()
    outer, inner = (idle.find(vim.VirtualApp, name) for name in ("outer", "inner"))
    assert inner.parentVApp == outer
    assert idle.vm("deep").parentVApp == inner
    assert {e.key.name: e.startOrder for e in outer.vAppConfig.entityConfig if e.key != inner} == {
        "late": 2,
        "early": 1,
    }

    spec = vapp("again", member("fine", 1), member("stray", 1), vapp("again-inner"))
    lease = ready(idle.pool.ImportVApp(spec, idle.vm_folder, None))
    entity = lease.info.entity
    lease.Abort()
    until(lambda: is_gone(entity))
    assert disk(outer.vm[0].config, 2000).capacityInBytes == MIB


OVF = """<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
 <References><File ovf:id="file1" ovf:href="appliance-disk1.vmdk"/></References>
 <DiskSection><Disk ovf:diskId="vmdisk1" ovf:capacity="3" ovf:capacityAllocationUnits="byte * 2^20" ovf:fileRef="file1"/></DiskSection>
 <VirtualSystem ovf:id="appliance"><Name>appliance</Name><VirtualHardwareSection>
  <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
  <Item><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>512</rasd:VirtualQuantity></Item>
  <Item><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType><rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType><rasd:Address>0</rasd:Address></Item>
  <Item><rasd:InstanceID>4</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType><rasd:Parent>3</rasd:Parent><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource></Item>
  <Item><rasd:InstanceID>5</rasd:InstanceID><rasd:ResourceType>10</rasd:ResourceType><rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType><rasd:Connection>LAN</rasd:Connection></Item>
  <Item><rasd:InstanceID>6</rasd:InstanceID><rasd:ResourceType>35</rasd:ResourceType><rasd:ElementName>sound</rasd:ElementName></Item>
 </VirtualHardwareSection></VirtualSystem></Envelope>"""  # noqa: E501


def test_an_ovf_descriptor_becomes_a_vm(idle: Client) -> None:
    params = vim.OvfManager.CreateImportSpecParams(locale="", deploymentOption="", entityName="from-ovf")
    store = idle.find(vim.Datastore, "ssd2")
    made = idle.content.ovfManager.CreateImportSpec(OVF, idle.pool, store, params)
    assert (made.error, len(made.warning)) == ([], 1)
    lease = ready(idle.pool.ImportVApp(made.importSpec, idle.vm_folder, None))
    assert lease.info.deviceUrl[0].importKey == made.fileItem[0].deviceId == "/from-ovf/ParaVirtualSCSIController0:0"
    content = b"appliance".ljust(3 * MIB, b"\0")
    assert idle.request("POST", path_of(lease), packed(content), Content_Type=VMDK)[0] == 201
    lease.Complete()
    vm = idle.vm("from-ovf")
    assert (vm.config.hardware.numCPU, vm.config.hardware.memoryMB) == (2, 512)
    until(lambda: not idle_leases(vm, idle))
    assert idle.request("GET", flat_url(vm))[2] == content
    broken = idle.content.ovfManager.CreateImportSpec("<nonsense/>", idle.pool, store, params)
    assert isinstance(broken.error[0], vim.fault.OvfInvalidPackage)


def test_an_import_of_nonsense_ends_in_an_error(idle: Client) -> None:
    lease = begin_import(idle, MIB, name="stray")
    assert lease.state == "error"
    assert isinstance(lease.error, vim.fault.DuplicateName)
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        vim.HttpNfcLease("session[gone]gone", idle.stub).Complete()
