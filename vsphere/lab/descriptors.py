"""The small text files that say what a virtual disk consists of: one for the base, one for each delta above it."""

import re
import zlib
from pathlib import Path

from vsphere.lab.disk import LabDisk

DELTA_DESCRIPTOR = re.compile(r"(?P<stem>.+)-(?P<number>\d{6})\.vmdk")
DELTA = re.compile(r"(?P<stem>.+)-(?P<number>\d{6})-delta\.vmdk")


def text(disk: LabDisk, name: str) -> bytes | None:
    """Of the file `name`; None if it is no descriptor of this disk."""
    base = disk.stem.name
    chain = [f"{base}.vmdk", *(f"{base}-{layer.number:06d}.vmdk" for layer in disk.meta.layers)]
    if name not in chain:
        return None
    parent = chain[chain.index(name) - 1] if name != chain[0] else None
    return _text(disk, name, parent).encode()


def _text(disk: LabDisk, name: str, parent: str | None) -> str:
    stem, sectors = name.removesuffix(".vmdk"), disk.meta.capacity_bytes // 512
    kind = "vmfsSparse" if parent else "vmfs"
    lines = [
        "# Disk DescriptorFile",
        "version=1",
        f"CID={_content_id(name)}",
        f"parentCID={_content_id(parent) if parent else 'ffffffff'}",
        f'createType="{kind}"',
        *([f'parentFileNameHint="{parent}"'] if parent else []),
        "",
        f'RW {sectors} {kind.upper()} "{stem}-{"delta" if parent else "flat"}.vmdk"',
        *(["", f'changeTrackPath="{stem}-ctk.vmdk"'] if disk.meta.tracking else []),
        "",
        'ddb.adapterType = "lsilogic"',
        'ddb.thinProvisioned = "1"',
        f'ddb.uuid = "{disk.meta.uuid}"',
    ]
    return "\n".join(lines) + "\n"


def _content_id(name: str) -> str:
    return f"{zlib.crc32(name.encode()):08x}"


def stem_of(path: Path) -> Path | None:
    """Of the disk whose descriptor or delta a file of this name would be."""
    for pattern in (DELTA, DELTA_DESCRIPTOR):
        if match := pattern.fullmatch(path.name):
            return path.with_name(match["stem"])
    return path.with_name(path.name.removesuffix(".vmdk")) if path.name.endswith(".vmdk") else None


def is_written(disk: LabDisk, path: Path) -> bool:
    """A running VM writes to its last delta."""
    match, layers = DELTA.fullmatch(path.name), disk.meta.layers
    return bool(match and layers and int(match["number"]) == layers[-1].number)
