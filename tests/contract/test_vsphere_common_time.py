from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backups.platform import Snapshot, SnapshotOrder
from tests.contract.worlds import LabWorld, connection_to
from vsphere.lab import wire
from vsphere.lab.content import many
from vsphere.lab.server import LabServer
from vsphere.platform import VSpherePlatform, connect

VMS = 200


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[VSpherePlatform]:
    lab = LabServer(tmp_path, spec=many(VMS, disk_mib=1), load_scale=0).start()
    platform = connect(connection_to(lab))
    yield platform
    platform.close()
    lab.stop()


def test_two_hundred_snapshots_at_a_common_time_lie_within_two_seconds(crowd: VSpherePlatform) -> None:
    vms = crowd.inventory().vms
    at = datetime.now(UTC) + timedelta(seconds=3)
    results = crowd.create_snapshots([SnapshotOrder(vm_ref=vm.ref, name="hotfirst-common") for vm in vms], at=at)
    times = [result.taken_at for result in results.values() if isinstance(result, Snapshot)]
    assert len(times) == VMS
    assert min(times) >= at
    assert max(times) - min(times) < timedelta(seconds=2)


def test_the_common_time_is_told_by_vcenters_clock(lab_world: LabWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = timedelta(hours=5)
    monkeypatch.setattr(wire, "now", lambda: datetime.now(UTC) + ahead)
    vm = lab_world.new_vm()
    at = datetime.now(UTC) + ahead + timedelta(seconds=0.5)
    taken = lab_world.platform.create_snapshots([SnapshotOrder(vm_ref=vm.ref, name="hotfirst-at")], at=at)[vm.ref]
    assert isinstance(taken, Snapshot)
    assert at <= taken.taken_at < at + timedelta(seconds=30)
