import gzip
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyVmomi import vim

from tests.lab.client import MIB, Client
from vsphere.lab import fleets
from vsphere.lab.content import LabSpec, VmSpec
from vsphere.lab.loads import Clock, Profile
from vsphere.lab.server import Endpoint, LabServer

TRACE = """vm,cores,memory_mb,hour,read_kbps,write_kbps
7,2,8026,0,16.1,2.5
7,2,8026,2,0,400
9,0,123.4,0,0,0.25
9,0,123.4,1,1,1
"""


@pytest.fixture(params=["plain", "gzipped"])
def trace(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "loads.csv"
    path.write_bytes(TRACE.encode() if request.param == "plain" else gzip.compress(TRACE.encode()))
    return path


def test_each_vm_of_a_trace_becomes_a_vm_of_the_lab(trace: Path) -> None:
    first, second = fleets.of_trace(trace).vms
    assert (first.name, first.cpus, first.memory_mib) == ("vm-7", 2, 8026)
    assert (second.name, second.cpus, second.memory_mib) == ("vm-9", 1, 123)


def test_an_hour_that_the_trace_leaves_out_is_an_idle_one(trace: Path) -> None:
    first, second = fleets.of_trace(trace).vms
    assert first.write_kbps == (2.5, 0.0, 400.0)
    assert first.read_kbps == (16.1, 0.0, 0.0)
    assert second.write_kbps == (0.25, 1.0, 0.0)


def test_a_scaled_lab_has_smaller_disks_and_lower_rates(trace: Path) -> None:
    whole, scaled = fleets.of_trace(trace), fleets.of_trace(trace, scale=0.001)
    assert scaled.vms[0].write_kbps == (0.0025, 0.0, 0.4)
    assert scaled.vms[0].disk_bytes[0] == pytest.approx(whole.vms[0].disk_bytes[0] / 1000, rel=0.1)


def test_some_of_a_trace_is_drawn_by_the_seed(trace: Path) -> None:
    drawn = [fleets.of_trace(trace, vms=1, seed=seed).vms[0].name for seed in range(8)]
    assert set(drawn) == {"vm-7", "vm-9"}
    assert drawn == [fleets.of_trace(trace, vms=1, seed=seed).vms[0].name for seed in range(8)]


def test_a_drawn_fleet_is_mostly_idle_and_a_few_do_nearly_all_the_writing() -> None:
    fleet = fleets.drawn(400, seed=3)
    assert fleet == fleets.drawn(400, seed=3) != fleets.drawn(400, seed=4)
    means = sorted(sum(vm.write_kbps) / len(vm.write_kbps) for vm in fleet.vms if isinstance(vm.write_kbps, tuple))
    assert means[200] == pytest.approx(fleets.MEDIAN_WRITE_KBPS, rel=0.1)
    assert sum(means[-40:]) > 0.8 * sum(means)
    assert sum(vm.disk_bytes[0] for vm in fleet.vms) < 4 * fleet.datastore_bytes


def test_after_the_last_hour_the_first_comes_again() -> None:
    profile = Profile(write_kbps=(1.0, 2.0), read_kbps=(3.0,))
    assert [profile.at(hour) for hour in (0, 1, 2)] == [(1.0, 3.0), (2.0, 3.0), (1.0, 3.0)]


def test_a_profile_is_kept_and_one_of_an_older_lab_is_understood() -> None:
    profile = Profile(write_kbps=(1.0, 2.0), read_kbps=(3.0,))
    assert Profile.of({name: list(hours) for name, hours in profile.record().items()}) == profile
    assert Profile.of({"write_kbps": 5.0, "read_kbps": 1.0}) == Profile.steady(5.0, 1.0)


def test_the_hours_of_a_lab_go_on_from_its_first_start() -> None:
    clock = Clock(began=time.time() - 25, hour_s=10)
    assert clock.hour() == 2
    assert 4 < clock.left_s() <= 5


def test_a_guests_load_follows_the_hours(tmp_path: Path) -> None:
    busy_later = VmSpec(
        name="late", disk_bytes=(8 * MIB,), filesystem=False, write_kbps=(0.0, 2000.0), read_kbps=(1500.0, 0.0)
    )
    lab = LabServer(tmp_path, spec=LabSpec(vms=(busy_later,)), sample_s=0.5, hour_s=4).start()
    (vm,) = lab.lab.vms.values()
    time.sleep(8)
    lab.stop()
    clock = lab.generator.clock
    seen: dict[int, list[dict[int, int]]] = {0: [], 1: []}
    for at, row in lab.meter.samples(vm.moid):
        hour, into_s = divmod(at.timestamp() - clock.began, clock.hour_s)
        if into_s > 1.5 and hour in seen:
            seen[int(hour)].append({counter: value for (counter, _), value in row.items()})
    assert seen[0]
    assert seen[1]
    assert all(row[178] > 500 and row[179] == 0 for row in seen[0])
    assert all(row[179] > 800 and row[178] == 0 for row in seen[1])


def test_the_lab_is_started_from_a_trace(trace: Path, tmp_path: Path) -> None:
    state = tmp_path / "lab"
    command = [sys.executable, "-m", "vsphere.lab", "--state", str(state), "--trace", str(trace), "--scale", "0.001"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            words = process.stdout.readline().split()
            host, _, port = words[3].removeprefix("https://").removesuffix("/sdk").partition(":")
            pem = (state / "certificate.pem").read_text()
            certificate = pem[pem.index("-----BEGIN CERTIFICATE") :]
            end = Endpoint(
                host=host, port=int(port), username=words[5], password=words[7], certificate_pem=certificate, pid=0
            )
            assert {vm.name for vm in Client(end).login().all(vim.VirtualMachine)} == {"vm-7", "vm-9"}
        finally:
            process.terminate()
