"""LabDisk against plain byte strings."""

import os
import random
import threading
from pathlib import Path

import pytest

from vsphere.lab.changes import ChangeIdInvalid
from vsphere.lab.disk import LabDisk

BLOCK = 65536
SIZE = 20 * BLOCK + 512
STEPS = int(os.environ.get("DISK_MODEL_STEPS", "60"))
"""For each of the 20 seeds."""


class Model:
    """What the disk must hold: now, and at each snapshot, with its changeId."""

    def __init__(self, path: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.disk = LabDisk.create(path / "vm" / "vm", SIZE)
        self.now = bytearray(SIZE)
        self.held: dict[int, bytes] = {}
        self.marks: list[tuple[str, bytes]] = []
        self.next_snapshot = 1

    def write(self) -> None:
        start = self.random.randrange(SIZE)
        data = self.random.randbytes(min(self.random.choice((512, 4096, 100_000)), SIZE - start))
        self.disk.write(start, data)
        self.now[start : start + len(data)] = data

    def snapshot(self) -> None:
        number, self.next_snapshot = self.next_snapshot, self.next_snapshot + 1
        mark = self.disk.meta.change_id
        self.disk.snapshot(number)
        self.held[number] = bytes(self.now)
        if mark:
            self.marks.append((mark, bytes(self.now)))

    def remove(self) -> None:
        if self.held:
            number = self.random.choice(list(self.held))
            del self.held[number]
            self.disk.remove_snapshot(number)

    def consolidate(self) -> None:
        self.disk.consolidate()

    def consolidate_in_part(self) -> None:
        number = self.disk._draining_number()
        if number is not None:
            self.disk._drain_some(number)

    def reopen(self) -> None:
        """As after a kill: nothing but the files is left."""
        self.disk.close()
        self.disk = LabDisk(self.disk.stem)

    def check(self) -> None:
        assert self.disk.read(0, SIZE) == self.now
        for number, image in self.held.items():
            assert self.disk.read(0, SIZE, number) == image

    def check_changes(self) -> None:
        """The old image with only the changed areas replaced is the new one."""
        for number, image in self.held.items():
            for mark, before in self.marks:
                try:
                    areas = all_areas(self.disk, number, mark)
                except ChangeIdInvalid:
                    continue  # Newer than this snapshot.
                patched = bytearray(before)
                for start, length in areas:
                    patched[start : start + length] = image[start : start + length]
                assert patched == image


def all_areas(disk: LabDisk, snapshot: int, since: str, max_areas: int = 3) -> list[tuple[int, int]]:
    found, start = [], 0
    while start < disk.meta.capacity_bytes:
        length, areas = disk.changed_areas(snapshot, start, since, max_areas)
        assert length > 0
        assert len(areas) <= max_areas
        found += areas
        start += length
    return found


@pytest.mark.parametrize("seed", range(20))
def test_it_holds_what_was_written_whatever_happens_to_its_snapshots(tmp_path: Path, seed: int) -> None:
    model = Model(tmp_path, seed)
    model.write()
    model.disk.enable_tracking(at_next_snapshot=False)
    steps = [model.write] * 8 + [model.snapshot, model.remove, model.consolidate, model.reopen]
    steps += [model.consolidate_in_part] * 2
    for _ in range(STEPS):
        model.random.choice(steps)()
        model.check()
    model.check_changes()
    model.disk.close()


def test_a_star_reports_what_was_allocated_before_tracking_began(tmp_path: Path) -> None:
    disk = LabDisk.create(tmp_path / "vm", SIZE)
    disk.write(5 * BLOCK, b"before")
    disk.snapshot(1)
    disk.write(7 * BLOCK, b"in a layer")
    disk.enable_tracking(at_next_snapshot=False)
    disk.write(9 * BLOCK, b"after")
    disk.snapshot(2)
    changed = {block for start, n in all_areas(disk, 2, "*") for block in range(start // BLOCK, (start + n) // BLOCK)}
    assert {5, 7, 9} <= changed
    assert changed <= {4, 5, 6, 7, 8, 9}
    with pytest.raises(ChangeIdInvalid):
        disk.changed_areas(1, 0, "*")


def test_tracking_of_a_running_vm_begins_with_its_next_snapshot(tmp_path: Path) -> None:
    disk = LabDisk.create(tmp_path / "vm", SIZE)
    disk.enable_tracking(at_next_snapshot=True)
    assert disk.meta.change_id is None
    disk.snapshot(1)
    frozen = disk.meta.of_snapshot(1)
    assert frozen is not None
    assert frozen.tracking is not None


def test_a_change_id_of_another_life_is_refused(tmp_path: Path) -> None:
    disk = LabDisk.create(tmp_path / "vm", SIZE)
    disk.enable_tracking(at_next_snapshot=False)
    old = disk.meta.change_id
    assert old is not None
    disk.disable_tracking()
    disk.enable_tracking(at_next_snapshot=False)
    disk.snapshot(1)
    for wrong in (old, "nonsense", f"{disk.meta.tracking}/99"):
        with pytest.raises(ChangeIdInvalid):
            disk.changed_areas(1, 0, wrong)


def test_zeros_written_to_a_hole_leave_it_a_hole(tmp_path: Path) -> None:
    disk = LabDisk.create(tmp_path / "vm", SIZE)
    disk.write(0, b"x" * BLOCK)
    disk.write_sparse(0, bytes(SIZE))
    assert disk.read(0, SIZE) == bytes(SIZE)
    assert disk.flat.stat().st_blocks * 512 <= 2 * BLOCK


def test_a_snapshot_stands_still_and_nothing_is_lost_while_others_write_and_layers_are_merged(tmp_path: Path) -> None:
    disk = LabDisk.create(tmp_path / "vm", SIZE)
    disk.write(0, os.urandom(SIZE))
    expected = bytearray(disk.read(0, SIZE))
    stop = threading.Event()

    def writer() -> None:
        source = random.Random(1)
        while not stop.is_set():
            start, data = source.randrange(SIZE - 4096), source.randbytes(4096)
            disk.write(start, data)
            expected[start : start + 4096] = data

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        for number in range(1, 9):
            disk.snapshot(number)
            image = disk.read(0, SIZE, number)
            assert disk.read(0, SIZE, number) == image
            disk.remove_snapshot(number)
            disk.consolidate()
    finally:
        stop.set()
        thread.join()
    assert disk.meta.layers == ()
    assert disk.read(0, SIZE) == expected
    assert disk.flat.read_bytes() == expected


def test_a_deleted_disk_leaves_no_file(tmp_path: Path) -> None:
    disk = LabDisk.create(tmp_path / "vm", SIZE)
    disk.enable_tracking(at_next_snapshot=False)
    disk.snapshot(1)
    disk.write(0, b"x")
    disk.delete()
    assert list(tmp_path.iterdir()) == []
