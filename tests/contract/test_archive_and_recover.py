"""The engine on each platform: what is archived comes back, in place and as new, byte for byte."""

import random
from pathlib import Path
from typing import Any

import pytest

from backups.archive.keys import TenantKeys
from backups.archive.reader import ArchiveReader
from backups.archive.store import FolderStore
from backups.archive.writer import ArchiveWriter
from backups.engine.archiving import Archived, archive_vm
from backups.engine.recovering import config_of, differences, recover_as_new, recover_in_place
from backups.platform import Quiesce, Snapshot, SnapshotOrder, Vm
from tests.contract.test_recovery import here
from tests.contract.worlds import MIB, NUMBERS, World


class Idle:
    def check(self) -> None: ...

    def report(self, **progress: Any) -> None: ...


class Keeper:
    """A tenant's store on one platform."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.platform = world, world.platform
        self.store, self.keys = FolderStore.create(folder / "repository"), TenantKeys.generate("acme")

    def archive(self, vm: Vm, previous: ArchiveReader | None = None) -> tuple[Archived, ArchiveReader]:
        name = f"hotfirst-{next(NUMBERS)}"
        self.platform.enable_change_tracking(vm.ref)
        order = SnapshotOrder(vm_ref=vm.ref, name=name)
        snapshot = self.platform.create_snapshots([order], quiesce=Quiesce.NO)[vm.ref]
        assert isinstance(snapshot, Snapshot)
        with ArchiveWriter(self.store, self.keys.without_private()) as writer:
            archived = archive_vm(
                platform=self.platform,
                snapshot=snapshot,
                writer=writer,
                archive_id=name,
                previous=previous,
                extra={},
                watch=Idle(),
            )
        self.platform.remove_snapshot(name, vm.ref)
        return archived, ArchiveReader(self.store, self.keys, name)


@pytest.fixture
def keeper(world: World, tmp_path: Path) -> Keeper:
    return Keeper(world, tmp_path)


@pytest.fixture
def vm(world: World) -> Vm:
    """Two disks of some chunks each, partly written."""
    made = world.new_vm((4 * MIB, 2 * MIB))
    chance = random.Random(5)
    for key, start in ((2000, 0), (2000, 3 * MIB), (2001, MIB)):
        world.guest_writes(made, key, start, chance.randbytes(600_000))
    return made


def test_a_vm_comes_back_as_new(keeper: Keeper, vm: Vm) -> None:
    _, archive = keeper.archive(vm)
    name = f"new-{next(NUMBERS)}"
    target = here(keeper.platform)
    seen: list[str] = []
    done = recover_as_new(
        keeper.platform,
        archive,
        config=config_of(archive),
        name=name,
        marker=name,
        target=target,
        created=seen.append,
        watch=Idle(),
    )
    assert seen == [done.vm_ref]
    assert differences(keeper.platform, archive, done.vm_ref) == []


def test_in_place_brings_back_data_zeros_and_settings_and_writes_no_more_than_differs(keeper: Keeper, vm: Vm) -> None:
    _, archive = keeper.archive(vm)
    keeper.world.guest_writes(vm, 2000, 2 * MIB, b"where zeros were")
    keeper.world.guest_writes(vm, 2001, MIB, b"where data was")
    keeper.platform.power(vm.ref, False)
    assert differences(keeper.platform, archive, vm.ref) != []
    done = recover_in_place(keeper.platform, archive, vm_ref=vm.ref, watch=Idle())
    assert differences(keeper.platform, archive, vm.ref) == []
    assert done.bytes_written == 2 * 256 * 1024


class Counting(Idle):
    """What the recovery has looked at."""

    def __init__(self) -> None:
        self.chunks = 0

    def check(self) -> None:
        self.chunks += 1


def test_in_place_looks_only_at_what_changed_since_the_archive(keeper: Keeper, vm: Vm) -> None:
    _, archive = keeper.archive(vm)
    keeper.world.guest_writes(vm, 2000, 2 * MIB, b"where zeros were")
    keeper.world.guest_writes(vm, 2001, MIB, b"where data was")
    keeper.platform.power(vm.ref, False)
    watch = Counting()
    recover_in_place(keeper.platform, archive, vm_ref=vm.ref, watch=watch)
    assert watch.chunks == 2
    assert differences(keeper.platform, archive, vm.ref) == []


def test_in_place_compares_everything_where_tracking_has_missed_a_change(
    keeper: Keeper, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, archive = keeper.archive(vm)
    keeper.world.guest_writes(vm, 2000, 2 * MIB, b"where zeros were")
    keeper.platform.power(vm.ref, False)
    monkeypatch.setattr(keeper.platform, "changed_since", lambda *_: iter(()))
    watch = Counting()
    recover_in_place(keeper.platform, archive, vm_ref=vm.ref, watch=watch)
    assert watch.chunks > 2
    assert differences(keeper.platform, archive, vm.ref) == []


def test_a_second_archive_reads_changes_alone_and_is_complete(keeper: Keeper, vm: Vm) -> None:
    _, first = keeper.archive(vm)
    keeper.world.guest_writes(vm, 2000, 1_500_000, b"changed")
    archived, second = keeper.archive(vm, first)
    assert not archived.full
    assert archived.bytes_read == 256 * 1024
    keeper.platform.power(vm.ref, False)
    assert differences(keeper.platform, second, vm.ref) == []
    assert differences(keeper.platform, first, vm.ref) != []


def test_a_new_vm_is_archived_whole_after_a_recovery_in_place(keeper: Keeper, vm: Vm) -> None:
    """What the recovery wrote is tracked as well: the next archive is what the disks hold."""
    _, first = keeper.archive(vm)
    keeper.world.guest_writes(vm, 2000, 2 * MIB, b"x" * 300_000)
    keeper.platform.power(vm.ref, False)
    recover_in_place(keeper.platform, first, vm_ref=vm.ref, watch=Idle())
    _, second = keeper.archive(vm, first)
    assert differences(keeper.platform, second, vm.ref) == []
