"""File systems on the lab's disks: ext4 made by mke2fs, and ext2 made here where there is no mke2fs."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from vsphere.lab import ext2, guests

BLOCK_BYTES = 4096


def mke2fs() -> str | None:
    return shutil.which("mke2fs", path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")


def make(flat: Path, size_bytes: int, label: str, files: dict[str, bytes]) -> None:
    """Covers the first `size_bytes` of the flat file; what is free stays a hole."""
    tool = mke2fs()
    if tool is None:
        ext2.write(flat, size_bytes, label, files)
        return
    with tempfile.TemporaryDirectory(dir=flat.parent) as folder:
        # The temporary folder itself is closed to others, and the root directory would be as well.
        tree = Path(folder) / "tree"
        guests.write_tree(tree, files)
        blocks = str(size_bytes // BLOCK_BYTES)
        command = [tool, "-q", "-F", "-t", "ext4", "-b", str(BLOCK_BYTES), "-L", label[:16], "-E", "root_owner=0:0"]
        subprocess.run([*command, "-d", str(tree), str(flat), blocks], check=True, capture_output=True)
