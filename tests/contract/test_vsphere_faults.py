"""Every trouble that the lab can be told to make ends in the error, the sentence and the state written for it here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from backups import errors
from backups.errors import PlatformError
from backups.platform import Platform, Quiesce, Snapshot, SnapshotOrder, Vm
from tests.contract.test_snapshots import names_of, take
from tests.contract.worlds import LabWorld, connection_to
from vsphere import recovery, snapshots
from vsphere.platform import connect

SECRET = "host esx7.corp refused CORP\\svc-backup"
"""vCenter's own words, which are not for tenants."""
Deed = Callable[[Platform, Vm], Any]


def snapshot(platform: Platform, vm: Vm, quiesce: Quiesce = Quiesce.NO) -> Snapshot:
    result = platform.create_snapshots([SnapshotOrder(vm_ref=vm.ref, name="hotfirst-f")], quiesce=quiesce)[vm.ref]
    if isinstance(result, Exception):
        raise result
    return result


def quiesced_snapshot(platform: Platform, vm: Vm) -> Snapshot:
    return snapshot(platform, vm, Quiesce.REQUIRE)


def removal(platform: Platform, vm: Vm) -> None:
    platform.remove_snapshot("hotfirst-f", vm.ref)


def tracking(platform: Platform, vm: Vm) -> bool:
    return platform.enable_change_tracking(vm.ref)


def switch_off(platform: Platform, vm: Vm) -> None:
    platform.power(vm.ref, False)


def destruction(platform: Platform, vm: Vm) -> None:
    platform.destroy_vm(vm.ref)


def look(platform: Platform, vm: Vm) -> Any:
    return platform.inventory()


def changes(platform: Platform, vm: Vm) -> Any:
    tracking(platform, vm)
    taken = snapshot(platform, vm)
    return list(platform.changed_areas(taken, vm.disks[0], None))


def description(platform: Platform, vm: Vm) -> Any:
    return platform.describe(vm.ref)


@dataclass(frozen=True)
class Case:
    deed: Deed
    where: str
    """`calls` or `tasks`."""
    method: str
    fault: str
    error: type[PlatformError]
    tenant: str
    provider: str
    fields: dict[str, Any] = field(default_factory=dict)
    prepared: Deed | None = None

    def __str__(self) -> str:
        return f"{self.method}-{self.fault}"


