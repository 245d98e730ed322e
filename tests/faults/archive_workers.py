"""What `tests.faults.archive` kills: `python -m tests.faults.archive_workers KIND HOME SEED` works until it dies.

HOME holds the repositories `here` and `elsewhere`, the keys, and `expected/ARCHIVE`: the hash of each disk, written
before its manifest, so that whatever becomes visible can be compared.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from backups.archive import gc, key_objects, relocation, sessions, sink
from backups.archive.copying import copy_archives
from backups.archive.gc import collect, delete_archive, deleted_archives, undelete_archive
from backups.archive.key_objects import Cost, MasterRing
from backups.archive.keys import TenantKeys
from backups.archive.maps import CHUNK_BYTES
from backups.archive.store import FolderStore
from backups.archive.writer import ArchiveWriter
from backups.errors import HotfirstError
from backups.platform import Area
from tests.unit.archive.disks import BACKUP_TIME, Disk, base_of, restored, write_disk

TENANT = "alice"
CHUNKS = 8
CONTENTS = 40
"""Different chunks there are: so few that archives share many, and that garbage is often wanted again."""
KEPT = 6
GRACE_S = 0.1
LONGEST_S = 0.6
"""Writers dwell so long between their parts: gc must often find them in the middle, older than what it condemned."""
STALE_S = 2.0
QUICK = Cost(memory_kib=64, passes=1, lanes=1)
PASSPHRASES = [f"the passphrase number {number}" for number in range(3)]
RING = MasterRing("aa", {"aa": bytes(32), "bb": b"\1" * 32, "cc": b"\2" * 32})


def hurry() -> None:
    """Hours become seconds, and packs so small that a kill hits every state of them."""
    sessions.HEARTBEAT_S, sessions.STALE_S = 0.2, STALE_S
    gc.CLOCK_SLACK_S, gc.UNFINISHED_KEPT_S, gc.MERGED_FROM_FILES = 0.0, 5.0, 4
    sink.TARGET_BYTES = relocation.TARGET_BYTES = 2 * CHUNK_BYTES
    sink.PUBLISHED_ENTRIES = relocation.PUBLISHED_ENTRIES = 3
    relocation.BATCH_RECORDS = 4


class Worker:
    def __init__(self, home: Path, seed: int) -> None:
        said = json.loads((home / "keys.json").read_text())
        self.keys = TenantKeys.of_secrets(TENANT, bytes.fromhex(said["write"]), bytes.fromhex(said["private"]))
        self.home, self.seed, self.chance = home, seed, random.Random(seed)
        self.here, self.elsewhere = FolderStore(home / "here"), FolderStore(home / "elsewhere")
        self.count = 0

    def visible(self, store: FolderStore) -> list[str]:
        return [stored.name.rpartition("/")[2] for stored in store.list(f"tenants/{TENANT}/archives/")]

    def write(self) -> None:
        names = self.visible(self.here)
        base = self.chance.choice([*names, None])
        disk = Disk(CHUNKS * CHUNK_BYTES, seed=self.chance.randrange(2**32))
        if base:
            disk.content[:] = restored(self.here, self.keys, base)
            self.compare(base, disk)
        areas = [self._change(disk) for _ in range(self.chance.randint(1, 5))]
        self.count += 1
        archive_id = f"a{self.seed}-{self.count}"
        (self.home / "expected" / archive_id).write_text(blake3(disk.content).hexdigest())
        self._archive(disk, archive_id, areas if base else None, base)
        if len(names) >= KEPT or self.chance.random() < 0.2:
            delete_archive(self.here, TENANT, self.chance.choice(self.visible(self.here)))
        if self.chance.random() < 0.2:
            self._undelete()

    def _archive(self, disk: Disk, archive_id: str, areas: list[Area] | None, base: str | None) -> None:
        with ArchiveWriter(self.here, self.keys.without_private()) as writer:
            self._dwell()
            write_disk(writer, disk, areas, base_of(self.here, self.keys, base) if base else None)
            self._dwell()
            writer.commit(archive_id=archive_id, backup_time=BACKUP_TIME, config={}, extra={})

    def _dwell(self) -> None:
        time.sleep(self.chance.choice([0, 0, self.chance.uniform(0, LONGEST_S)]))

    def compare(self, archive_id: str, disk: Disk) -> None:
        if (self.home / "expected" / archive_id).read_text() != blake3(disk.content).hexdigest():
            print(f"WRONG {archive_id}", flush=True)

    def _change(self, disk: Disk) -> Area:
        content = random.Random(self.chance.randrange(CONTENTS)).randbytes(CHUNK_BYTES)
        return disk.write(self.chance.randrange(CHUNKS) * CHUNK_BYTES, content)

    def _undelete(self) -> None:
        deleted = deleted_archives(self.here, TENANT)
        if deleted:
            undelete_archive(self.here, TENANT, self.chance.choice(deleted).archive_id)

    def gather(self) -> None:
        collect(self.here, TENANT, self.keys.without_private(), grace_s=GRACE_S)

    def copy(self) -> None:
        names = self.visible(self.here)
        wanted = self.chance.sample(names, self.chance.randint(0, len(names)))
        copy_archives(self.here, self.elsewhere, self.keys.without_private(), wanted)
        for archive_id in self.visible(self.elsewhere)[KEPT:]:
            delete_archive(self.elsewhere, TENANT, archive_id)
        collect(self.elsewhere, TENANT, self.keys.without_private(), grace_s=GRACE_S)

    def rotate(self) -> None:
        old = next(p for p in PASSPHRASES if self.opens(p))
        key_objects.change_passphrase(self.here, TENANT, old, self.chance.choice(PASSPHRASES), QUICK)
        current = self.chance.choice(sorted(RING.keys))
        key_objects.rotate_master(self.here, TENANT, MasterRing(current, RING.keys))

    def opens(self, passphrase: str) -> bool:
        with suppress(HotfirstError):
            return key_objects.find_by_passphrase(self.here, TENANT, passphrase) == self.keys
        return False

    def master_opens(self) -> bool:
        with suppress(HotfirstError):
            return key_objects.find_by_master(self.here, TENANT, RING) == self.keys.without_private()
        return False


def main() -> None:
    kind, home, seed = sys.argv[1:]
    hurry()
    worker = Worker(Path(home), int(seed))
    work: Callable[[], None] = {
        "write": worker.write, "gc": worker.gather, "copy": worker.copy, "rotate": worker.rotate
    }[kind]  # fmt: skip
    print("ready", flush=True)
    while True:
        # What is deleted under somebody's hands, or condemned, ends that piece of work with an error of ours.
        with suppress(HotfirstError):
            work()


if __name__ == "__main__":
    main()
