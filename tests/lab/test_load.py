import time
from itertools import pairwise
from typing import Any

from pyVmomi import vim

from tests.lab.client import Client
from vsphere.lab.content import LOAD_SIGMA
from vsphere.lab.loads import heavy_tailed
from vsphere.lab.server import LabServer

kind = vim.PerformanceManager


def query(client: Client, vms: list[Any], sample_format: str) -> list[Any]:
    manager = client.content.perfManager
    names = {(c.groupInfo.key, c.nameInfo.key): c.key for c in manager.perfCounter}
    metric = kind.MetricId(counterId=names["virtualDisk", "write"], instance="*")
    specs = [kind.QuerySpec(entity=vm, metricId=[metric], intervalId=20, format=sample_format) for vm in vms]
    return list(manager.QueryPerf(specs))


def test_a_few_vms_do_most_of_the_writing_and_no_two_write_alike() -> None:
    rates = sorted(heavy_tailed(14, 160, LOAD_SIGMA, seed=1), reverse=True)
    assert sum(rates[:4]) > 0.6 * sum(rates)
    assert all(a > 1.15 * b for a, b in pairwise(rates))
    assert heavy_tailed(14, 160, LOAD_SIGMA, seed=1) == heavy_tailed(14, 160, LOAD_SIGMA, seed=1)


def test_the_counters_tell_what_was_really_written_per_disk(client: Client, lab: LabServer) -> None:
    time.sleep(2)
    vms = client.all(vim.VirtualMachine)
    measured = {}
    for answer in query(client, vms, "csv"):
        series = {s.id.instance: [int(v) for v in s.value.split(",")] for s in answer.value}
        samples = len(answer.sampleInfoCSV.split(",")) // 2
        assert all(len(values) == samples for values in series.values())
        measured[answer.entity.name] = sum(sum(values) / samples for values in series.values())
    wanted = {vm.name: vm.profile.write_kbps[0] * 2 for vm in lab.lab.vms.values()}
    assert sorted(measured, key=measured.__getitem__) == sorted(wanted, key=wanted.__getitem__)
    assert all(0.5 * wanted[name] < kbps < 1.5 * wanted[name] for name, kbps in measured.items())


def test_xml_and_csv_say_the_same(client: Client) -> None:
    time.sleep(0.8)
    vm = client.vm("alice-db")
    csv, xml = query(client, [vm], "csv")[0], query(client, [vm], "normal")[0]
    assert {s.id.instance for s in xml.value} == {"scsi0:0", "scsi0:1"}
    shared = len(csv.sampleInfoCSV.split(",")) // 2
    assert [int(v) for v in csv.value[0].value.split(",")] == list(xml.value[0].value)[:shared]


def test_a_vm_that_is_off_has_no_samples(client: Client) -> None:
    vm = client.done(client.vm_folder.CreateVM_Task(vim.vm.ConfigSpec(
        name="off", files=vim.vm.FileInfo(vmPathName="[ssd1]")), client.pool)) or client.vm("off")  # fmt: skip
    time.sleep(0.5)
    assert query(client, [vm], "csv") == []
