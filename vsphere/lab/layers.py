"""What a lab disk consists of above its flat file, and the record of it."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from vsphere.lab.blocks import BlockArray


@dataclass(frozen=True)
class LayerMeta:
    number: int
    draining: bool = False
    """No snapshot needs it any more: it is being, or has to be, merged downwards."""


@dataclass(frozen=True)
class Frozen:
    """A disk as one snapshot holds it: the base and the first `depth` layers."""

    snapshot: int
    depth: int
    tracking: str | None
    epoch: int


@dataclass(frozen=True)
class DiskMeta:
    capacity_bytes: int
    uuid: str
    tracking: str | None = None
    epoch: int = 1
    tracking_pending: bool = False
    next_layer: int = 1
    layers: tuple[LayerMeta, ...] = ()
    frozen: tuple[Frozen, ...] = ()

    @property
    def change_id(self) -> str | None:
        return f"{self.tracking}/{self.epoch}" if self.tracking else None

    def of_snapshot(self, snapshot: int) -> Frozen | None:
        return next((frozen for frozen in self.frozen if frozen.snapshot == snapshot), None)

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> "DiskMeta":
        raw = json.loads(text)
        raw["layers"] = tuple(LayerMeta(**layer) for layer in raw["layers"])
        raw["frozen"] = tuple(Frozen(**frozen) for frozen in raw["frozen"])
        return cls(**raw)


class Layer:
    """What was written since one snapshot, in whole blocks."""

    def __init__(self, stem: Path, number: int, blocks: int, *, fresh: bool = False) -> None:
        self.number = number
        self.path = stem.with_name(f"{stem.name}-{number:06d}-delta.vmdk")
        self._map_path = stem.with_name(f"{stem.name}-{number:06d}.map")
        if fresh:  # A process killed half-way through a snapshot may have left files of this number.
            self._unlink()
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        self.map = BlockArray(self._map_path, "B", blocks)

    def close(self) -> None:
        os.close(self.fd)
        self.map.close()

    def delete(self) -> None:
        self.close()
        self._unlink()

    def _unlink(self) -> None:
        self.path.unlink(missing_ok=True)
        self._map_path.unlink(missing_ok=True)