TAKE, REMOVE, SWITCH = "CreateSnapshot_Task", "RemoveSnapshot_Task", "ReconfigVM_Task"
CASES = [
    Case(snapshot, "tasks", TAKE, "SnapshotFault", errors.SnapshotFailed, "could not be taken", SECRET),
    Case(snapshot, "tasks", TAKE, "TooManySnapshotLevels", errors.SnapshotFailed, "as many snapshots", "consolidation"),
    Case(snapshot, "tasks", TAKE, "SnapshotIncompatibleDeviceInVm", errors.SnapshotFailed, "has a device", SECRET),
    Case(snapshot, "tasks", TAKE, "SnapshotDisabled", errors.SnapshotFailed, "switched off for this VM", SECRET),
    Case(snapshot, "tasks", TAKE, "MultipleSnapshotsNotSupported", errors.SnapshotFailed, "switched off", SECRET),
    Case(quiesced_snapshot, "tasks", TAKE, "ApplicationQuiesceFault", errors.SnapshotFailed, "VMware Tools", SECRET),
    Case(quiesced_snapshot, "tasks", TAKE, "FilesystemQuiesceFault", errors.SnapshotFailed, "VMware Tools", SECRET),
    Case(quiesced_snapshot, "tasks", TAKE, "ToolsUnavailable", errors.SnapshotFailed, "start them", "Tools do not run"),
    Case(
        snapshot,
        "tasks",
        TAKE,
        "NoDiskSpace",
        errors.SnapshotFailed,
        "datastore ssd9 is full",
        "datastore ssd9 is full",
        {"datastore": "ssd9"},
    ),
    Case(
        snapshot,
        "tasks",
        TAKE,
        "InaccessibleDatastore",
        errors.PlatformUnreachable,
        "datastore cannot be reached",
        "cannot reach the datastore ssd9",
        {"name": "ssd9"},
    ),
    Case(
        snapshot,
        "tasks",
        TAKE,
        "FileLocked",
        errors.DiskUnreadable,
        "in use by something else",
        "a.vmdk is locked",
        {"file": "a.vmdk"},
    ),
    Case(
        snapshot,
        "tasks",
        TAKE,
        "CannotAccessFile",
        errors.DiskUnreadable,
        "could not be opened",
        "file a.vmdk",
        {"file": "a.vmdk"},
    ),
    Case(
        snapshot,
        "calls",
        TAKE,
        "TaskInProgress",
        errors.SnapshotFailed,
        "Another task",
        "running on this VM in vCenter",
    ),
    Case(snapshot, "calls", TAKE, "ConcurrentAccess", errors.SnapshotFailed, "Another task", "in vCenter"),
    Case(
        snapshot,
        "calls",
        TAKE,
        "QuestionPending",
        errors.SnapshotFailed,
        "with a question",
        "More space?",
        {"text": "More space?"},
    ),
    Case(snapshot, "calls", TAKE, "InvalidState", errors.SnapshotFailed, "does not allow this", SECRET),
    Case(snapshot, "tasks", TAKE, "HostNotConnected", errors.PlatformUnreachable, "not connected", "look at the host"),
    Case(snapshot, "tasks", TAKE, "HostCommunication", errors.PlatformUnreachable, "cannot be reached", "VM's host"),
    Case(snapshot, "tasks", TAKE, "Timedout", errors.PlatformUnreachable, "did not finish in time", SECRET),
    Case(snapshot, "tasks", TAKE, "RequestCanceled", errors.PlatformUnreachable, "did not finish in time", SECRET),
    Case(
        snapshot,
        "calls",
        TAKE,
        "NoPermission",
        errors.PermissionMissing,
        "lacks a right",
        "privilege VirtualMachine.State.CreateSnapshot",
        {"privilegeId": "VirtualMachine.State.CreateSnapshot"},
    ),
    Case(snapshot, "calls", TAKE, "RestrictedVersion", errors.SnapshotFailed, "licence", SECRET),
    Case(snapshot, "calls", TAKE, "NotEnoughLicenses", errors.SnapshotFailed, "licence", SECRET),
    Case(snapshot, "calls", TAKE, "NotSupported", errors.SnapshotFailed, "does not support", SECRET),
    Case(snapshot, "tasks", TAKE, "SystemError", errors.SnapshotFailed, "refused", SECRET, {"reason": "odd"}),
    Case(
        removal, "tasks", REMOVE, "SnapshotFault", errors.SnapshotFailed, "could not be removed", SECRET, {}, snapshot
    ),
    Case(
        removal,
        "tasks",
        REMOVE,
        "FileLocked",
        errors.SnapshotFailed,
        "tried again later",
        "is locked",
        {"file": "a"},
        snapshot,
    ),
    Case(
        removal,
        "calls",
        REMOVE,
        "NoPermission",
        errors.PermissionMissing,
        "lacks a right",
        "X.Y",
        {"privilegeId": "X.Y"},
        snapshot,
    ),
    Case(tracking, "tasks", SWITCH, "ResourceInUse", PlatformError, "is in use", "scsi0 is in use", {"name": "scsi0"}),
    Case(tracking, "tasks", SWITCH, "InvalidVmConfig", errors.RecoveryRefused, "cannot be made", SECRET),
    Case(tracking, "calls", SWITCH, "InvalidArgument", PlatformError, "did not accept", SECRET),
    Case(switch_off, "tasks", "PowerOffVM_Task", "InvalidHostState", errors.PlatformUnreachable, "host", "maintenance"),
    Case(
        destruction,
        "tasks",
        "Destroy_Task",
        "FileNotFound",
        errors.NotFound,
        "no longer on its datastore",
        "a.vmdk",
        {"file": "a.vmdk"},
        switch_off,
    ),
    Case(
        look,
        "calls",
        "CreateContainerView",
        "NoPermission",
        errors.PermissionMissing,
        "lacks a right",
        "System.View",
        {"privilegeId": "System.View"},
    ),
    Case(
        look, "calls", "RetrievePropertiesEx", "NotAuthenticated", errors.LoginFailed, "keeps ending", "sessions left"
    ),
    Case(
        changes,
        "calls",
        "QueryChangedDiskAreas",
        "FileFault",
        errors.ChangeTrackingUnusable,
        "does not know the state",
        "file a.vmdk",
        {"file": "a.vmdk"},
    ),
    Case(changes, "calls", "QueryChangedDiskAreas", "NotSupported", errors.ChangeTrackingUnusable, "no answer", SECRET),
    Case(
        changes,
        "calls",
        "QueryChangedDiskAreas",
        "HostNotConnected",
        errors.PlatformUnreachable,
        "not connected",
        "state in vCenter",
    ),
    Case(
        description, "calls", "RetrievePropertiesEx", "RequestCanceled", errors.PlatformUnreachable, "in time", SECRET
    ),
]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "LOOK_AGAIN_S", (0, 0.05))
    monkeypatch.setattr(recovery, "LOOK_AGAIN_S", (0, 0.05))


