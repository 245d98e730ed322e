import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.lab.client import Client, disk
from vsphere.lab.server import Endpoint, LabServer


class Process:
    """A lab in a process of its own, which can be killed."""

    def __init__(self, state: Path) -> None:
        self.state = state
        command = [sys.executable, "-m", "vsphere.lab", "--state", str(state), "--spec", "small", "--load-scale", "3"]
        self.process = subprocess.Popen([*command, "--sample-s", "0.5"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.line = self.process.stdout.readline()
        self.endpoint = Endpoint(**json.loads((state / "endpoint.json").read_text()))

    def kill(self, number: int = signal.SIGKILL) -> int:
        self.process.send_signal(number)
        status = self.process.wait(10)
        assert self.process.stdout
        self.process.stdout.close()
        return status


def test_a_killed_lab_comes_back_with_its_snapshots_and_bytes(tmp_path: Path) -> None:
    lab = Process(tmp_path)
    try:
        client = Client(lab.endpoint).login()
        instance = client.content.about.instanceUuid
        vm = client.vm("alice-db")
        client.track_changes(vm)
        first = client.snapshot(vm)
        mark = disk(first.config, 2000).backing.changeId
        image = client.read_flat(vm)
        time.sleep(0.3)
        second = client.snapshot(vm, "hotfirst-2")
        areas = client.areas(second, 2000, mark)
    finally:
        lab.kill()

    lab = Process(tmp_path)
    try:
        client = Client(lab.endpoint).login()
        assert client.content.about.instanceUuid == instance
        vm = client.vm("alice-db")
        assert client.read_flat(vm) == image
        tree = vm.snapshot.rootSnapshotList[0]
        assert (tree.snapshot._moId, tree.name) == (first._moId, "hotfirst-1")
        assert tree.childSnapshotList[0].snapshot._moId == second._moId
        assert client.areas(tree.childSnapshotList[0].snapshot, 2000, mark) == areas
        client.done(vm.RemoveAllSnapshots_Task())
        assert disk(vm.config, 2000).backing.parent is None
        assert vm.parentVApp.vAppConfig.entityConfig[0].key == vm
        newer = client.snapshot(vm, "hotfirst-3")
        assert newer._moId not in (first._moId, second._moId)
    finally:
        assert lab.kill(signal.SIGTERM) == 0
    assert not (tmp_path / "endpoint.json").exists()


def test_the_ready_line_and_the_endpoint_file_name_the_same_door(tmp_path: Path) -> None:
    lab = Process(tmp_path)
    try:
        end = lab.endpoint
        assert lab.line == (
            f"lab vCenter on https://127.0.0.1:{end.port}/sdk user {end.username} password {end.password}\n"
        )
        assert end.pid == lab.process.pid != os.getpid()
        assert "PRIVATE KEY" not in end.certificate_pem
    finally:
        lab.kill(signal.SIGTERM)


def test_a_lab_killed_while_it_consolidated_asks_for_a_consolidation(tmp_path: Path) -> None:
    server = LabServer(tmp_path, spec="small", load_scale=0).start()
    vm = next(vm for vm in server.lab.vms.values() if vm.name == "stray")
    client = Client(server.endpoint).login()
    client.snapshot(client.vm("stray"))
    files = [found for _, found in vm.disks()]
    files[0].write(0, b"x" * 2**20)
    vm.snapshots[0].detach()
    files[0]._drain_some(1)
    expected = files[0].read(0, 2**21)
    server.stop()

    server = LabServer(tmp_path, load_scale=0).start()
    try:
        client = Client(server.endpoint).login()
        found = client.vm("stray")
        assert found.snapshot is None
        assert found.runtime.consolidationNeeded
        client.done(found.ConsolidateVMDisks_Task())
        assert not found.runtime.consolidationNeeded
        client.done(found.PowerOffVM_Task())
        assert client.read_flat(found)[: 2**21] == expected
    finally:
        server.stop()


def test_a_lab_killed_while_it_was_filled_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory" / "vm-1.json").write_text("half of a rec")
    (tmp_path / "datastores" / "ssd1" / "stray").mkdir(parents=True)
    server = LabServer(tmp_path, spec="small", load_scale=0).start()
    try:
        assert len(server.lab.vms) == 4
    finally:
        server.stop()
