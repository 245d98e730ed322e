"""Answers of QueryChangedDiskAreas that the lab does not give."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from backups.errors import ChangeTrackingUnusable, NotFound, PlatformUnreachable
from backups.platform import Area, Disk, Snapshot, SnapshotDisk
from vsphere import changes

DISK = Disk(key=2000, label="Hard disk 1", capacity_bytes=1000, datastore="ssd1", path="[ssd1] a/a.vmdk")
SNAPSHOT = Snapshot(vm_ref="vm-1", ref="snapshot-1", name="hotfirst-1", taken_at=datetime.now(UTC), quiesced=False)
Info = vim.VirtualMachine.DiskChangeInfo


class ScriptedSession:
    """Gives prepared answers by start offset and remembers the offsets asked for."""

    def __init__(self, answers: dict[int, Any]) -> None:
        self._answers = answers
        self.asked: list[int] = []

    def call(self, request: Any) -> Any:
        return request(self)

    def InvokeMethod(self, mo: Any, info: Any, args: Sequence[Any]) -> Any:  # noqa: N802 - pyVmomi's name
        self.asked.append(args[2])
        answer = self._answers[args[2]]
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(start: int, length: int, *areas: tuple[int, int]) -> Any:
    extents = [Info.DiskChangeExtent(start=at, length=size) for at, size in areas]
    return Info(startOffset=start, length=length, changedArea=extents)


@pytest.fixture(autouse=True)
def change_id(monkeypatch: pytest.MonkeyPatch) -> None:
    disks = (SnapshotDisk(disk=DISK, change_id="aa/7"),)
    monkeypatch.setattr(changes, "snapshot_disks", lambda *_: disks)


def areas(session: ScriptedSession, since: str | None = "aa/3") -> list[Area]:
    return list(changes.changed_areas(session, SNAPSHOT, DISK, since))  # type: ignore[arg-type]


def test_every_slice_is_asked_for_and_never_beyond_the_end() -> None:
    session = ScriptedSession({0: answer(0, 400, (0, 10)), 400: answer(400, 600, (990, 10))})
    assert areas(session) == [Area(start=0, length=10), Area(start=990, length=10)]
    assert session.asked == [0, 400]


def test_areas_that_touch_over_the_border_of_slices_become_one() -> None:
    session = ScriptedSession({0: answer(0, 400, (300, 100)), 400: answer(400, 600, (400, 50), (420, 100))})
    assert areas(session) == [Area(start=300, length=220)]


def test_areas_end_with_the_disk() -> None:
    assert areas(ScriptedSession({0: answer(0, 1000, (900, 65536))})) == [Area(start=900, length=100)]


def test_an_answer_that_does_not_get_on_is_not_believed() -> None:
    with pytest.raises(ChangeTrackingUnusable, match="stops at byte 400"):
        areas(ScriptedSession({0: answer(0, 400), 400: answer(400, 0)}))


@pytest.mark.parametrize(
    "fault", [vim.fault.FileFault(file="a.vmdk", msg="Bad change id"), vmodl.fault.InvalidArgument(msg="Bad change id")]
)
def test_a_refusal_says_why_everything_must_be_read(fault: Exception) -> None:
    with pytest.raises(ChangeTrackingUnusable, match="does not know the state of Hard disk 1") as caught:
        areas(ScriptedSession({0: fault}))
    assert "Bad change id" in caught.value.provider_message


def test_a_missing_privilege_is_named_and_everything_read() -> None:
    fault = vim.fault.NoPermission(privilegeId="VirtualMachine.Provisioning.DiskRandomRead")
    with pytest.raises(ChangeTrackingUnusable, match="lacks the right") as caught:
        areas(ScriptedSession({0: fault}))
    assert "DiskRandomRead" in caught.value.provider_message


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (vmodl.fault.ManagedObjectNotFound(obj=vim.vm.Snapshot("snapshot-1")), NotFound),
        (vmodl.fault.HostNotConnected(), PlatformUnreachable),
    ],
)
def test_trouble_that_is_not_about_changes_is_not_taken_for_it(fault: Exception, error: type[Exception]) -> None:
    with pytest.raises(error):
        areas(ScriptedSession({0: fault}))


def test_tracking_that_began_anew_is_not_trusted() -> None:
    session = ScriptedSession({})
    with pytest.raises(ChangeTrackingUnusable, match="reset"):
        areas(session, "bb/3")
    assert session.asked == []


def test_allocated_areas_are_asked_for_with_a_star() -> None:
    assert areas(ScriptedSession({0: answer(0, 1000)}), None) == []
