"""A plain pyVmomi client of the lab: what the product's own adapter does is none of its business."""

import http.client
import ssl
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from pyVmomi import SoapStubAdapter, vim, vmodl

from vsphere.lab.server import Endpoint

PropertyCollector = vmodl.query.PropertyCollector
MIB = 2**20
BLOCK = 65536


def pinned(pem: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=pem)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class Client:
    def __init__(self, endpoint: Endpoint, version: str = "vim.version.v8_0_3_0") -> None:
        self.endpoint = endpoint
        self.context = pinned(endpoint.certificate_pem)
        self.stub = SoapStubAdapter(
            host=endpoint.host, port=endpoint.port, version=version, sslContext=self.context, poolSize=16
        )
        self.service = vim.ServiceInstance("ServiceInstance", self.stub)
        self.content: Any = self.service.RetrieveContent()

    def login(self) -> "Client":
        self.content.sessionManager.Login(self.endpoint.username, self.endpoint.password, None)
        return self

    def all(self, kind: Any) -> list[Any]:
        view = self.content.viewManager.CreateContainerView(self.content.rootFolder, [kind], True)
        found = list(view.view)
        view.DestroyView()
        return found

    def find(self, kind: Any, name: str) -> Any:
        return next(found for found in self.all(kind) if found.name == name)

    def vm(self, name: str) -> Any:
        return self.find(vim.VirtualMachine, name)

    @property
    def pool(self) -> Any:
        return self.all(vim.ClusterComputeResource)[0].resourcePool

    @property
    def vm_folder(self) -> Any:
        return self.all(vim.Datacenter)[0].vmFolder

    def done(self, task: Any, timeout_s: float = 20) -> Any:
        """Its result; raises its error."""
        deadline = time.monotonic() + timeout_s
        while task.info.state not in ("success", "error"):
            assert time.monotonic() < deadline, f"{task.info.descriptionId} does not end"
            time.sleep(0.01)
        if task.info.error:
            raise task.info.error
        return task.info.result

    def snapshot(self, vm: Any, name: str = "hotfirst-1") -> Any:
        return self.done(vm.CreateSnapshot_Task(name, "", False, False))

    def track_changes(self, vm: Any) -> None:
        self.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))

    def areas(self, snapshot: Any, key: int, change_id: str) -> list[tuple[int, int]]:
        capacity = disk(snapshot.config, key).capacityInBytes
        found, start = [], 0
        while start < capacity:
            info = snapshot.vm.QueryChangedDiskAreas(snapshot, key, start, change_id)
            found += [(area.start, area.length) for area in info.changedArea]
            assert info.length > 0
            start = info.startOffset + info.length
        return found

    def request(self, method: str, url: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPSConnection(
            self.endpoint.host, self.endpoint.port, context=self.context, timeout=20
        )
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.stub.cookie:
            headers["Cookie"] = self.stub.cookie.partition(";")[0]
        connection.request(method, url, body=body, headers=headers, encode_chunked=isinstance(body, Iterable))
        response = connection.getresponse()
        answer = response.status, dict(response.getheaders()), response.read()
        connection.close()
        return answer

    def read_flat(self, vm: Any, key: int = 2000) -> bytes:
        status, _, data = self.request("GET", flat_url(vm, key))
        assert status == 200, data
        return data


def disk(config: Any, key: int) -> Any:
    return next(device for device in config.hardware.device if device.key == key)


def flat_url(vm: Any, key: int = 2000) -> str:
    backing = disk(vm.config, key).backing
    while backing.parent:
        backing = backing.parent
    datastore, _, path = backing.fileName[1:].partition("] ")
    return f"/folder/{quote(path.removesuffix('.vmdk'))}-flat.vmdk?dcPath=Lab&dsName={datastore}"


def new_vm_spec(name: str, *disk_bytes: int, datastore: str = "ssd1") -> Any:
    device = vim.vm.device
    added = [
        device.VirtualDeviceSpec(
            operation="add", device=device.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing")
        )
    ]
    for unit, size in enumerate(disk_bytes):
        backing = device.VirtualDisk.FlatVer2BackingInfo(fileName="", diskMode="persistent", thinProvisioned=True)
        new = device.VirtualDisk(
            key=-10 - unit,
            controllerKey=-1,
            unitNumber=unit,
            capacityInKB=size // 1024,
            capacityInBytes=size,
            backing=backing,
        )
        added.append(device.VirtualDeviceSpec(operation="add", fileOperation="create", device=new))
    return vim.vm.ConfigSpec(
        name=name,
        guestId="debian12_64Guest",
        numCPUs=2,
        memoryMB=2048,
        files=vim.vm.FileInfo(vmPathName=f"[{datastore}]"),
        deviceChange=added,
    )
