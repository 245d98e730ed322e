import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.client import BLOCK, Client, disk, flat_url
from vsphere.lab.server import LabServer

SIZE = 8 * 2**20


@pytest.fixture
def stopped(idle: Client) -> Any:
    vm = idle.vm("stray")
    idle.done(vm.PowerOffVM_Task())
    return vm


def test_a_range_is_answered_with_that_part(idle: Client) -> None:
    vm = idle.vm("stray")
    idle.snapshot(vm)
    whole = idle.read_flat(vm)
    status, headers, data = idle.request("GET", flat_url(vm), Range="bytes=1000-4999")
    assert (status, headers["Content-Range"]) == (206, f"bytes 1000-4999/{SIZE}")
    assert data == whole[1000:5000]
    assert idle.request("GET", flat_url(vm), Range="bytes=-10")[2] == whole[-10:]
    status, headers, data = idle.request("HEAD", flat_url(vm))
    assert (status, headers["Content-Length"], data) == (200, str(SIZE), b"")
    assert idle.request("GET", flat_url(vm), Range=f"bytes={SIZE}-")[0] == 416


def test_strangers_and_wrong_paths_get_nothing(idle: Client, idle_lab: LabServer) -> None:
    url = flat_url(idle.vm("stray"))
    assert Client(idle_lab.endpoint).request("GET", url)[0] == 401
    for wrong in (
        url.replace("stray/", "strange/"),
        url.replace("ssd1", "ssd9"),
        url.replace("Lab", "Elsewhere"),
        "/folder/..%2f..%2flab.json?dcPath=Lab&dsName=ssd1",
        "/folder/stray/stray.disk.json?dcPath=Lab&dsName=ssd1",
    ):
        assert idle.request("GET", wrong)[0] == 404, wrong


def test_the_disk_of_a_running_vm_is_locked_until_it_has_a_snapshot(idle: Client) -> None:
    vm = idle.vm("stray")
    assert idle.request("GET", flat_url(vm))[0] == 500
    idle.snapshot(vm)
    assert idle.request("GET", flat_url(vm))[0] == 200


def test_a_whole_disk_is_written_however_it_is_sent(idle: Client, stopped: Any, idle_lab: LabServer) -> None:
    image = bytearray(SIZE)
    image[3 * BLOCK : 3 * BLOCK + 5] = b"hello"
    assert idle.request("PUT", flat_url(stopped), bytes(image))[0] == 200
    assert idle.read_flat(stopped) == image

    def pieces() -> Iterator[bytes]:
        for start in range(0, SIZE, 50_000):
            yield bytes(image[start : start + 50_000])

    image[-5:] = b"world"
    assert idle.request("PUT", flat_url(stopped), pieces(), Transfer_Encoding="chunked")[0] == 200
    assert idle.read_flat(stopped) == image


def test_a_part_is_written_where_the_server_says_that_it_can(idle: Client, stopped: Any) -> None:
    before = idle.read_flat(stopped)
    assert idle.request("HEAD", flat_url(stopped))[1]["X-Partial-Put"] == "content-range"
    where = f"bytes {BLOCK}-{BLOCK + 4}/{SIZE}"
    assert idle.request("PUT", flat_url(stopped), b"patch", Content_Range=where)[0] == 200
    assert idle.read_flat(stopped) == before[:BLOCK] + b"patch" + before[BLOCK + 5 :]
    assert idle.request("PUT", flat_url(stopped), b"short", Content_Range=f"bytes 0-9/{SIZE}")[0] == 400
    assert idle.request("PUT", flat_url(stopped), b"patch", Content_Range="bytes 0-4/77")[0] == 400


