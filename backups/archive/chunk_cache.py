"""The chunks that were read last, for whoever reads ranges at random."""

from collections import OrderedDict
from threading import Lock

from backups.archive.maps import CHUNK_BYTES


class ChunkCache:
    """Safe for several threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_chunks = max(1, max_bytes // CHUNK_BYTES)
        self._chunks: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = Lock()

    def get(self, chunk_id: bytes) -> bytes | None:
        with self._lock:
            if chunk_id in self._chunks:
                self._chunks.move_to_end(chunk_id)
            return self._chunks.get(chunk_id)

    def put(self, chunk_id: bytes, data: bytes) -> None:
        with self._lock:
            self._chunks[chunk_id] = data
            if len(self._chunks) > self._max_chunks:
                self._chunks.popitem(last=False)
