from hypothesis import given, settings
from hypothesis import strategies as st

from backups.archive.maps import CHUNK_BYTES, PAGE_CHUNKS, chunk_count, touched
from backups.platform import Area

PAGE_BYTES = PAGE_CHUNKS * CHUNK_BYTES
capacities = st.integers(1, 5 * PAGE_BYTES)
areas = st.lists(st.builds(lambda s, n: Area(start=s, length=n), st.integers(0, 6 * PAGE_BYTES), st.integers(0, 2**28)))


@settings(max_examples=60, deadline=None)
@given(areas=areas, capacity_bytes=capacities)
def test_exactly_the_chunks_that_areas_touch_are_read_once_and_in_order(areas, capacity_bytes):
    """Whatever the order and the overlaps of the areas, also where they reach over the disk's end."""
    last = chunk_count(capacity_bytes) - 1
    expected = set()
    for area in areas:
        if area.length:
            expected.update(range(area.start // CHUNK_BYTES, min(last, (area.end - 1) // CHUNK_BYTES) + 1))
    planned = [chunk for page in touched(areas, capacity_bytes) for chunks in page.ranges for chunk in chunks]
    assert planned == sorted(expected)


@given(areas=st.none() | areas, capacity_bytes=capacities)
@settings(max_examples=30, deadline=None)
def test_no_range_crosses_a_page_and_each_page_comes_once(areas, capacity_bytes):
    pages = list(touched(areas, capacity_bytes))
    numbers = [page.page for page in pages]
    assert numbers == sorted(set(numbers))
    for page in pages:
        assert all(chunk // PAGE_CHUNKS == page.page for chunks in page.ranges for chunk in (chunks[0], chunks[-1]))


@given(capacity_bytes=capacities)
@settings(max_examples=20, deadline=None)
def test_no_areas_means_the_whole_disk(capacity_bytes):
    planned = sum(len(chunks) for page in touched(None, capacity_bytes) for chunks in page.ranges)
    assert planned == chunk_count(capacity_bytes)
