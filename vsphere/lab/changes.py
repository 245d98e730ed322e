"""Which blocks of a frozen disk changed since a changeId.

Every block carries the epoch of its last write; a snapshot freezes a copy and begins the next epoch. A changeId is
`<tracking uuid>/<epoch>`. As on vSphere an answer covers only a slice of the disk and holds at most 2,000 areas.
"""

from array import array
from pathlib import Path

from vsphere.lab.blocks import BLOCK_BYTES
from vsphere.lab.layers import Frozen

MAX_AREAS = 2000
MIN_SLICE_BLOCKS = 256


class ChangeIdInvalid(Exception):
    """The changeId belongs to another life of this disk, or tracking was not on."""


def since(frozen: Frozen, change_id: str) -> int:
    """The epoch after which a write counts as a change; `*` asks for whatever was ever written."""
    if frozen.tracking is None:
        raise ChangeIdInvalid("Change tracking was not on when this snapshot was taken.")
    if change_id == "*":
        return 0
    tracking, _, epoch = change_id.partition("/")
    if tracking != frozen.tracking or not epoch.isdigit() or int(epoch) > frozen.epoch:
        raise ChangeIdInvalid(f"{change_id} is not a change id of this disk.")
    return int(epoch)


def load(path: Path) -> "array[int]":
    return array("I", path.read_bytes())


def changed_areas(
    epochs: "array[int]", since_epoch: int, start: int, capacity_bytes: int, max_areas: int
) -> tuple[int, list[tuple[int, int]]]:
    """How many bytes from `start` the answer covers, and the changed (start, length) areas in them."""
    block = start // BLOCK_BYTES
    stop = min(len(epochs), block + max(MIN_SLICE_BLOCKS, len(epochs) // 4))
    areas: list[tuple[int, int]] = []
    while block < stop and len(areas) < max_areas:
        first = block
        while block < stop and epochs[block] > since_epoch:
            block += 1
        if block > first:
            area_start = max(start, first * BLOCK_BYTES)
            areas.append((area_start, min(block * BLOCK_BYTES, capacity_bytes) - area_start))
        block += 1  # Either unchanged or the end of the slice.
    return min(min(block, stop) * BLOCK_BYTES, capacity_bytes) - start, areas
