"""What an exported disk leaves behind while it streams by: the last grains, and never more than the limit."""

import os
import random

from vsphere.disks.nfc import Spool

GRAIN = 4096


def test_the_last_grains_are_read_back_and_holes_are_zeros() -> None:
    chance, spool = random.Random(1), Spool(100 * GRAIN, GRAIN)
    disk = bytearray(60 * GRAIN)
    for number in sorted(chance.sample(range(60), 40)):
        data = chance.randbytes(GRAIN)
        spool.put(number * GRAIN, data)
        disk[number * GRAIN : (number + 1) * GRAIN] = data
    for _ in range(100):
        start = chance.randrange(len(disk))
        end = chance.randrange(start, len(disk) + 1)
        assert spool.read(start, end) == disk[start:end]
    assert spool.complete_from == 0
    spool.close()


def test_it_takes_no_more_room_than_it_may_and_says_what_it_has_dropped() -> None:
    spool = Spool(5 * GRAIN, GRAIN)
    for number in range(0, 40, 2):
        spool.put(number * GRAIN, bytes([number]) * GRAIN)
    assert os.fstat(spool._file.fileno()).st_size == 5 * GRAIN
    assert spool.complete_from == 29 * GRAIN, "the grain at 28 is the last that was dropped"
    assert spool.read(30 * GRAIN, 40 * GRAIN) == b"".join(
        bytes([number]) * GRAIN + bytes(GRAIN) for number in range(30, 40, 2)
    )
    spool.close()


def test_a_grain_that_ends_with_the_disk_may_be_short() -> None:
    spool = Spool(5 * GRAIN, GRAIN)
    spool.put(GRAIN, b"short")
    assert spool.read(0, GRAIN + 5) == bytes(GRAIN) + b"short"
    spool.close()
