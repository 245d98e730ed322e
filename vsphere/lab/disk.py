"""A virtual disk of the lab: a sparse flat file, redirect-on-write layers above it, changed blocks by epoch.

What a killed process leaves behind is consistent: data goes to the page cache before the block map that makes it
visible, maps are memory-mapped files, and everything else is one small JSON file replaced by rename. (A power cut is
another matter: nothing here calls fsync. It is a lab.)
"""

import os
import shutil
import threading
import time
import uuid
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from vsphere.lab import changes
from vsphere.lab.blocks import BLOCK_BYTES, BlockArray, data_ranges, pread_exactly, pwrite_fully
from vsphere.lab.layers import DiskMeta, Frozen, Layer, LayerMeta

DRAIN_BLOCKS = 16
ZERO_BLOCK = bytes(BLOCK_BYTES)


class LabDisk:
    """`stem` is the path without `-flat.vmdk`. `meta` is replaced as a whole, so it may be read without the lock;
    hold `lock` over several disks to snapshot them at one point."""

    def __init__(self, stem: Path) -> None:
        self.stem = stem
        self.flat = stem.with_name(stem.name + "-flat.vmdk")
        self.lock = threading.RLock()
        self.meta = DiskMeta.parse(self._meta_path.read_text())
        self._blocks = -(-self.meta.capacity_bytes // BLOCK_BYTES)
        self._base_fd: int | None = None
        self._layers: list[Layer] | None = None
        self._epochs: BlockArray | None = None

    @classmethod
    def create(cls, stem: Path, capacity_bytes: int) -> "LabDisk":
        """Zero-filled; an existing flat file of that name becomes the content."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        with open(stem.with_name(stem.name + "-flat.vmdk"), "ab") as flat:
            flat.truncate(capacity_bytes)
        meta = DiskMeta(capacity_bytes=capacity_bytes, uuid=str(uuid.uuid4()))
        _replace_file(stem.with_name(stem.name + ".disk.json"), meta.dump())
        return cls(stem)

    @property
    def _meta_path(self) -> Path:
        return self.stem.with_name(self.stem.name + ".disk.json")

    @property
    def _epochs_path(self) -> Path:
        return self.stem.with_name(self.stem.name + "-ctk.vmdk")

    def _frozen_path(self, snapshot: int) -> Path:
        return self.stem.with_name(f"{self.stem.name}-ctk-{snapshot}.vmdk")

    # Files are opened at first use, so that thousands of idle disks cost nothing.

    def _base(self) -> int:
        if self._base_fd is None:
            self._base_fd = os.open(self.flat, os.O_RDWR)
        return self._base_fd

    def _opened_layers(self) -> list[Layer]:
        if self._layers is None:
            self._layers = [Layer(self.stem, layer.number, self._blocks) for layer in self.meta.layers]
        return self._layers

    def _opened_epochs(self) -> BlockArray:
        if self._epochs is None:
            self._epochs = BlockArray(self._epochs_path, "I", self._blocks)
        return self._epochs

    def _save(self, meta: DiskMeta) -> None:
        _replace_file(self._meta_path, meta.dump())
        self.meta = meta

    # Reading and writing.

    def read(self, start: int, length: int, snapshot: int | None = None) -> bytes:
        """Shorter than asked for only at the end of the disk. Raises KeyError for a snapshot that is not held."""
        with self.lock:
            layers = self._opened_layers()
            if snapshot is not None:
                layers = layers[: self._frozen(snapshot).depth]
            end = min(start + length, self.meta.capacity_bytes)
            return b"".join(self._read_runs(layers, start, end))

    def _read_runs(self, layers: list[Layer], start: int, end: int) -> Iterator[bytes]:
        """Neighbouring blocks of one source are read at once."""
        while start < end:
            block = start // BLOCK_BYTES
            source = self._source(layers, block)
            stop = block + 1
            while stop * BLOCK_BYTES < end and self._source(layers, stop) == source:
                stop += 1
            length = min(end, stop * BLOCK_BYTES) - start
            yield pread_exactly(source, length, start)
            start += length

    def _source(self, layers: list[Layer], block: int) -> int:
        for layer in reversed(layers):
            if layer.map.view[block]:
                return layer.fd
        return self._base()

    def write(self, start: int, data: bytes, *, tracked: bool = True) -> None:
        """`tracked` False: past the guest's own way to the disk, as whoever writes to its files does."""
        if start < 0 or start + len(data) > self.meta.capacity_bytes:
            raise ValueError(f"{start}+{len(data)} is outside of {self.stem.name}")
        with self.lock:
            # The mark first: a block that is marked but not written is only read once too often.
            if tracked:
                self._mark_changed(start, len(data))
            if not self._opened_layers():
                pwrite_fully(self._base(), data, start)
                return
            view = memoryview(data)
            done = 0
            while done < len(data):
                offset = start + done
                length = min(len(data) - done, BLOCK_BYTES - offset % BLOCK_BYTES)
                self._write_piece(offset, view[done : done + length])
                done += length

    def write_sparse(self, start: int, data: bytes, *, tracked: bool = True) -> None:
        """As `write`, but zeros that are there already are left alone, so holes stay holes."""
        for offset in range(0, len(data), BLOCK_BYTES):
            piece = data[offset : offset + BLOCK_BYTES]
            zero = piece == ZERO_BLOCK[: len(piece)]
            if not (zero and self.read(start + offset, len(piece)) == piece):
                self.write(start + offset, piece, tracked=tracked)

    def _write_piece(self, start: int, piece: memoryview) -> None:
        block = start // BLOCK_BYTES
        layer = self._layer_to_write(block)
        if layer is None:
            pwrite_fully(self._base(), piece, start)
        elif layer.map.view[block]:
            pwrite_fully(layer.fd, piece, start)
        else:
            whole = bytearray(self.read(block * BLOCK_BYTES, BLOCK_BYTES))
            whole[start % BLOCK_BYTES : start % BLOCK_BYTES + len(piece)] = piece
            pwrite_fully(layer.fd, whole, block * BLOCK_BYTES)
            layer.map.view[block] = 1

    def _layer_to_write(self, block: int) -> Layer | None:
        """The top layer; below those that are draining, unless they still hold the block. None is the base."""
        for layer, meta in zip(reversed(self._opened_layers()), reversed(self.meta.layers), strict=True):
            if not meta.draining or layer.map.view[block]:
                return layer
        return None

    # Snapshots.

    def snapshot(self, snapshot: int) -> None:
        with self.lock:
            if self.meta.tracking_pending:
                self._start_tracking()
            meta = self.meta
            if meta.tracking:
                shutil.copyfile(self._epochs_path, self._frozen_path(snapshot))
            layer = Layer(self.stem, meta.next_layer, self._blocks, fresh=True)
            self._opened_layers()
            frozen = Frozen(snapshot, len(meta.layers), meta.tracking, meta.epoch)
            self._save(
                replace(
                    meta,
                    epoch=meta.epoch + 1,
                    next_layer=meta.next_layer + 1,
                    layers=(*meta.layers, LayerMeta(layer.number)),
                    frozen=(*meta.frozen, frozen),
                )
            )
            self._opened_layers().append(layer)

    def _frozen(self, snapshot: int) -> Frozen:
        frozen = self.meta.of_snapshot(snapshot)
        if frozen is None:
            raise KeyError(snapshot)
        return frozen

    def remove_snapshot(self, snapshot: int) -> None:
        """Its layer stays until `consolidate`. Nothing to do for a snapshot that is not held."""
        with self.lock:
            gone = self.meta.of_snapshot(snapshot)
            if gone is None:
                return
            layers = list(self.meta.layers)
            layers[gone.depth] = replace(layers[gone.depth], draining=True)
            left = tuple(frozen for frozen in self.meta.frozen if frozen != gone)
            self._save(replace(self.meta, layers=tuple(layers), frozen=left))
            self._frozen_path(snapshot).unlink(missing_ok=True)

    @property
    def needs_consolidation(self) -> bool:
        return any(layer.draining for layer in self.meta.layers)

    def delta_bytes(self) -> dict[int, int]:
        """Layer number to the bytes it holds."""
        with self.lock:
            return {layer.number: layer.map.count() * BLOCK_BYTES for layer in self._opened_layers()}

    def consolidate(self, bytes_per_s: float = 0.0, progress: Callable[[int], None] | None = None) -> None:
        """Merges what no snapshot needs, at most at the given pace (0: as fast as it goes), while writes go on.
        `progress` is told the bytes merged so far."""
        merged_bytes = 0
        while (number := self._draining_number()) is not None:
            while moved := self._drain_some(number):
                merged_bytes += moved * BLOCK_BYTES
                if progress:
                    progress(merged_bytes)
                if bytes_per_s:
                    time.sleep(moved * BLOCK_BYTES / bytes_per_s)
            self._drop_layer(number)

    def _draining_number(self) -> int | None:
        return next((layer.number for layer in self.meta.layers if layer.draining), None)

    def _index(self, number: int) -> int:
        return next(i for i, layer in enumerate(self.meta.layers) if layer.number == number)

    def _drain_some(self, number: int) -> int:
        with self.lock:
            layers = self._opened_layers()
            index = self._index(number)
            layer = layers[index]
            below = layers[index - 1] if index else None
            blocks = layer.map.first_set(DRAIN_BLOCKS)
            for block in blocks:
                start = block * BLOCK_BYTES
                length = min(BLOCK_BYTES, self.meta.capacity_bytes - start)
                pwrite_fully(below.fd if below else self._base(), pread_exactly(layer.fd, length, start), start)
                if below:
                    below.map.view[block] = 1
                # Only now: until here a reader finds the same bytes in the layer above.
                layer.map.view[block] = 0
            return len(blocks)

    def _drop_layer(self, number: int) -> None:
        with self.lock:
            index = self._index(number)
            layers = self._opened_layers()
            metas = tuple(layer for layer in self.meta.layers if layer.number != number)
            frozen = tuple(replace(f, depth=f.depth - 1) if f.depth > index else f for f in self.meta.frozen)
            self._save(replace(self.meta, layers=metas, frozen=frozen))
            layers.pop(index).delete()

    # Change tracking.

    def enable_tracking(self, *, at_next_snapshot: bool) -> None:
        """A running VM's tracking begins when it is next stunned: at its next snapshot."""
        with self.lock:
            if self.meta.tracking or self.meta.tracking_pending:
                return
            if at_next_snapshot:
                self._save(replace(self.meta, tracking_pending=True))
            else:
                self._start_tracking()

    def disable_tracking(self) -> None:
        with self.lock:
            self._save(replace(self.meta, tracking=None, tracking_pending=False))
            self._close_epochs()

    def _start_tracking(self) -> None:
        """Whatever is allocated by now counts as changed in the first epoch: `*` must report it."""
        self._close_epochs()
        self._epochs_path.unlink(missing_ok=True)
        epochs = self._opened_epochs().view
        for first, last in data_ranges(self._base(), self.meta.capacity_bytes):
            for block in range(first // BLOCK_BYTES, -(-last // BLOCK_BYTES)):
                epochs[block] = 1
        for layer in self._opened_layers():
            for block in layer.map.first_set(self._blocks):
                epochs[block] = 1
        self._save(replace(self.meta, tracking=str(uuid.uuid4()), epoch=1, tracking_pending=False))

    def _mark_changed(self, start: int, length: int) -> None:
        if self.meta.tracking:
            first, stop = start // BLOCK_BYTES, -(-(start + length) // BLOCK_BYTES)
            epochs = self._opened_epochs().view
            for block in range(first, stop):
                epochs[block] = self.meta.epoch

    def changed_areas(
        self, snapshot: int | None, start: int, change_id: str, max_areas: int = changes.MAX_AREAS
    ) -> tuple[int, list[tuple[int, int]]]:
        """How many bytes from `start` the answer covers, and the (start, length) areas in them that were written
        between `change_id` and the snapshot, or now; `*` asks for everything allocated. Raises ChangeIdInvalid,
        KeyError."""
        with self.lock:
            if snapshot is None:
                now = Frozen(0, len(self.meta.layers), self.meta.tracking, self.meta.epoch)
                since = changes.since(now, change_id)
                epochs = array("I", self._opened_epochs().view.tobytes())
            else:
                since = changes.since(self._frozen(snapshot), change_id)
                epochs = changes.load(self._frozen_path(snapshot))
        return changes.changed_areas(epochs, since, start, self.meta.capacity_bytes, max_areas)

    # The end.

    def grow(self, capacity_bytes: int) -> None:
        """Change tracking starts anew, as it does on vSphere."""
        with self.lock:
            if self.meta.layers or capacity_bytes < self.meta.capacity_bytes:
                raise ValueError("Only a disk without snapshots can grow, and none can shrink.")
            os.truncate(self.flat, capacity_bytes)
            tracked = self.meta.tracking is not None
            self._close_epochs()
            self._save(replace(self.meta, capacity_bytes=capacity_bytes, tracking=None))
            self._blocks = -(-capacity_bytes // BLOCK_BYTES)
            if tracked:
                self._start_tracking()

    def _close_epochs(self) -> None:
        if self._epochs:
            self._epochs.close()
            self._epochs = None

    def close(self) -> None:
        with self.lock:
            self._close_epochs()
            for layer in self._layers or []:
                layer.close()
            self._layers = None
            if self._base_fd is not None:
                os.close(self._base_fd)
                self._base_fd = None

    def delete(self) -> None:
        with self.lock:
            for layer in self._opened_layers():
                layer.delete()
            self._layers = []
            self.close()
            for frozen in self.meta.frozen:
                self._frozen_path(frozen.snapshot).unlink(missing_ok=True)
            for path in (self.flat, self._epochs_path, self._meta_path):
                path.unlink(missing_ok=True)


def _replace_file(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.replace(path)
