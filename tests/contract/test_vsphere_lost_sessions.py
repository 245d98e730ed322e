"""Sessions that end, logins that fail, and mutations whose answers are lost: they cost time, and nothing else."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from backups.archive.reader import ArchiveReader
from backups.engine.recovering import differences
from backups.errors import PlatformUnreachable
from backups.platform import Vm
from tests.contract.test_archive_and_recover import Keeper
from tests.contract.test_snapshots import names_of, take
from tests.contract.test_vsphere_sessions import break_once
from tests.contract.worlds import LAB, MIB, LabWorld, connection_to, vm_named
from vsphere import session as sessions
from vsphere.lab.server import LabServer
from vsphere.session import HARMLESS, Session

THREADS = 8


@pytest.fixture
def session(lab_world: LabWorld) -> Iterator[Session]:
    made = Session(connection_to(lab_world.lab))
    yield made
    made.close()


def logins(monkeypatch: pytest.MonkeyPatch, lab_world: LabWorld, answer: Callable[[], None]) -> list[float]:
    """`answer` is asked before each login."""
    real, seen = lab_world.lab.sessions.login, []

    def login(username: str, password: str) -> Any:
        seen.append(time.monotonic())
        answer()
        return real(username, password)

    monkeypatch.setattr(lab_world.lab.sessions, "login", login)
    return seen


def read_root(session: Session) -> bool:
    found = session.call(lambda stub: vim.Folder(session.content.rootFolder._moId, stub).childEntity)
    return bool(found)


def test_many_threads_that_lost_the_session_log_in_once(
    lab_world: LabWorld, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = logins(monkeypatch, lab_world, lambda: time.sleep(0.3))
    lab_world.lab.sessions.end_all()
    with ThreadPoolExecutor(THREADS) as threads:
        assert all(threads.map(lambda _: read_root(session), range(THREADS)))
    assert len(seen) == 1


def test_a_login_that_fails_fails_for_all_who_waited_for_it(
    lab_world: LabWorld, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        time.sleep(0.3)
        raise vim.fault.InvalidLogin(msg="No.")

    def attempt(_: int) -> bool:
        try:
            return read_root(session)
        except vim.fault.InvalidLogin:
            return False

    with monkeypatch.context() as patch:
        seen = logins(patch, lab_world, refuse)
        lab_world.lab.sessions.end_all()
        began = time.monotonic()
        with ThreadPoolExecutor(THREADS) as threads:
            assert not any(threads.map(attempt, range(THREADS)))
        assert len(seen) < THREADS / 2
        assert time.monotonic() - began < 0.3 * THREADS
    assert read_root(session)


def test_an_idle_session_is_kept_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "KEEP_ALIVE_S", 0.2)
    lab = LabServer(tmp_path, spec=LAB, session_idle_s=1.0).start()
    try:
        session = Session(connection_to(lab))
        before = session.cookie()
        time.sleep(2)
        assert read_root(session)
        assert session.cookie() == before
        session.close()
    finally:
        lab.stop()


@pytest.mark.parametrize("name", ["CreateVM_Task", "ReconfigVM_Task", "PowerOnVM_Task", "Destroy_Task", "ImportVApp"])
def test_what_changes_vcenter_is_not_harmless(name: str) -> None:
    assert not HARMLESS.match(name)


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize(
    ("method", "deed", "done"),
    [
        ("ReconfigVM_Task", lambda p, vm: p.enable_change_tracking(vm.ref), lambda vm: vm.change_tracking),
        ("PowerOnVM_Task", lambda p, vm: p.power(vm.ref, True), lambda vm: vm.powered_on),
        ("Destroy_Task", lambda p, vm: p.destroy_vm(vm.ref), lambda vm: vm is None),
    ],
)
def test_no_change_is_sent_twice_and_the_next_attempt_finds_what_it_did(
    lab_world: LabWorld, monkeypatch: pytest.MonkeyPatch, method: str, deed: Any, done: Any, arrives: bool
) -> None:
    vm = lab_world.new_vm(on=False)
    with monkeypatch.context() as patch:
        calls = break_once(patch, method, arrives=arrives)
        with pytest.raises(PlatformUnreachable):
            deed(lab_world.platform, vm)
        assert len(calls) == 1
    deed(lab_world.platform, vm)
    seen = [each for each in lab_world.platform.inventory().vms if each.ref == vm.ref]
    assert done(seen[0] if seen else None)


@pytest.fixture
def killing(lab_world: LabWorld) -> Iterator[Callable[[], int]]:
    """Another operator ends all other sessions, every second, as vCenter's own call does; gives how often so far."""
    stop, kills = threading.Event(), []
    operator = Session(connection_to(lab_world.lab))

    def terminate(stub: Any) -> int:
        manager = vim.SessionManager(operator.content.sessionManager._moId, stub)
        others = [each.key for each in manager.sessionList if each.key != manager.currentSession.key]
        if others:
            manager.TerminateSession(others)
        return len(others)

    def kill() -> None:
        while not stop.wait(1):
            kills.append(operator.call(terminate))

    thread = threading.Thread(target=kill)
    thread.start()
    yield lambda: sum(kills)
    stop.set()
    thread.join()
    operator.close()


def test_a_run_whose_sessions_are_ended_every_second_archives_everything(
    lab_world: LabWorld, tmp_path: Path, killing: Callable[[], int]
) -> None:
    """Rounds over three VMs, all but the first incremental, while guests write and consolidation takes its time."""
    lab_world.lab.lab.faults.want({"consolidation_mib_per_s": 1})
    keeper, chance = Keeper(lab_world, tmp_path), random.Random(9)
    vms = [lab_world.new_vm((4 * MIB, MIB)) for _ in range(3)]
    archives: dict[str, ArchiveReader | None] = dict.fromkeys(vm.ref for vm in vms)
    rounds = 0
    while rounds < 2 or killing() < 8:
        for vm in vms:
            scribble(lab_world, vm, chance)
            archived, archives[vm.ref] = keeper.archive(vm, archives[vm.ref])
            assert archived.full == (rounds == 0)
            assert names_of(lab_world.platform, vm) == []
        rounds += 1
    for vm in vms:
        archive = archives[vm.ref]
        assert archive is not None
        lab_world.platform.power(vm.ref, False)
        assert differences(lab_world.platform, archive, vm.ref) == []


def scribble(world: LabWorld, vm: Vm, chance: random.Random) -> None:
    for _ in range(3):
        world.guest_writes(vm, 2000, chance.randrange(3 * MIB), chance.randbytes(200_000))
    world.guest_writes(vm, 2001, 0, chance.randbytes(50_000))


def test_a_snapshot_taken_while_sessions_end_is_there_once(lab_world: LabWorld, killing: Callable[[], int]) -> None:
    vm = vm_named(lab_world.platform, lab_world.new_vm().name)
    taken = 0
    while killing() < 2:
        name = f"hotfirst-{taken}-1"
        take(lab_world.platform, vm, name)
        assert names_of(lab_world.platform, vm) == [name]
        lab_world.platform.remove_snapshot(name, vm.ref)
        taken += 1
    assert names_of(lab_world.platform, vm) == []
