"""Hosts that write into one repository at the same time, each a process that shares nothing with the others."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from backups.archive import gc, verify
from backups.archive.keys import TenantKeys
from backups.archive.s3 import Credentials, Place, S3Store
from backups.archive.store import FolderStore, ObjectStore
from backups.errors import Conflict
from tests.unit.archive.disks import MIB, Disk, archive, restored

HOSTS, ARCHIVES = 3, 3


def opened(where: Path | Place, credentials: Credentials, host: int, cache: Path) -> ObjectStore:
    return FolderStore(where) if isinstance(where, Path) else S3Store(where, credentials, cache=cache / str(host))


def state(host: int, number: int) -> Disk:
    """A part that all hosts have in common, and one that is each one's own and grows."""
    disk = Disk(4 * MIB, seed=1)
    disk.scribble(0, 2 * MIB)
    own = Disk(4 * MIB, seed=100 + host)
    own.scribble(2 * MIB, (number + 1) * MIB // 2)
    disk.content[2 * MIB :] = own.content[2 * MIB :]
    return disk


def write(where: Path | Place, credentials: Credentials, host: int, cache: Path, keys: TenantKeys) -> None:
    store = opened(where, credentials, host, cache)
    for number in range(ARCHIVES):
        archive(
            store, keys, state(host, number), f"h{host}-{number}", since=f"h{host}-{number - 1}" if number else None
        )


def claim(where: Path | Place, credentials: Credentials, host: int, cache: Path, keys: TenantKeys) -> bool:
    try:
        archive(opened(where, credentials, host, cache), keys, state(host, 0), "the-same")
    except Conflict:
        return False
    return True


@pytest.fixture(params=["folder", "s3"])
def where(request, tmp_path) -> Path | Place:
    if request.param == "folder":
        return FolderStore.create(tmp_path / "repository").root
    place = request.getfixturevalue("s3_place")
    S3Store.create(place, request.getfixturevalue("s3_credentials"), cache=tmp_path)
    return place


def test_hosts_write_at_once_while_gc_works(where, s3_credentials, alice, tmp_path):
    store = opened(where, s3_credentials, HOSTS, tmp_path)
    with ProcessPoolExecutor(HOSTS, mp_context=get_context("spawn")) as pool:
        work = [pool.submit(write, where, s3_credentials, host, tmp_path, alice) for host in range(HOSTS)]
        while not all(one.done() for one in work):
            gc.collect(store, "alice", alice, grace_s=0)
        for one in work:
            one.result()
    gc.collect(store, "alice", alice, grace_s=0)
    for host in range(HOSTS):
        for number in range(ARCHIVES):
            assert restored(store, alice, f"h{host}-{number}") == state(host, number).content
    assert not verify.scrub(store, "alice").damages


def test_of_hosts_that_write_the_same_archive_one_wins(where, s3_credentials, alice, tmp_path):
    with ProcessPoolExecutor(HOSTS, mp_context=get_context("spawn")) as pool:
        work = [pool.submit(claim, where, s3_credentials, host, tmp_path, alice) for host in range(HOSTS)]
        won = [host for host in range(HOSTS) if work[host].result()]
    assert len(won) == 1
    store = opened(where, s3_credentials, HOSTS, tmp_path)
    assert restored(store, alice, "the-same") == state(won[0], 0).content
