"""What must hold whatever the way of the bytes: incrementals for ever equal a full read, under a guest that writes, and
a real file system comes back whole."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from backups.archive.keys import TenantKeys
from backups.archive.reader import ArchiveReader
from backups.archive.store import FolderStore
from backups.archive.writer import ArchiveWriter
from backups.engine.archiving import Archived, archive_vm
from backups.engine.recovering import config_of, recover_as_new, recover_in_place, whole_chunks
from backups.platform import Quiesce, Snapshot, SnapshotOrder, Vm
from tests.contract.test_archive_and_recover import Idle
from tests.contract.test_recovery import here
from tests.contract.worlds import MIB, NUMBERS, connection_to, vm_named
from tests.unit.vsphere.test_nbd import SERVERS, serving
from vsphere.disks import datastore
from vsphere.imports import Imports
from vsphere.lab.content import LabSpec, VmSpec
from vsphere.lab.pools import ResourcePool
from vsphere.lab.server import LabServer
from vsphere.platform import VSpherePlatform, connect

BUSY = VmSpec(name="db", disk_bytes=(24 * MIB,), write_kbps=3000.0)
WAYS = ("datastore", "nfc", "nbd")


class Site:
    """A busy VM with a real file system, and where its archives go."""

    def __init__(self, lab: LabServer, platform: VSpherePlatform, folder: Path) -> None:
        self.lab, self.platform = lab, platform
        self.store, self.keys = FolderStore.create(folder / "repository"), TenantKeys.generate("acme")
        platform.enable_change_tracking(self.vm.ref)

    @property
    def vm(self) -> Vm:
        return vm_named(self.platform, "db")

    def flat(self, vm_ref: str) -> Path:
        (_, disk) = next(iter(self.lab.lab.vms[vm_ref].disks()))
        return Path(disk.flat)

    def snapshot(self) -> Snapshot:
        order = SnapshotOrder(vm_ref=self.vm.ref, name=f"hotfirst-{next(NUMBERS)}")
        taken = self.platform.create_snapshots([order], quiesce=Quiesce.NO)[order.vm_ref]
        assert isinstance(taken, Snapshot)
        return taken

    def archive(self, snapshot: Snapshot, previous: ArchiveReader | None) -> tuple[Archived, ArchiveReader]:
        with ArchiveWriter(self.store, self.keys.without_private()) as writer:
            archived = archive_vm(
                platform=self.platform,
                snapshot=snapshot,
                writer=writer,
                archive_id=snapshot.name,
                previous=previous,
                extra={},
                watch=Idle(),
            )
        return archived, ArchiveReader(self.store, self.keys, snapshot.name)

    def truth(self, snapshot: Snapshot) -> bytes:
        """A full read at the snapshot, on the lab's side of the wire."""
        ((_, disk),) = self.lab.lab.vms[snapshot.vm_ref].disks()
        number = self.lab.lab.registry.objects[snapshot.ref].number  # type: ignore[attr-defined]
        return bytes(disk.read(0, disk.meta.capacity_bytes, number))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    lab = LabServer(tmp_path / "lab", spec=LabSpec(vms=(BUSY,)), sample_s=0.2, load_scale=1.0).start()
    platform = connect(connection_to(lab))
    yield Site(lab, platform, tmp_path)
    platform.close()
    lab.stop()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Only this one works."""
    with ExitStack() as stack:
        if request.param != "datastore":
            site.lab.lab.faults.want({"folder_status": {"*": 500}})
        if request.param == "nbd":
            # With one snapshot on top the flat file stands still: an NBD server of the operator's would serve the same.
            address = stack.enter_context(serving(SERVERS["nbdkit"], site.flat(site.vm.ref)))
            monkeypatch.setenv("HOTFIRST_NBD", f"nbd+unix:///?socket={address.unix}")
        yield request.param


def content(archive: ArchiveReader) -> bytes:
    return b"".join(data for _, data in whole_chunks(archive, archive.disks[0]))


def test_a_full_and_ten_incrementals_equal_a_full_read_each_time(site: Site, way: str) -> None:
    previous: ArchiveReader | None = None
    changed = 0
    for number in range(11):
        snapshot = site.snapshot()
        archived, archive = site.archive(snapshot, previous)
        wanted = site.truth(snapshot)
        assert archived.transport.startswith(f"{way}: ")
        assert archived.full == (number == 0), archived.reason
        assert content(archive) == wanted
        if previous is not None:
            changed += content(previous) != wanted
        site.platform.remove_snapshot(snapshot.name, snapshot.vm_ref)
        previous = archive
    assert changed >= 5, "the guest has been writing all along"


def check_file_system(flat: Path) -> None:
    if not shutil.which("e2fsck"):
        pytest.skip("e2fsck is not installed")
    done = subprocess.run(["e2fsck", "-fn", str(flat)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_system_comes_back_whole_over_each_way_out(site: Site, way: str) -> None:
    _, archive = site.archive(site.snapshot(), None)
    name = f"new-{next(NUMBERS)}"
    done = recover_as_new(
        site.platform,
        archive,
        config=config_of(archive),
        name=name,
        marker=name,
        target=here(site.platform),
        created=lambda _: None,
        watch=Idle(),
    )
    check_file_system(site.flat(done.vm_ref))
    assert site.flat(done.vm_ref).read_bytes() == content(archive)


@pytest.mark.parametrize("way_in", ["stream", "ranges", "whole file"])
def test_a_file_system_comes_back_whole_over_each_way_in(
    site: Site, way_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise NotImplementedError

    if way_in == "stream":
        monkeypatch.setattr(datastore, "open_for_writing", refused)
    else:
        monkeypatch.delattr(ResourcePool, "ImportVApp")
        monkeypatch.setattr(Imports, "add", refused)
    if way_in == "whole file":
        monkeypatch.setattr(datastore, "takes_ranges", lambda *_: False)
    _, archive = site.archive(site.snapshot(), None)
    target = here(site.platform)
    done = recover_as_new(
        site.platform,
        archive,
        config=config_of(archive),
        name="new",
        marker="new",
        target=target,
        created=lambda _: None,
        watch=Idle(),
    )
    check_file_system(site.flat(done.vm_ref))
    assert site.flat(done.vm_ref).read_bytes() == content(archive)


def test_a_file_system_comes_back_whole_in_place(site: Site) -> None:
    snapshot = site.snapshot()
    _, archive = site.archive(snapshot, None)
    site.platform.remove_snapshot(snapshot.name, snapshot.vm_ref)
    ref = site.vm.ref
    site.platform.power(ref, False)
    with site.platform.open_disk_for_writing(ref, 2000) as writer:
        writer.write(0, b"\xff" * 2 * MIB)  # the guest's disaster
    recover_in_place(site.platform, archive, vm_ref=ref, watch=Idle())
    check_file_system(site.flat(ref))
    assert site.flat(ref).read_bytes() == content(archive)
