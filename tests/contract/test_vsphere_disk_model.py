"""A disk against a byte string, through the wire: whatever happens to a VM, every snapshot reads as the disk was, and
what change tracking tells leads from any earlier state to it."""

import os
import random

import pytest

from backups.errors import ChangeTrackingUnusable
from backups.platform import Snapshot
from tests.contract.test_snapshots import take
from tests.contract.worlds import MIB, NUMBERS, LabWorld

SIZE = 2 * MIB
STEPS = int(os.environ.get("DISK_MODEL_STEPS", "12"))
"""For each of the 20 seeds."""


class Model:
    def __init__(self, world: LabWorld, seed: int) -> None:
        self.world, self.platform, self.chance = world, world.platform, random.Random(seed)
        self.vm = world.new_vm((SIZE,))
        self.platform.enable_change_tracking(self.vm.ref)
        self.now = bytearray(SIZE)
        self.held: dict[str, tuple[Snapshot, bytes]] = {}
        self.marks: list[tuple[str, bytes]] = []
        self.compared = 0

    def write(self) -> None:
        start = self.chance.randrange(SIZE)
        data = self.chance.randbytes(min(self.chance.choice((512, 9000, 200_000)), SIZE - start))
        self.world.guest_writes(self.vm, 2000, start, data)
        self.now[start : start + len(data)] = data

    def snapshot(self) -> None:
        name = f"{self.chance.choice(('hotfirst', 'a user'))}-{next(NUMBERS)}"
        snapshot = take(self.platform, self.vm, name)
        self.held[name] = snapshot, bytes(self.now)
        mark = self.platform.snapshot_disks(snapshot)[0].change_id
        assert mark
        self.marks.append((mark, bytes(self.now)))

    def remove(self) -> None:
        if self.held:
            name = self.chance.choice(list(self.held))
            self.platform.remove_snapshot(name, self.vm.ref)
            del self.held[name]

    def leave_files_behind(self) -> None:
        """A removal that a kill of the host cut in two."""
        if self.held:
            name = self.chance.choice(list(self.held))
            self.world.lab.lab.registry.objects[self.held.pop(name)[0].ref].detach()

    def consolidate(self) -> None:
        self.platform.consolidate(self.vm.ref)

    def restart(self) -> None:
        self.platform.power(self.vm.ref, False)
        self.platform.power(self.vm.ref, True)

    def check(self) -> None:
        """The newest snapshot and one other, and the changes to them from three states."""
        names = [*self.held]
        for name in {*names[-1:], *self.chance.sample(names, min(1, len(names)))}:
            snapshot, image = self.held[name]
            with self.platform.open_disk(snapshot, self.vm.disks[0]) as disk:
                assert disk.read(0, SIZE) == image
            for mark, before in [(None, bytes(SIZE)), *self.chance.sample(self.marks, min(3, len(self.marks)))]:
                self._compare(snapshot, image, mark, before)

    def _compare(self, snapshot: Snapshot, image: bytes, mark: str | None, before: bytes) -> None:
        try:
            areas = list(self.platform.changed_areas(snapshot, self.vm.disks[0], mark))
        except ChangeTrackingUnusable:
            return  # a mark newer than the snapshot
        patched = bytearray(before)
        for area in areas:
            patched[area.start : area.end] = image[area.start : area.end]
        assert patched == image
        self.compared += 1


@pytest.mark.parametrize("seed", range(20))
def test_snapshots_and_changes_tell_the_truth_whatever_happens_to_a_vm(lab_world: LabWorld, seed: int) -> None:
    model = Model(lab_world, seed)
    steps = [model.write] * 4 + [model.snapshot] * 2 + [model.remove, model.leave_files_behind, model.consolidate]
    for _ in range(STEPS):
        model.chance.choice([*steps, model.restart])()
        model.check()
    assert model.compared >= STEPS // 4
    for name in model.held:
        lab_world.platform.remove_snapshot(name, model.vm.ref)
    lab_world.platform.power(model.vm.ref, False)
    with lab_world.platform.open_current_disk(model.vm.ref, 2000) as disk:
        assert disk.read(0, SIZE) == model.now