def test_what_is_put_is_not_tracked_as_a_change(idle: Client, stopped: Any) -> None:
    idle.track_changes(stopped)
    first = idle.snapshot(stopped)
    mark = disk(first.config, 2000).backing.changeId
    idle.done(first.RemoveSnapshot_Task(False))
    idle.request("PUT", flat_url(stopped), b"patch", Content_Range=f"bytes {5 * BLOCK}-{5 * BLOCK + 4}/{SIZE}")
    assert idle.areas(idle.snapshot(stopped), 2000, mark) == []


def test_a_disk_in_use_or_with_snapshots_is_not_overwritten(idle: Client) -> None:
    vm = idle.vm("stray")
    assert idle.request("PUT", flat_url(vm), bytes(SIZE))[0] == 409
    idle.snapshot(vm)
    image = idle.read_flat(vm)
    idle.done(vm.PowerOffVM_Task())
    assert idle.request("PUT", flat_url(vm), bytes(SIZE))[0] == 409
    assert idle.read_flat(vm) == image


def files_url(name: str) -> str:
    return f"/folder/stray/{name}?dcPath=Lab&dsName=ssd1"


def text_of(client: Client, name: str) -> str:
    status, _, body = client.request("GET", files_url(name))
    assert status == 200, body
    return body.decode()


def test_descriptors_name_the_chain_and_a_delta_alone_is_not_the_disk(idle: Client, idle_lab: LabServer) -> None:
    vm = idle.vm("stray")
    idle.snapshot(vm, "before the upgrade")
    _, lab_disk = next(iter(idle_lab.lab.vms[vm._moId].disks()))
    lab_disk.write(5 * BLOCK, b"the upgrade")
    idle.snapshot(vm, "ours")
    assert disk(vm.config, 2000).backing.fileName.endswith("/stray-000002.vmdk")
    base, first, second = (text_of(idle, f"stray{number}.vmdk") for number in ("", "-000001", "-000002"))
    assert f'RW {SIZE // 512} VMFS "stray-flat.vmdk"' in base
    assert 'parentFileNameHint="stray.vmdk"' in first
    assert 'parentFileNameHint="stray-000001.vmdk"' in second
    assert f'RW {SIZE // 512} VMFSSPARSE "stray-000001-delta.vmdk"' in first

    status, _, delta = idle.request("GET", files_url("stray-000001-delta.vmdk"))
    assert status == 200
    assert delta[5 * BLOCK :].startswith(b"the upgrade")
    assert lab_disk.read(0, BLOCK).strip(b"\0"), "there is data below, which the delta lacks"
    assert not delta[:BLOCK].strip(b"\0")
    assert idle.request("GET", files_url("stray-000002-delta.vmdk"))[0] == 500, "the VM writes to it"
    assert idle.request("PUT", files_url("stray-000001-delta.vmdk"), b"x")[0] == 403
    assert idle.request("GET", files_url("stray-000003.vmdk"))[0] == 404


def test_other_files_are_kept_as_they_are(idle: Client) -> None:
    url = "/folder/stray/notes.txt?dcPath=Lab&dsName=ssd1"
    assert idle.request("PUT", url, b"hello")[0] == 201
    assert idle.request("GET", url)[2] == b"hello"


def test_trouble_on_demand(idle: Client, idle_lab: LabServer) -> None:
    vm = idle.vm("stray")
    idle.snapshot(vm)
    faults = idle_lab.folder / "faults.json"
    faults.write_text(json.dumps({"folder_status": {"stray": 500}}))
    assert idle.request("GET", flat_url(vm))[0] == 500
    faults.write_text(json.dumps({"folder_status": {"stray": 200}}))
    status, headers, data = idle.request("GET", flat_url(vm), Range="bytes=0-9")
    assert (status, len(data), "Content-Range" in headers) == (200, SIZE, False), "as from a server without ranges"
    faults.write_text(json.dumps({"datastore_latency_ms": {"ssd1": 300}}))
    began = time.monotonic()
    assert idle.request("GET", flat_url(vm), Range="bytes=0-0")[0] == 206
    assert time.monotonic() - began > 0.3
