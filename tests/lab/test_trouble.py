"""What the lab is told to do badly, and datastores that are slow or full."""

import json
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from tests.lab.client import MIB, Client
from vsphere.lab.content import LabSpec, VmSpec
from vsphere.lab.faults import Faults
from vsphere.lab.server import LabServer
from vsphere.lab.stores import BUSIEST, IDLE_LATENCY_MS, Stores


def owner(client: Client) -> str:
    return "Basic " + b64encode(f"{client.endpoint.username}:{client.endpoint.password}".encode()).decode()


def send(client: Client, method: str, faults: Any, authorization: str | None = None) -> tuple[int, bytes]:
    status, _, body = client.request(
        method, "/lab/faults", json.dumps(faults).encode(), Authorization=authorization or owner(client)
    )
    return status, body


def test_faults_are_put_changed_and_taken_back_over_http(idle: Client) -> None:
    assert send(idle, "PUT", {"create_snapshot": {"stray": "No."}, "stun_ms_per_mib": 3})[0] == 200
    with pytest.raises(vim.fault.SnapshotFault):
        idle.snapshot(idle.vm("stray"))
    assert send(idle, "POST", {"create_snapshot": None, "datastore_latency_ms": {"ssd1": 9}})[0] == 200
    assert idle.snapshot(idle.vm("stray"))
    assert json.loads(send(idle, "GET", {})[1]) == {"stun_ms_per_mib": 3, "datastore_latency_ms": {"ssd1": 9}}


@pytest.mark.parametrize("authorization", ["Basic bm9ib2R5OndpdGhvdXQ=", "Basic !", "Bearer token", " "])
def test_only_the_labs_owner_makes_trouble(idle: Client, authorization: str) -> None:
    for method in ("GET", "PUT", "POST"):
        assert send(idle, method, {"stun_ms_per_mib": 1}, authorization)[0] == 401
    assert json.loads(send(idle, "GET", {})[1]) == {}


@pytest.mark.parametrize("faults", [[], {"earthquake": 1}, {"create_snapshot": 1}, {"stun_ms_per_mib": "long"}])
def test_a_fault_that_the_lab_does_not_know_is_refused(idle: Client, faults: Any) -> None:
    assert send(idle, "PUT", faults)[0] == 400
    assert json.loads(send(idle, "GET", {})[1]) == {}


def test_the_stun_grows_with_the_delta_up_to_a_limit(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "faults.json")
    faults.want({"stun_ms_per_mib": 10})
    assert faults.stun_s(0) == 0
    assert faults.stun_s(20 * MIB) == pytest.approx(0.2)
    assert faults.stun_s(10**6 * MIB) == 5


def test_a_datastore_is_slower_the_more_goes_over_it(tmp_path: Path) -> None:
    stores = Stores(Faults(tmp_path / "faults.json"), mb_per_s=100)
    latencies = []
    for megabytes in (1, 8, 10**6):
        time.sleep(0.1)
        stores.count("ssd1", written=megabytes * 10**6 // 2)
        stores.count("ssd1", read=megabytes * 10**6 // 2)
        stores.sample()
        latencies.append(stores.latency_ms("ssd1"))
    assert IDLE_LATENCY_MS < latencies[0] < latencies[1] < latencies[2]
    assert latencies[2] == pytest.approx(IDLE_LATENCY_MS / (1 - BUSIEST))
    assert stores.latency_ms("ssd2") == 0


def test_the_hosts_counters_tell_the_latency_of_each_datastore(client: Client, lab: LabServer) -> None:
    lab.lab.faults.want({"datastore_latency_ms": {"ssd2": 40}})
    time.sleep(0.8)
    kind, manager = vim.PerformanceManager, client.content.perfManager
    counter = next(c.key for c in manager.perfCounter if c.nameInfo.key == "totalReadLatency" and c.key > 200)
    host = client.all(vim.HostSystem)[0]
    assert manager.QueryPerfProviderSummary(host).currentSupported
    metric = kind.MetricId(counterId=counter, instance="*")
    (answer,) = manager.QueryPerf([kind.QuerySpec(entity=host, metricId=[metric], intervalId=20, format="csv")])
    told = {series.id.instance: int(series.value.split(",")[-1]) for series in answer.value}
    stores = {store.name: store.info.vmfs.uuid for store in client.all(vim.Datastore)}
    assert told[stores["ssd2"]] >= 40
    assert told[stores["ssd1"]] < 40


def test_vcenter_shows_old_sizes_until_it_is_asked_to_look(idle: Client, idle_lab: LabServer) -> None:
    vm = idle.vm("stray")
    idle.snapshot(vm)
    before = deltas(vm)
    _, disk = idle_lab.lab.vms[vm._moId].disks()[0]
    disk.write(0, b"x" * 65536)
    assert deltas(vm) == before == [0]
    vm.RefreshStorageInfo()
    assert deltas(vm) == [65536]
    assert [len(d.chain) for snapshot in vm.layoutEx.snapshot for d in snapshot.disk] == [1]


def deltas(vm: Any) -> list[int]:
    return [file.size for file in vm.layoutEx.file if file.name.endswith("-delta.vmdk")]


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[LabServer]:
    """Its one datastore is too small for what the guest writes."""
    writer = VmSpec(name="writer", disk_bytes=(64 * MIB,), filesystem=False, write_kbps=4000.0)
    spec = LabSpec(vms=(writer,), datastores=("tiny",), datastore_bytes=96 * 1024)
    server = LabServer(tmp_path / "lab", spec=spec, sample_s=0.3).start()
    yield server
    server.stop()


def test_a_guest_stands_still_on_a_full_datastore_and_asks_what_to_do(cramped: LabServer) -> None:
    client = Client(cramped.endpoint).login()
    vm = client.vm("writer")
    question = asked(vm)
    assert "no more space" in question.text
    store = client.all(vim.Datastore)[0]
    store.RefreshDatastore()
    assert store.summary.freeSpace == 0
    with pytest.raises(vim.fault.NoDiskSpace) as caught:
        client.snapshot(vm)
    assert caught.value.datastore == "tiny"
    vm.AnswerVM(question.id, "0")
    again = asked(vm)
    assert again.id != question.id
    vm.AnswerVM(again.id, "1")
    assert vm.runtime.powerState == "poweredOff"


def test_a_guest_goes_on_when_there_is_room_again(cramped: LabServer) -> None:
    client = Client(cramped.endpoint).login()
    vm = client.vm("writer")
    question = asked(vm)
    cramped.lab.datastores["tiny"].capacity_bytes = 100 * MIB
    cramped.lab.datastores["tiny"].RefreshDatastore(None)  # type: ignore[arg-type]
    vm.AnswerVM(question.id, "0")
    time.sleep(0.8)
    assert vm.runtime.question is None
    assert cramped.meter.samples(vm._moId)[-1][1][179, "scsi0:0"] > 1000


def asked(vm: Any) -> Any:
    deadline = time.monotonic() + 10
    while (question := vm.runtime.question) is None:
        assert time.monotonic() < deadline, "it never asks"
        time.sleep(0.05)
    return question
