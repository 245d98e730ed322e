"""What each disk consists of: the ids of its chunks, in pages that archives share. FORMAT.md, section 6."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from backups.errors import ArchiveDamaged
from backups.platform import Area

CHUNK_BYTES = 256 * 1024
ID_BYTES = 32
ZERO_ID = bytes(ID_BYTES)
"""Stands for a chunk, or a page, of nothing but zeros: neither is stored."""
PAGE_CHUNKS = 1024
CACHED_PAGES = 64


def chunk_count(capacity_bytes: int) -> int:
    return -(-capacity_bytes // CHUNK_BYTES)


def page_count(capacity_bytes: int) -> int:
    return -(-chunk_count(capacity_bytes) // PAGE_CHUNKS)


def chunk_length(capacity_bytes: int, chunk: int) -> int:
    """The last chunk of a disk may be shorter."""
    return min(CHUNK_BYTES, capacity_bytes - chunk * CHUNK_BYTES)


def chunks_in_page(capacity_bytes: int, page: int) -> int:
    return min(PAGE_CHUNKS, chunk_count(capacity_bytes) - page * PAGE_CHUNKS)


class DiskMap:
    """The ids of a disk's chunks; a page is loaded when it is looked at. Not for several threads at once."""

    def __init__(
        self, capacity_bytes: int, page_ids: Sequence[bytes], load: Callable[[bytes], bytes], archive_id: str = ""
    ) -> None:
        self.capacity_bytes, self.archive_id = capacity_bytes, archive_id
        self.page_ids = tuple(page_ids)
        self._load = load
        self._pages: OrderedDict[bytes, bytes] = OrderedDict()

    def page(self, number: int) -> bytes:
        page_id = self.page_ids[number]
        if page_id == ZERO_ID:
            return bytes(chunks_in_page(self.capacity_bytes, number) * ID_BYTES)
        if page_id not in self._pages:
            page = self._load(page_id)
            if len(page) != chunks_in_page(self.capacity_bytes, number) * ID_BYTES:
                raise ArchiveDamaged(f"Page {page_id.hex()} of a map has another length than its disk needs.")
            self._pages[page_id] = page
            if len(self._pages) > CACHED_PAGES:
                self._pages.popitem(last=False)
        return self._pages[page_id]

    def chunk_id(self, chunk: int) -> bytes:
        return _slot(self.page(chunk // PAGE_CHUNKS), chunk % PAGE_CHUNKS)

    def ids(self) -> Iterator[tuple[int, bytes]]:
        """All chunks that hold data, ascending."""
        for number, page_id in enumerate(self.page_ids):
            if page_id != ZERO_ID:
                yield from _page_ids(self.page(number), number)


def _page_ids(page: bytes, number: int) -> Iterator[tuple[int, bytes]]:
    for slot in range(len(page) // ID_BYTES):
        chunk_id = _slot(page, slot)
        if chunk_id != ZERO_ID:
            yield number * PAGE_CHUNKS + slot, chunk_id


def _slot(page: bytes, slot: int) -> bytes:
    return page[slot * ID_BYTES : (slot + 1) * ID_BYTES]


def differing(old: DiskMap, new: DiskMap) -> Iterator[Area]:
    """Where two states of a disk of one size differ, in whole chunks, ascending; neither's data is read."""
    for number, (before, after) in enumerate(zip(old.page_ids, new.page_ids, strict=True)):
        if before == after:
            continue
        one, two = old.page(number), new.page(number)
        for slot in range(len(two) // ID_BYTES):
            if _slot(one, slot) != _slot(two, slot):
                chunk = number * PAGE_CHUNKS + slot
                yield Area(start=chunk * CHUNK_BYTES, length=chunk_length(new.capacity_bytes, chunk))


@dataclass(frozen=True, kw_only=True)
class PageRanges:
    """Chunks [first, end) of one page that are to be read."""

    page: int
    ranges: tuple[range, ...]


def touched(areas: Iterable[Area] | None, capacity_bytes: int) -> Iterator[PageRanges]:
    """Areas, rounded out to chunks and cut at the borders of pages; ascending, nothing twice. None: everything."""
    open_page, ranges = -1, list[range]()
    for chunks in _chunk_ranges(areas, capacity_bytes):
        for piece in _cut_at_pages(chunks):
            page = piece.start // PAGE_CHUNKS
            if page != open_page and ranges:
                yield PageRanges(page=open_page, ranges=tuple(ranges))
                ranges = []
            open_page = page
            ranges.append(piece)
    if ranges:
        yield PageRanges(page=open_page, ranges=tuple(ranges))


def _chunk_ranges(areas: Iterable[Area] | None, capacity_bytes: int) -> Iterator[range]:
    chunks, done = chunk_count(capacity_bytes), 0
    if areas is None:
        yield range(chunks)
        return
    for area in sorted(areas):
        first, end = max(done, area.start // CHUNK_BYTES), min(chunks, chunk_count(area.end))
        if area.length > 0 and first < end:
            yield range(first, end)
            done = end


def _cut_at_pages(chunks: range) -> Iterator[range]:
    start = chunks.start
    while start < chunks.stop:
        stop = min(chunks.stop, (start // PAGE_CHUNKS + 1) * PAGE_CHUNKS)
        yield range(start, stop)
        start = stop
