from backups.platform import DiskReader
from tests.fakes.disks import MemoryReader
from vsphere.disks.folder import Body
from vsphere.disks.spool import SpooledWriter

OLD = bytes(range(1, 201))


def written(*areas: tuple[int, bytes]) -> list[bytes]:
    """What was put, one entry a PUT."""
    puts: list[bytes] = []

    def put(body: Body) -> None:
        content = b"".join(body.parts())
        assert len(content) == body.length
        assert b"".join(body.parts()) == content, "a PUT that is sent again sends the same"
        puts.append(content)

    reader: DiskReader = MemoryReader(OLD, lambda: True)
    with SpooledWriter(reader, put) as writer:
        for start, data in areas:
            writer.write(start, data)
    writer.close()
    return puts


def test_what_is_not_written_is_fetched_and_put_again() -> None:
    assert written((50, b"\0" * 10)) == [OLD[:50] + bytes(10) + OLD[60:]]


def test_areas_may_overlap_and_the_later_wins() -> None:
    assert written((0, b"aaaa"), (2, b"bb"), (190, b"c" * 10)) == [b"aabb" + OLD[4:190] + b"c" * 10]


def test_a_disk_written_as_a_whole_is_not_fetched() -> None:
    assert written((100, b"y" * 100), (0, b"x" * 100)) == [b"x" * 100 + b"y" * 100]


def test_nothing_written_nothing_put() -> None:
    assert written() == []


def test_work_that_was_interrupted_puts_nothing() -> None:
    puts: list[Body] = []
    writer = SpooledWriter(MemoryReader(OLD, lambda: True), puts.append)
    writer.write(0, b"half")
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert puts == []
