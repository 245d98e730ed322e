"""What the adapter rests on, asked of a vCenter simulator that others wrote."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from pyVmomi import vim

from backups.errors import CertificateMismatch, LoginFailed, PlatformError, SnapshotFailed
from backups.platform import Snapshot, SnapshotOrder
from tests.contract.test_snapshots import names_of, take
from tests.contract.test_watching import Follower, by_ref
from tests.contract.vcsim import VcsimWorld
from vsphere.platform import connect
from vsphere.session import Session

THREADS = 6


@pytest.fixture
def operator(vcsim_world: VcsimWorld) -> Iterator[Session]:
    made = Session(vcsim_world.connection)
    yield made
    made.close()


def end_sessions(operator: Session) -> None:
    """All but the operator's own, as a person does in vCenter."""
    own = operator.call(lambda stub: vim.SessionManager("SessionManager", stub).currentSession)
    sessions = operator.call(lambda stub: vim.SessionManager("SessionManager", stub).sessionList)
    others = [each.key for each in sessions if each.key != own.key]
    operator.call(lambda stub: vim.SessionManager("SessionManager", stub).TerminateSession(others))


def test_a_wrong_password_and_another_certificate_are_refused(vcsim_world: VcsimWorld, tmp_path: object) -> None:
    with pytest.raises(LoginFailed):
        connect(replace(vcsim_world.connection, password="wrong"))
    other = replace(vcsim_world.connection, certificate_pem=vcsim_world.other_certificate())
    with pytest.raises(CertificateMismatch):
        connect(other)


def test_sessions_that_are_ended_are_made_again_by_one_login(vcsim_world: VcsimWorld, operator: Session) -> None:
    end_sessions(operator)
    with ThreadPoolExecutor(THREADS) as threads:
        seen = list(threads.map(lambda _: len(vcsim_world.platform.inventory().vms), range(THREADS)))
    assert len(set(seen)) == 1


def test_a_snapshot_outlives_the_session_that_took_it(vcsim_world: VcsimWorld, operator: Session) -> None:
    vm = vcsim_world.new_vm()
    snapshot = take(vcsim_world.platform, vm)
    end_sessions(operator)
    assert take(vcsim_world.platform, vm) == snapshot
    end_sessions(operator)
    vcsim_world.platform.remove_snapshot(snapshot.name, vm.ref)
    assert names_of(vcsim_world.platform, vm) == []


def test_a_watch_whose_session_is_ended_tells_everything_anew(vcsim_world: VcsimWorld, operator: Session) -> None:
    follower = Follower(vcsim_world.platform)
    end_sessions(operator)
    vm = vcsim_world.new_vm()
    assert follower.look(5).full
    assert vm.ref in by_ref(follower.known)


def test_many_snapshots_are_started_together(vcsim_world: VcsimWorld) -> None:
    vms = [vcsim_world.new_vm() for _ in range(5)]
    results = vcsim_world.platform.create_snapshots([SnapshotOrder(vm_ref=vm.ref, name="hotfirst-m") for vm in vms])
    assert all(isinstance(result, Snapshot) for result in results.values())
    for vm in vms:
        vcsim_world.platform.remove_snapshot("hotfirst-m", vm.ref)


def test_nothing_that_the_product_needs_is_denied_to_an_administrator(vcsim_world: VcsimWorld) -> None:
    assert vcsim_world.platform.missing_privileges() == ()


def test_what_it_does_not_know_is_told_as_our_errors(vcsim_world: VcsimWorld) -> None:
    vm = vcsim_world.new_vm()
    snapshot = take(vcsim_world.platform, vm)
    with pytest.raises(PlatformError) as caught:
        list(vcsim_world.platform.changed_areas(snapshot, vm.disks[0], None))
    assert not isinstance(caught.value, SnapshotFailed)
    vcsim_world.platform.remove_snapshot(snapshot.name, vm.ref)
