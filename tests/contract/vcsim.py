"""govmomi's simulator as a platform of the contract suite: a vCenter that others wrote. What it cannot do is skipped by
the name of the test, with the reason."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyVmomi import vim

from backups.platform import Connection, Vm
from tests.contract.worlds import MIB, NUMBERS, vm_named
from vsphere.lab import certificate
from vsphere.lab.certificate import certificate_only
from vsphere.platform import VSpherePlatform, connect
from vsphere.properties import read_all
from vsphere.session import Session
from vsphere.tasks import wait

BINARY = shutil.which("vcsim", path=Path(sys.prefix) / "bin")
USERNAME, PASSWORD = "administrator", "vcsim"
TIMEOUT_S = 30

NO_BYTES = "vcsim keeps no bytes of disks"
NO_TRACKING = "vcsim tracks no changes: the flag flips, and no changeId comes of it"
EXACT_TYPE = "vcsim finds a cluster only by its exact type, not as a ComputeResource"
NO_REFRESH = "vcsim answers RefreshDatastore and RefreshStorageInfo with nothing"
NO_CSV = "vcsim's counters know no CSV"
CANNOT = {
    "test_a_vm_comes_back_as_new": NO_BYTES,
    "test_in_place_brings_back_data_zeros_and_settings_and_writes_no_more_than_differs": NO_BYTES,
    "test_in_place_looks_only_at_what_changed_since_the_archive": NO_BYTES,
    "test_in_place_compares_everything_where_tracking_has_missed_a_change": NO_BYTES,
    "test_a_second_archive_reads_changes_alone_and_is_complete": NO_BYTES,
    "test_a_new_vm_is_archived_whole_after_a_recovery_in_place": NO_BYTES,
    "test_changed_areas_are_the_real_differences": NO_TRACKING,
    "test_areas_ascend_do_not_touch_and_lie_inside_the_disk": NO_TRACKING,
    "test_nothing_written_nothing_changed": NO_TRACKING,
    "test_changes_are_counted_from_the_archive_asked_for_not_from_the_last_snapshot": NO_TRACKING,
    "test_what_is_written_after_the_snapshot_does_not_count": NO_TRACKING,
    "test_allocated_areas_hold_all_data_also_what_was_there_before_tracking": NO_TRACKING,
    "test_the_change_id_of_another_tracking_is_not_trusted": NO_TRACKING,
    "test_changes_of_a_snapshot_that_has_gone_cannot_be_asked_for": NO_TRACKING,
    "test_the_datastores_are_those_of_the_inventory": NO_REFRESH,
    "test_a_datastore_that_becomes_slow_is_seen": NO_REFRESH,
    "test_a_datastore_that_fills_is_seen_and_takes_no_snapshot": "vcsim's datastores do not fill",
    "test_without_a_snapshot_there_is_no_growth": NO_REFRESH,
    "test_a_snapshot_grows_by_what_the_guest_writes_on_all_disks": NO_BYTES,
    "test_a_chain_of_snapshots_grows_as_a_whole": NO_BYTES,
    "test_a_removed_snapshot_has_no_growth_left": NO_BYTES,
    "test_the_busier_vm_has_the_higher_load": NO_CSV,
    "test_a_recovered_vm_is_configured_like_its_original": EXACT_TYPE,
    "test_a_new_vm_is_off_and_its_disks_are_empty": NO_BYTES,
    "test_what_is_written_in_any_order_is_read_back": NO_BYTES,
    "test_what_is_not_written_stays": NO_BYTES,
    "test_a_snapshot_recovered_as_new_is_equal_byte_for_byte": NO_BYTES,
    "test_a_recovered_vm_may_have_its_originals_identity_once_that_has_gone": EXACT_TYPE,
    "test_a_marked_vm_is_made_once": EXACT_TYPE,
    "test_a_name_that_is_taken_is_refused_with_advice": "vcsim lets VMs have the same name",
    "test_a_vm_is_brought_back_to_its_configuration": NO_BYTES,
    "test_destroying_twice_is_harmless": EXACT_TYPE,
    "test_a_vapp_is_made_once_and_starts_its_vms_in_the_old_order": "vcsim does not know VirtualApp.UpdateConfig",
    "test_removal_keeps_what_the_guest_wrote_meanwhile": NO_BYTES,
    "test_a_snapshot_is_read_as_it_was_while_the_guest_goes_on_writing": NO_BYTES,
    "test_a_disk_is_read_by_several_threads_at_once": NO_BYTES,
    "test_bytes_outside_the_disk_are_refused": NO_BYTES,
}


@contextmanager
def running(folder: Path) -> Iterator[Connection]:
    assert BINARY
    pem = certificate.ensure(folder, "127.0.0.1")
    pipe, silence = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen([BINARY, str(pem)], stdin=pipe, stdout=pipe, stderr=silence, text=True) as process:
        assert process.stdout
        host, _, port = process.stdout.readline().strip().partition(":")
        yield Connection(
            host=host, port=int(port), username=USERNAME, password=PASSWORD, certificate_pem=certificate_only(pem)
        )


class VcsimWorld:
    transport = "datastore"

    def __init__(self, connection: Connection, folder: Path) -> None:
        self.connection, self._spare = connection, folder
        self.platform: VSpherePlatform = connect(connection)
        self.session = Session(connection)
        self._folder, self._pool, self._host = self._places()
        shop = self._call(self._make_vapp)._moId
        self._make("shop-db", (MIB, MIB), shop)
        self._make("shop-web", (MIB,), shop)
        self._make("stray", (MIB,))

    def _call(self, request: Any) -> Any:
        return self.session.call(request, repeatable=False)

    def _places(self) -> tuple[str, str, str]:
        found = read_all(self.session, {vim.Folder: ("name",), vim.ResourcePool: ("name",), vim.HostSystem: ("name",)})
        folder = next(each.ref for each in found if each.kind is vim.Folder and each.values["name"] == "vm")
        pool = next(each.ref for each in found if each.kind is vim.ResourcePool)
        return folder, pool, next(each.ref for each in found if each.kind is vim.HostSystem)

    def _make_vapp(self, stub: Any) -> Any:
        allocation = vim.ResourceAllocationInfo(
            reservation=0, expandableReservation=True, limit=-1, shares=vim.SharesInfo(level="normal", shares=4000)
        )
        spec = vim.ResourceConfigSpec(cpuAllocation=allocation, memoryAllocation=allocation)
        folder = vim.Folder(self._folder, stub)
        return vim.ResourcePool(self._pool, stub).CreateVApp("shop", spec, vim.vApp.VAppConfigSpec(), folder)

    def _make(self, name: str, disks: Sequence[int], vapp_ref: str | None = None) -> str:
        def request(stub: Any) -> Any:
            host = vim.HostSystem(self._host, stub)
            if vapp_ref:
                return vim.VirtualApp(vapp_ref, stub).CreateChildVM_Task(spec_of(name, disks), host)
            pool = vim.ResourcePool(self._pool, stub)
            return vim.Folder(self._folder, stub).CreateVM_Task(spec_of(name, disks), pool, host)

        ref = str(wait(self.session, self._call(request), TIMEOUT_S)._moId)
        self.platform.power(ref, True)
        return ref

    def new_vm(self, disks: Sequence[int] = (MIB,), *, on: bool = True) -> Vm:
        name = f"vm-{next(NUMBERS)}"
        self.platform.power(self._make(name, disks), on)
        return vm_named(self.platform, name)

    def guest_writes(self, vm: Vm, disk_key: int, start: int, data: bytes) -> None:
        raise NotImplementedError(NO_BYTES)

    def slow_down(self, datastore: str, latency_ms: int) -> None:
        raise NotImplementedError(NO_BYTES)

    def fill(self, datastore: str) -> None:
        raise NotImplementedError(NO_BYTES)

    def other_certificate(self) -> str:
        return certificate_only(certificate.ensure(self._spare, "127.0.0.1"))

    def close(self) -> None:
        self.platform.close()
        self.session.close()


def spec_of(name: str, disks: Sequence[int]) -> Any:
    device = vim.vm.device
    controller = device.ParaVirtualSCSIController(key=1000, busNumber=0, sharedBus="noSharing")
    added = [device.VirtualDeviceSpec(operation="add", device=controller)]
    for number, size in enumerate(disks):
        backing = device.VirtualDisk.FlatVer2BackingInfo(fileName="", diskMode="persistent", thinProvisioned=True)
        disk = device.VirtualDisk(
            key=2000 + number,
            controllerKey=1000,
            unitNumber=number,
            capacityInKB=size // 1024,
            capacityInBytes=size,
            backing=backing,
        )
        added.append(device.VirtualDeviceSpec(operation="add", fileOperation="create", device=disk))
    files = vim.vm.FileInfo(vmPathName="[LocalDS_0]")
    return vim.vm.ConfigSpec(name=name, files=files, numCPUs=1, memoryMB=512, guestId="otherGuest", deviceChange=added)
