"""This store as a program of its own, as the peers are, so that its start counts as theirs does.

python -m tests.benchmarks.archive_ours REPOSITORY create | verify ARCHIVE | restore ARCHIVE IMAGE TARGET
    | back_up ARCHIVE IMAGES [BASE CHANGES]
"""

import json
import os
import resource
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backups.archive import verify
from backups.archive.keys import TenantKeys
from backups.archive.reader import ArchiveReader
from backups.archive.restore import restore_to_file
from backups.archive.store import FolderStore
from backups.archive.writer import ArchiveWriter
from backups.platform import Area
from tests.benchmarks.archive_images import extents

TENANT = "benchmark"
LOCAL_READ_BYTES = 512 * 1024


def create(repository: Path) -> None:
    FolderStore.create(repository)
    keys = TenantKeys.generate(TENANT)
    repository.with_suffix(".keys").write_bytes(keys.write_secret + keys.public_key + (keys.private_key or b""))


def opened(repository: Path) -> tuple[FolderStore, TenantKeys]:
    secret = repository.with_suffix(".keys").read_bytes()
    return FolderStore(repository), TenantKeys(TENANT, secret[:32], secret[32:64], secret[64:])


class Image:
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, start: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, start)

    def close(self) -> None:
        os.close(self._descriptor)


def back_up(repository: Path, archive: str, images: str, base: str = "", changes: str = "") -> None:
    """A full backup reads where the file system says that there is data; an incremental one what changed."""
    store, keys = opened(repository)
    changed = json.loads(Path(changes).read_text()) if changes else {}
    before = ArchiveReader(store, keys, base) if base else None
    with ArchiveWriter(store, keys.without_private(), read_bytes=LOCAL_READ_BYTES) as writer:
        for key, path in enumerate(map(Path, images.split(","))):
            areas = changed[path.name] if base else extents(path)
            with closing(Image(path)) as image:
                writer.write_disk(
                    key=key,
                    label=path.name,
                    capacity_bytes=path.stat().st_size,
                    read=image.read,
                    areas=[Area(start=start, length=length) for start, length in areas],
                    base=before.disk_map(key) if before else None,
                    change_id=None,
                )
        stats = writer.commit(archive_id=archive, backup_time=datetime.now(UTC), config={}, extra={})
    tell(bytes_read=stats.bytes_read)


def restore(repository: Path, archive: str, image: str, target: str) -> None:
    reader = ArchiveReader(*opened(repository), archive)
    disk = next(disk for disk in reader.disks if disk.label == Path(image).name)
    restore_to_file(reader, disk.key, Path(target))
    tell()


def check(repository: Path, archive: str) -> None:
    tell(bytes_checked=verify.check(*opened(repository), archive))


def tell(**figures: Any) -> None:
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps({**figures, "rss_mb": round(rss_mb)}))


def main(arguments: Sequence[str]) -> None:
    repository, command, *rest = arguments
    {"create": create, "back_up": back_up, "restore": restore, "verify": check}[command](Path(repository), *rest)


if __name__ == "__main__":
    main(sys.argv[1:])
