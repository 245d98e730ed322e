"""`python -m backups.archive`, as somebody uses it whose portal is gone."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backups.archive import __main__ as rescue
from backups.archive import key_objects, recovery_sheet
from backups.archive.store import FolderStore
from backups.errors import RepositoryUnavailable
from tests.unit.archive.disks import CONFIG, MIB, archive
from tests.unit.archive.test_damage import data_pack, flip, objects
from tests.unit.archive.test_key_objects import OLD, QUICK, RING

ROOT = Path(__file__).parents[3]


@pytest.fixture
def repository(store, alice, disk) -> str:
    disk.content.extend(bytes(20 * MIB))
    archive(store, alice, disk, "a1")
    return str(store.root)


@pytest.fixture
def sheet(alice, tmp_path) -> str:
    (tmp_path / "sheet.txt").write_text(recovery_sheet.printable(alice))
    return str(tmp_path / "sheet.txt")


def run(*arguments: str, answer: str = "") -> "subprocess.CompletedProcess[str]":
    """In a process of its own, where Django cannot be imported."""
    program = (
        "import runpy, sys; sys.modules['django'] = None; runpy.run_module('backups.archive', run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        input=answer, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip


def test_a_disk_comes_back_from_a_folder_and_a_sheet_of_paper(repository, sheet, disk, tmp_path):
    ended = run("restore", repository, "a1", str(tmp_path / "out"), "--key", sheet)
    assert ended.returncode == 0, ended.stderr
    image = tmp_path / "out/disk-2000.raw"
    assert image.read_bytes() == disk.content
    assert image.stat().st_blocks * 512 < 5 * MIB, "holes are kept"
    assert json.loads((tmp_path / "out/config.json").read_text())["config"] == CONFIG


def test_the_passphrase_is_asked_for(store, repository, alice):
    key_objects.publish(store, "alice", key_objects.seal_by_passphrase(alice, OLD, QUICK))
    ended = run("list", repository, answer=f"{OLD}\n")
    assert "a1 " in ended.stdout
    assert "web-1" in ended.stdout
    assert "does not open" in run("list", repository, answer="wrong, sadly\n").stderr


def test_the_provider_reads_with_his_master_keys(store, repository, alice, tmp_path, capsys):
    key_objects.publish(store, "alice", key_objects.seal_by_master(alice, RING))
    ring = {"current": "aa", "keys": {name: key.hex() for name, key in RING.keys.items()}}
    (tmp_path / "master.key").write_text(json.dumps(ring))
    assert rescue.main(["show", repository, "a1", "--master-key", str(tmp_path / "master.key")]) == 0
    assert json.loads(capsys.readouterr().out)["config"] == CONFIG


def test_a_key_file_lies_anywhere(repository, alice, tmp_path):
    (tmp_path / "key").write_bytes(key_objects.seal_by_passphrase(alice, OLD, QUICK))
    assert "web-1" in run("list", repository, "--key", str(tmp_path / "key"), answer=f"{OLD}\n").stdout


def test_damage_is_shown_by_every_command_that_looks(store, repository, sheet, capsys):
    flip(store, data_pack(store), 2000)
    assert rescue.main(["verify", repository, "--key", sheet]) == 1
    assert "DAMAGED" in capsys.readouterr().out
    assert rescue.main(["list", repository, "--key", sheet]) == 0
    assert "1 chunks" in capsys.readouterr().out
    assert rescue.main(["scrub", repository]) == 1
    assert "1 damaged" in capsys.readouterr().out


def test_a_damaged_index_is_repaired_and_everything_is_readable_again(store, repository, sheet, capsys):
    for name in objects(store, "index"):
        flip(store, name, 100)
    assert rescue.main(["verify", repository, "--key", sheet]) == 1
    assert "repair" in capsys.readouterr().out
    assert rescue.main(["repair", repository, "--key", sheet]) == 0
    assert rescue.main(["verify", repository, "--key", sheet]) == 0


def test_a_sound_repository_is_scrubbed_by_parts_without_a_key(repository, capsys):
    assert [rescue.main(["scrub", repository, "--share", f"{n}/3"]) for n in (1, 2, 3)] == [0, 0, 0]
    assert capsys.readouterr().out.count("0 damaged") == 3


def test_archives_are_copied_and_counted(repository, sheet, tmp_path, capsys):
    FolderStore.create(tmp_path / "other")
    assert rescue.main(["copy", repository, str(tmp_path / "other"), "--key", sheet]) == 0
    capsys.readouterr()
    assert rescue.main(["statistics", str(tmp_path / "other"), "--key", sheet]) == 0
    assert json.loads(capsys.readouterr().out)["archives"] == 1
    assert rescue.main(["verify", str(tmp_path / "other"), "a", "--key", sheet]) == 0


def test_a_copy_on_a_read_only_medium_is_read_and_its_damage_told(
    store, repository, sheet, tmp_path, monkeypatch, capsys
):
    def refuse(*_):
        raise RepositoryUnavailable("Read-only file system.")

    monkeypatch.setattr(FolderStore, "begin", refuse)
    monkeypatch.setattr("backups.archive.store.os.access", lambda *_: False)
    assert rescue.main(["restore", repository, "a1", str(tmp_path / "out"), "--key", sheet]) == 0
    flip(store, data_pack(store), 2000)
    capsys.readouterr()
    assert rescue.main(["verify", repository, "--key", sheet]) == 1
    assert "1 damaged chunks" in capsys.readouterr().out
    assert rescue.main(["scrub", repository]) == 1
    assert rescue.main(["copy", repository, repository, "--key", sheet]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_new_sheet_is_printed(repository, sheet, alice, capsys):
    assert rescue.main(["sheet", repository, "--key", sheet]) == 0
    assert recovery_sheet.parse(capsys.readouterr().out) == alice


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["list", "/nowhere"], "mounted"),
        (["show", "{repository}", "zz"], "“list” shows"),
        (["show", "{repository}", "a1", "--key", "/nowhere"], "cannot be read"),
        (["restore", "{repository}", "a1", "{tmp}/out", "--disk", "7"], "no disk 7"),
        (["scrub", "{repository}", "--share", "9/7"], "third of seven"),
        (["list", "{repository}", "--tenant", "../x"], "leave --tenant out"),
        (["copy", "{repository}", "/nowhere"], "mounted"),
    ],
)
def test_errors_say_what_to_do(repository, sheet, tmp_path, capsys, arguments, advice):
    arguments = [a.format(repository=repository, tmp=tmp_path) for a in arguments]
    key = [] if "--key" in arguments or arguments[0] == "scrub" else ["--key", sheet]
    assert rescue.main([*arguments, *key]) == 1
    assert advice in capsys.readouterr().err


def test_without_any_key_it_says_which_there_are(repository):
    assert "recovery sheet" in run("list", repository, answer="\n").stderr


def test_several_tenants_are_told_apart(store, repository, bob, disk, capsys):
    archive(store, bob, disk, "b1")
    assert rescue.main(["scrub", repository]) == 1
    assert "--tenant: alice, bob" in capsys.readouterr().err
    assert rescue.main(["scrub", repository, "--tenant", "bob"]) == 0


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_a_disk_is_mounted_without_being_restored(repository, sheet, disk, tmp_path):
    command = [sys.executable, "-m", "backups.archive", "mount", repository, "a1", "--key", sheet]
    with subprocess.Popen(
        [*command, "--socket", tmp_path / "s"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            while not (tmp_path / "s").exists():
                assert server.poll() is None
                time.sleep(0.05)
            address = server.stdout.readline().strip().partition(": ")[2]
            subprocess.run(["qemu-img", "convert", "-O", "raw", address, tmp_path / "disk.raw"], check=True, timeout=30)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=10)
    assert not (tmp_path / "s").exists()
    assert (tmp_path / "disk.raw").read_bytes()[: len(disk.content)] == disk.content