def script(world: LabWorld, where: str, method: str, fault: dict[str, Any]) -> None:
    world.lab.lab.faults.want({where: {method: fault}})


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 30


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_fault_has_its_error_and_its_two_sentences_and_leaves_no_harm(lab_world: LabWorld, case: Case) -> None:
    platform, vm = lab_world.platform, lab_world.new_vm()
    if case.prepared:
        case.prepared(platform, vm)
    script(lab_world, case.where, case.method, {"fault": case.fault, "msg": SECRET} | case.fields)
    with pytest.raises(PlatformError) as caught:
        case.deed(platform, vm)
    error = caught.value
    assert type(error) is case.error
    assert case.tenant in str(error)
    assert case.provider in error.provider_message
    assert "esx7" not in str(error)
    assert str(error).endswith(".")
    assert error.retryable == case.error.retryable
    lab_world.lab.lab.faults.want({})
    if case.deed in (snapshot, quiesced_snapshot):
        assert names_of(platform, vm) == []
    case.deed(platform, vm)


def test_a_guest_that_cannot_rest_is_snapshotted_all_the_same_if_the_plan_only_tries(lab_world: LabWorld) -> None:
    platform, vm = lab_world.platform, lab_world.new_vm()
    for fault, told in (("FilesystemQuiesceFault", "No."), ("SnapshotFault", "An error occurred while quiescing.")):
        script(lab_world, "tasks", "CreateSnapshot_Task", {"fault": fault, "msg": told, "of": vm.name, "times": 1})
        assert not snapshot(platform, vm, Quiesce.TRY).quiesced
        removal(platform, vm)


def test_a_removal_that_stops_half_way_is_consolidated(lab_world: LabWorld) -> None:
    platform, vm = lab_world.platform, lab_world.new_vm()
    snapshot(platform, vm)
    lab_world.guest_writes(vm, 2000, 0, b"in the delta")
    script(lab_world, "tasks", "consolidation", {"fault": "FileLocked", "file": "a.vmdk", "msg": "Locked", "times": 1})
    removal(platform, vm)
    assert names_of(platform, vm) == []
    assert not lab_world.disk(vm, 2000).needs_consolidation


def test_a_consolidation_is_tried_again_while_a_file_is_locked(lab_world: LabWorld) -> None:
    platform, vm = lab_world.platform, lab_world.new_vm()
    taken = snapshot(platform, vm)
    lab_world.lab.lab.registry.objects[taken.ref].detach()
    locked = {"fault": "FileLocked", "file": "a.vmdk", "msg": SECRET, "times": 2}
    script(lab_world, "tasks", "ConsolidateVMDisks_Task", locked)
    assert platform.consolidate(vm.ref)
    assert not platform.consolidate(vm.ref)


def test_a_consolidation_that_never_succeeds_says_what_stands_in_its_way(lab_world: LabWorld) -> None:
    platform, vm = lab_world.platform, lab_world.new_vm()
    taken = snapshot(platform, vm)
    lab_world.lab.lab.registry.objects[taken.ref].detach()
    script(lab_world, "tasks", "ConsolidateVMDisks_Task", {"fault": "FileLocked", "file": "a.vmdk", "msg": SECRET})
    with pytest.raises(errors.SnapshotFailed, match="still need consolidation") as caught:
        platform.consolidate(vm.ref)
    assert "a.vmdk is locked" in caught.value.provider_message
    lab_world.lab.lab.faults.want({})
    assert platform.consolidate(vm.ref)


def test_users_snapshots_stay_whatever_happens_to_ours(lab_world: LabWorld) -> None:
    platform, vm = lab_world.platform, lab_world.new_vm()
    take(platform, vm, "before the upgrade")
    snapshot(platform, vm)
    take(platform, vm, "after the upgrade")
    script(lab_world, "tasks", "RemoveSnapshot_Task", {"fault": "TaskInProgress", "times": 1})
    removal(platform, vm)
    assert names_of(platform, vm) == ["after the upgrade", "before the upgrade"]


def test_missing_privileges_are_told_with_where_they_are_missing(lab_world: LabWorld) -> None:
    lab_world.lab.lab.faults.want({"missing_privileges": ["VApp.Export", "VApp.Import", "Alarm.Create"]})
    told = [(each.privilege, each.purpose, each.places) for each in lab_world.platform.missing_privileges()]
    assert told == [("VApp.Export", "back up", ("Lab",)), ("VApp.Import", "recover", ("Lab",))]


def test_a_login_that_vcenter_refuses_for_its_age_says_so(lab_world: LabWorld) -> None:
    script(lab_world, "calls", "Login", {"fault": "PasswordExpired", "msg": SECRET})
    with pytest.raises(errors.LoginFailed) as caught:
        connect(connection_to(lab_world.lab))
    assert "has expired" in caught.value.provider_message
    assert "svc-backup" not in str(caught.value)


def test_a_fault_of_another_vm_does_not_matter(lab_world: LabWorld) -> None:
    vm = lab_world.new_vm()
    script(lab_world, "tasks", "CreateSnapshot_Task", {"fault": "SnapshotFault", "msg": "No.", "of": "another VM"})
    assert snapshot(lab_world.platform, vm)
