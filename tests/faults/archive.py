"""Kills whatever works on a repository, and flips its bytes, and looks for what was lost.

`python -m tests.faults.archive --rounds N` does three things, each in repositories of its own:
  kill      N rounds of kill -9 in the middle of writing, gc, off-site copies and key rotation; after each, every
            manifest that is visible must restore exactly, and every key must open; at the end gc must leave no garbage
  rot       --flips single bytes changed, over all kinds of objects: the scrub must find each without any key, and the
            check with all keys
  together  two writers, gc and copies at once for --seconds, each killed now and then: nothing may be lost
Prints one JSON object last.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from blake3 import blake3

from backups.archive import gc, key_objects, manifest, refused, verify
from backups.archive.index import Index
from backups.archive.keys import TenantKeys
from backups.archive.maps import CHUNK_BYTES, ZERO_ID
from backups.archive.reader import ArchiveReader
from backups.archive.store import FolderStore
from backups.errors import HotfirstError
from tests.faults.archive_workers import GRACE_S, PASSPHRASES, QUICK, RING, STALE_S, TENANT, Worker, hurry
from tests.unit.archive.disks import Disk, archive, restored

KINDS = ("write", "gc", "copy", "rotate")
ROOT = Path(__file__).parents[2]
KEY = 2000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--flips", type=int, default=2100)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    hurry()
    chance, found = random.Random(options.seed), dict[str, Any](seed=options.seed)
    # A file system in memory if there is one: what is tested is the order of things, not the disk.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="hotfirst-archive-", dir=memory) as home:
        for name, part in (
            ("kill", lambda at: kill(at, options.rounds, chance)),
            ("rot", lambda at: rot(at, options.flips, chance)),
            ("together", lambda at: together(at, options.seconds, chance)),
        ):
            found[name] = part(prepared(Path(home) / name))
            print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    print(json.dumps(found))
    bad = ("lost", "wrong", "keys_lost", "garbage_packs", "unseen_by_scrub", "unseen_by_check")
    return 1 if any(part.get(name) for part in found.values() if isinstance(part, dict) for name in bad) else 0


def prepared(home: Path) -> Path:
    (home / "expected").mkdir(parents=True)
    keys = TenantKeys.generate(TENANT)
    assert keys.private_key is not None
    (home / "keys.json").write_text(json.dumps({"write": keys.write_secret.hex(), "private": keys.private_key.hex()}))
    here, _ = FolderStore.create(home / "here"), FolderStore.create(home / "elsewhere")
    key_objects.publish(here, TENANT, key_objects.seal_by_passphrase(keys, PASSPHRASES[0], QUICK))
    key_objects.publish(here, TENANT, key_objects.seal_by_master(keys.without_private(), RING))
    return home


# -- kill


def kill(home: Path, rounds: int, chance: random.Random) -> dict[str, int]:
    watch, found = Worker(home, 0), Counter({"rounds": 0, "lost": 0, "wrong": 0, "keys_lost": 0})
    most_garbage = 0
    watch.write()
    watch.write()
    for number in range(rounds):
        kind = KINDS[number % len(KINDS)]
        process = started(kind, home, number + 1)
        time.sleep(chance.uniform(0, 0.5))
        found["wrong"] += killed(process)
        look(watch, found)
        found["rounds"] += 1
        found[f"kills_{kind}"] += 1
        most_garbage = max(most_garbage, garbage_bytes(watch, watch.here)[0])
    found["most_garbage_kib"] = most_garbage // 1024
    found.update(settle(watch))
    return dict(found)


def started(kind: str, home: Path, seed: int) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-m", "tests.faults.archive_workers", kind, str(home), str(seed)]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def killed(process: "subprocess.Popen[str]") -> int:
    """How many wrong archives it has told of."""
    process.send_signal(signal.SIGKILL)
    told = process.communicate()[0]
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"A worker died by itself: {process.args}")
    return told.count("WRONG")


def look(watch: Worker, found: "Counter[str]") -> None:
    for store in (watch.here, watch.elsewhere):
        for archive_id in watch.visible(store):
            compare(watch, store, archive_id, found)
    found["keys_lost"] += not any(map(watch.opens, PASSPHRASES)) or not watch.master_opens()


def compare(watch: Worker, store: FolderStore, archive_id: str, found: "Counter[str]") -> None:
    """One that is deleted meanwhile is not lost."""
    try:
        content = restored(store, watch.keys, archive_id)
    except HotfirstError as error:
        if store.exists(f"tenants/{TENANT}/archives/{archive_id}"):
            found["lost"] += 1
            print(f"lost: {store.root} {archive_id}: {error}", file=sys.stderr, flush=True)
        return
    found["restored"] += 1
    if blake3(content).hexdigest() != (watch.home / "expected" / archive_id).read_text():
        found["wrong"] += 1
        print(f"wrong: {store.root} {archive_id}", file=sys.stderr, flush=True)


def settle(watch: Worker) -> dict[str, int]:
    """All are dead: after some rounds of gc only what is needed is left."""
    found = Counter[str]()
    time.sleep(STALE_S + GRACE_S)
    for store in (watch.here, watch.elsewhere):
        for _ in range(6):
            gc.collect(store, TENANT, watch.keys.without_private(), grace_s=GRACE_S)
            time.sleep(GRACE_S)
        store.sweep(0)
        left, unneeded = garbage_bytes(watch, store)
        stored = sum(stored.size_bytes for stored in store.list(f"tenants/{TENANT}/packs/"))
        found["garbage_packs"] += unneeded + len(refused.load(store, TENANT).packs)
        found["garbage_kib_after_gc"] += left // 1024
        found["stored_kib_after_gc"] += stored // 1024
        look_again = Counter[str]()
        look(watch, look_again)
        found.update({name: look_again[name] for name in ("lost", "wrong", "keys_lost")})
        found["wrong"] += len(verify.check_all(store, watch.keys))
    return dict(found)


def garbage_bytes(watch: Worker, store: FolderStore) -> tuple[int, int]:
    """Bytes in packs that no archive needs, deleted ones included, and packs of which nothing is needed."""
    index, needed, live = Index.open(store, watch.keys), set[bytes](), Counter[Any]()
    for folder in ("archives", "deleted"):
        for stored in store.list(f"tenants/{TENANT}/{folder}/"):
            archive_id = stored.name.rpartition("/")[2]
            said = manifest.decode(store.get(stored.name), watch.keys, archive_id, stored.name)
            needed.update(page_id for disk in said.disks for page_id in disk.page_ids)
            if folder == "archives":
                reader = ArchiveReader(store, watch.keys, archive_id)
                needed.update(chunk_id for _, chunk_id in reader.disk_map(KEY).ids())
    for record_id in needed - {ZERO_ID}:
        if at := index.find(record_id) or next(index.copies(record_id), None):
            live[at.pack] += at.stored_bytes
    packs = list(store.list(f"tenants/{TENANT}/packs/"))
    unneeded = len(packs) - len(live)
    return sum(stored.size_bytes for stored in packs) - sum(live.values()), max(0, unneeded)


# -- rot


def rot(home: Path, flips: int, chance: random.Random) -> dict[str, Any]:
    watch = Worker(home, 0)
    objects = some_of_each_kind(watch)
    found = Counter({"places": 0, "unseen_by_scrub": 0, "unseen_by_check": 0})
    for number in range(flips):
        kind = sorted(objects)[number % len(objects)]
        name = chance.choice(objects[kind])
        content = watch.here.get(name)
        at, change = chance.randrange(len(content)), chance.randrange(1, 256)
        (watch.here.root / name).write_bytes(content[:at] + bytes([content[at] ^ change]) + content[at + 1 :])
        scrubbed = [damage.name for damage in verify.scrub(watch.here, TENANT).damages]
        checked = verify.check_all(watch.here, watch.keys)
        (watch.here.root / name).write_bytes(content)
        found["places"] += 1
        found[f"in_{kind}"] += 1
        note(found, "unseen_by_scrub", name not in scrubbed, f"{name} byte {at}")
        note(found, "unseen_by_check", not checked, f"{name} byte {at}")
        forget_marks(watch.here, objects["damaged"])
    found["false_alarms"] = len(verify.check_all(watch.here, watch.keys))
    return dict(found)


def some_of_each_kind(watch: Worker) -> dict[str, list[str]]:
    disk = Disk(3 * CHUNK_BYTES + 999)
    disk.scribble(0, CHUNK_BYTES + 5)
    disk.write(2 * CHUNK_BYTES, b"hotfirst" * 20_000)
    for number in range(3):
        disk.scribble(0, 10)
        archive(watch.here, watch.keys, disk, f"a{number}")
    gc.delete_archive(watch.here, TENANT, "a0")
    refused.condemn(watch.here, TENANT, [], [])
    gone = next(file.packs[0][0] for file in Index.open(watch.here, watch.keys).files)
    refused.mark_damaged(watch.here, TENANT, gone, [bytes(32)])
    names = [stored.name for stored in watch.here.list(f"tenants/{TENANT}/") if stored.size_bytes]
    objects = {
        kind: [name for name in names if name.split("/")[2] == kind] for kind in (n.split("/")[2] for n in names)
    }
    return {**objects, "marker": ["repository.json"]}


def note(found: "Counter[str]", what: str, happened: bool, where: str) -> None:
    if happened:
        found[what] += 1
        print(f"{what}: {where}", file=sys.stderr, flush=True)


def forget_marks(store: FolderStore, kept: list[str]) -> None:
    for stored in list(store.list(f"tenants/{TENANT}/damaged/")):
        if stored.name not in kept:
            store.delete(stored.name)


# -- together


def together(home: Path, seconds: float, chance: random.Random) -> dict[str, int]:
    watch, found = Worker(home, 0), Counter({"kills": 0, "lost": 0, "wrong": 0, "keys_lost": 0})
    watch.write()
    kinds, seeds = ["write", "write", "gc", "copy"], iter(range(1, 10**6))
    working = [started(kind, home, next(seeds)) for kind in kinds]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(chance.uniform(0, 1))
        victim = chance.randrange(len(kinds))
        found["wrong"] += killed(working[victim])
        found["kills"] += 1
        working[victim] = started(kinds[victim], home, next(seeds))
        for store in (watch.here, watch.elsewhere):
            for archive_id in watch.visible(store)[:3]:
                compare(watch, store, archive_id, found)
    found["wrong"] += sum(killed(process) for process in working)
    found["archives_written"] = sum(1 for _ in (home / "expected").iterdir())
    look(watch, found)
    found.update(settle(watch))
    return dict(found)


if __name__ == "__main__":
    sys.exit(main())
