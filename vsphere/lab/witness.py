"""What each snapshot held, for those who want to compare an archive with it."""

import hashlib
import json
from pathlib import Path

from vsphere.lab.disk import LabDisk
from vsphere.lab.state import replace_file

PIECE_BYTES = 2**20


class Witness:
    """A file a snapshot, of its name: device key to the SHA-256 of the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def record(self, snapshot: str, disks: dict[int, LabDisk]) -> None:
        """Read as the guest sees them, so call it while no write gets through, and before the snapshot is."""
        held = {str(key): content_hash(disk) for key, disk in disks.items()}
        replace_file(self._folder / f"{snapshot}.json", json.dumps(held))


def content_hash(disk: LabDisk) -> str:
    digest = hashlib.sha256()
    for start in range(0, disk.meta.capacity_bytes, PIECE_BYTES):
        digest.update(disk.read(start, PIECE_BYTES))
    return digest.hexdigest()
