"""Packs of which little is needed any more: that little is moved into new packs, so that the rest of their room is
freed. Records move as they are, encrypted; gc then condemns the old packs as if nothing had ever referred to them."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping

from backups.archive.index import Index, Location
from backups.archive.keys import TenantKeys
from backups.archive.layout import PackRef
from backups.archive.packs import ENTRY
from backups.archive.relocation import Mover
from backups.archive.store import ObjectStore
from backups.errors import ArchiveDamaged

WORTH_IT = 0.5
"""A pack is moved if that frees this share of it."""
FRAME_BYTES = 512
"""More than header and footer of a pack take, so that nothing is moved for their sake."""
BUDGET_BYTES = 4 * 1024**3
"""So much is moved by one call at most."""
BITS = 8192
MAX_RECORDS = 4096
"""A pack with more needed records than this is left alone: their number is not known well enough."""

log = logging.getLogger(__name__)


class Needed:
    """The packs that are needed, and about how much of each; a KiB of memory for each pack. Records are told apart by
    some bits of their ids, so that one that is needed often counts once, and now and then one is not counted."""

    def __init__(self) -> None:
        self.bytes: Counter[PackRef] = Counter()
        self._records: Counter[PackRef] = Counter()
        self._seen: dict[PackRef, bytearray] = {}

    def add(self, record_id: bytes, at: Location) -> None:
        seen = self._seen.setdefault(at.pack, bytearray(BITS // 8))
        byte, bit = divmod(int.from_bytes(record_id[4:6]) % BITS, 8)
        if not seen[byte] >> bit & 1:
            seen[byte] |= 1 << bit
            self.bytes[at.pack] += at.stored_bytes
            self._records[at.pack] += 1

    @property
    def packs(self) -> frozenset[PackRef]:
        return frozenset(self._seen)

    def sparse(self, sizes: Mapping[PackRef, int]) -> set[PackRef]:
        """Of these packs, the emptiest first and as far as the budget goes."""
        budget, found = BUDGET_BYTES, set[PackRef]()
        candidates = (ref for ref in sizes if self._seen.get(ref) and self._records[ref] <= MAX_RECORDS)
        for ref in sorted(candidates, key=lambda ref: self.bytes[ref] / sizes[ref]):
            if budget < self.bytes[ref]:
                break
            if _worth_it(sizes[ref], self.bytes[ref], self._records[ref]):
                budget -= self.bytes[ref]
                found.add(ref)
        return found


def _worth_it(size_bytes: int, needed_bytes: int, records: int) -> bool:
    return size_bytes - needed_bytes - records * ENTRY.size - FRAME_BYTES >= size_bytes * WORTH_IT


def move_out(
    store: ObjectStore, keys: TenantKeys, index: Index, needed_ids: Iterable[bytes], sizes: Mapping[PackRef, int]
) -> set[PackRef]:
    """Moves what is needed out of the packs of `sizes`, and returns those that can be condemned now. One that is
    damaged is left alone."""
    records: dict[PackRef, dict[bytes, Location]] = {ref: {} for ref in sizes}
    for record_id in needed_ids:
        at = index.find(record_id)
        if at is not None and at.pack in records:
            records[at.pack][record_id] = at
    moved = set[PackRef]()
    with Mover(store, index, store, keys) as mover:
        for ref, wanted in records.items():
            if not _worth_it(sizes[ref], sum(at.stored_bytes for at in wanted.values()), len(wanted)):
                continue
            try:
                mover.take(wanted.items())
                moved.add(ref)
            except ArchiveDamaged as error:
                log.warning("%s", error)
        mover.publish()
    return moved
