"""The programs that archives are measured against, each at the best settings that a careful administrator would choose
for images of disks, with encryption where the program has it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol


class Tool(Protocol):
    """Restores into `target`, a file. Every call is one run of a program, its start included."""

    name: str

    def create(self, repository: Path) -> None: ...

    def back_up(self, repository: Path, archive: str, images: Sequence[Path]) -> None: ...

    def restore(self, repository: Path, archive: str, image: Path, target: Path) -> None: ...

    def verify(self, repository: Path) -> None: ...


def run(command: Sequence[str | Path], **options: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")


def found(program: str, package: str) -> str:
    """Beside this Python as well, where pip puts it."""
    path = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    if path is None:
        raise SystemExit(f"{program} is not installed; install it with: {package}")
    return path


@dataclass(frozen=True)
class Restic:
    """Packs of 64 MiB; holes kept where this version can."""

    name: str = "restic"

    @cached_property
    def program(self) -> str:
        return found("restic", "apt-get install restic")

    @cached_property
    def keeps_holes(self) -> list[str]:
        said = subprocess.run([self.program, "restore", "--help"], capture_output=True, text=True, check=True).stdout
        return ["--sparse"] if "--sparse" in said else []

    def create(self, repository: Path) -> None:
        self._run(repository, "init", "--repository-version", "2")

    def back_up(self, repository: Path, archive: str, images: Sequence[Path]) -> None:
        self._run(repository, "backup", "--pack-size", "64", "--tag", archive, *images)

    def restore(self, repository: Path, archive: str, image: Path, target: Path) -> None:
        self._run(
            repository, "restore", "latest", "--tag", archive, "--include", image, "--target", target.parent / "restic",
            *self.keeps_holes,
        )  # fmt: skip
        (target.parent / "restic" / image.relative_to("/")).rename(target)

    def verify(self, repository: Path) -> None:
        self._run(repository, "check", "--read-data")

    def _run(self, repository: Path, *arguments: str | Path) -> None:
        cache = repository.with_name("restic-cache")
        environment = {**os.environ, "RESTIC_PASSWORD": "benchmark", "RESTIC_CACHE_DIR": str(cache)}
        run([self.program, "-q", "-r", repository, *arguments], env=environment)


@dataclass(frozen=True)
class Borg:
    """Fixed chunks of 4 MiB, as its manual advises for images; holes are skipped, and not read."""

    name: str = "borg"

    @cached_property
    def program(self) -> str:
        return found("borg", "pip install -r requirements-benchmarks.txt")

    def create(self, repository: Path) -> None:
        self._run(repository, "init", "--encryption", "repokey-blake2", repository)

    def back_up(self, repository: Path, archive: str, images: Sequence[Path]) -> None:
        options = ["--sparse", "--chunker-params", "fixed,4194304", "--compression", "zstd,3"]
        self._run(repository, "create", *options, f"{repository}::{archive}", *images)

    def restore(self, repository: Path, archive: str, image: Path, target: Path) -> None:
        folder = target.parent / "borg"
        folder.mkdir()
        self._run(repository, "extract", "--sparse", f"{repository}::{archive}", image.relative_to("/"), cwd=folder)
        (folder / image.relative_to("/")).rename(target)

    def verify(self, repository: Path) -> None:
        self._run(repository, "check", "--verify-data", repository)

    def _run(self, repository: Path, *arguments: str | Path, **options: object) -> None:
        base = repository.with_name("borg-base")
        environment = {**os.environ, "BORG_PASSPHRASE": "benchmark", "BORG_BASE_DIR": str(base)}
        run([self.program, *arguments], env=environment, **options)


@dataclass(frozen=True)
class QemuImg:
    """Neither encrypts nor deduplicates: one compressed image for each disk."""

    name: str = "qemu-img"

    @cached_property
    def program(self) -> str:
        return found("qemu-img", "apt-get install qemu-utils")

    def create(self, repository: Path) -> None:
        repository.mkdir()

    def back_up(self, repository: Path, archive: str, images: Sequence[Path]) -> None:
        options = ["-c", "-m", "4", "-W", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd"]
        for image in images:
            run([self.program, "convert", *options, image, repository / f"{archive}-{image.name}"])

    def restore(self, repository: Path, archive: str, image: Path, target: Path) -> None:
        options = ["-m", "4", "-W", "-S", "64k", "-f", "qcow2", "-O", "raw"]
        run([self.program, "convert", *options, repository / f"{archive}-{image.name}", target])

    def verify(self, repository: Path) -> None:
        for image in repository.iterdir():
            run([self.program, "check", image])
