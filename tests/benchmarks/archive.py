"""How fast and how small archives are, against restic, borg and qemu-img on the same images in alternation. Only ratios
within one run count: medians of the rounds, peer's time ÷ ours. Prints one JSON object last.

    python -m tests.benchmarks.archive --data DIR [--quick] [--rounds 3]

Every program is run as a process of its own, from its start to its end. Before each run what it is going to read is in
the page cache, and nothing is left to be written to disk. Each round makes fresh repositories.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.archive_images import FULL, QUICK, Images, extents, prepared
from tests.benchmarks.archive_peers import Borg, QemuImg, Restic, Tool, found

READ_BYTES = 4 * 1024 * 1024


@dataclass
class Figures:
    """Of each step and program, one number for each round."""

    seconds: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu_seconds: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    stored_bytes: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    told: dict[str, list[dict[str, int]]] = field(default_factory=lambda: defaultdict(list))

    def median(self, step: str, name: str) -> float:
        return median(self.seconds[step, name])

    def cpu_ratios(self) -> dict[str, float]:
        """What is left to compare by when others work on the machine as well: they stretch the times, not these."""
        medians = {at: median(all_of_it) for at, all_of_it in self.cpu_seconds.items()}
        return {
            f"{step}_vs_{name}": round(value / medians[step, "ours"], 2)
            for (step, name), value in medians.items()
            if name != "ours" and (step, "ours") in medians
        }

    def ratio(self, step: str, peer: str) -> float:
        return round(self.median(step, peer) / self.median(step, "ours"), 2)


@dataclass
class Ours:
    """This store, with the change map of a changed run."""

    name: str = "ours"
    told: dict[str, int] = field(default_factory=dict)

    def create(self, repository: Path) -> None:
        self._run(repository, "create")

    def back_up(self, repository: Path, archive: str, images: Sequence[Path]) -> None:
        self._run(repository, "back_up", archive, ",".join(map(str, images)))

    def back_up_changes(self, repository: Path, archive: str, images: Sequence[Path], base: str, changes: Path) -> None:
        self._run(repository, "back_up", archive, ",".join(map(str, images)), base, str(changes))

    def restore(self, repository: Path, archive: str, image: Path, target: Path) -> None:
        self._run(repository, "restore", archive, str(image), str(target))

    def verify(self, repository: Path) -> None:
        self._run(repository, "verify", "full")

    def _run(self, repository: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.archive_ours", str(repository), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        self.told = json.loads(done.stdout or "{}")


@dataclass
class Bench:
    folder: Path
    images: Images
    figures: Figures
    ours: Ours = field(default_factory=Ours)
    peers: tuple[Tool, ...] = (Restic(), Borg(), QemuImg())

    def repository(self, tool: Tool, use: str = "all") -> Path:
        return self.folder / f"{tool.name}-{use}"

    @contextmanager
    def timed(self, step: str, tool: Tool, reads: Iterable[Path]) -> Iterator[None]:
        for path in reads:
            warm(path)
        os.sync()
        began, cpu_began = time.perf_counter(), cpu_s_of_children()
        yield
        seconds, cpu_s = time.perf_counter() - began, cpu_s_of_children() - cpu_began
        self.figures.seconds[step, tool.name].append(seconds)
        self.figures.cpu_seconds[step, tool.name].append(cpu_s)
        print(f"{step:8} {tool.name:8} {seconds:7.2f} s, {cpu_s:6.2f} s of CPU", flush=True)

    def round(self, number: int) -> None:
        restic, borg, qemu = self.peers
        self._in_turn(number, [restic, borg, self.ours], self.full)
        self._in_turn(number, [restic, borg, self.ours], self.dense)
        self._in_turn(number, [qemu], self.convert)
        self._in_turn(number, [restic, borg, qemu, self.ours], self.restored)
        self._in_turn(number, [restic, self.ours], self.verified)
        self._in_turn(number, [restic, self.ours], self.changed)
        for tool in (*self.peers, self.ours):
            shutil.rmtree(self.repository(tool))

    def _in_turn(self, number: int, tools: list[Tool], step: Callable[[Tool], None]) -> None:
        """Another begins in each round: whoever comes first meets another machine than whoever comes last."""
        at = number % len(tools)
        for tool in tools[at:] + tools[:at]:
            step(tool)

    def full(self, tool: Tool) -> None:
        repository, images = self.repository(tool), self.images.before
        tool.create(repository)
        with self.timed("full", tool, images):
            tool.back_up(repository, "full", images)
        self.figures.stored_bytes[tool.name].append(size_of(repository))
        self._note("full", tool)

    def dense(self, tool: Tool) -> None:
        repository, image = self.repository(tool, "dense"), self.images.before_named("database.img")
        tool.create(repository)
        with self.timed("dense", tool, [image]):
            tool.back_up(repository, "dense", [image])
        shutil.rmtree(repository)

    def convert(self, tool: Tool) -> None:
        repository = self.repository(tool)
        tool.create(repository)
        image = self.images.before_named("root.img")
        with self.timed("convert", tool, [image]):
            tool.back_up(repository, "full", [image])

    def restored(self, tool: Tool) -> None:
        repository, image, target = self.repository(tool), self.images.before_named("root.img"), self.folder / "target"
        target.mkdir()
        with self.timed("restore", tool, [repository]):
            tool.restore(repository, "full", image, target / "image")
            with (target / "image").open("rb") as file:
                os.fsync(file.fileno())
        if run_quietly("cmp", image, target / "image"):
            raise SystemExit(f"{tool.name} restored something else than it backed up.")
        self._note("restore", tool)
        shutil.rmtree(target)

    def verified(self, tool: Tool) -> None:
        repository = self.repository(tool)
        with self.timed("verify", tool, [repository]):
            tool.verify(repository)
        self._note("verify", tool)

    def changed(self, tool: Tool) -> None:
        """The peers read everything: they know nothing of change maps."""
        repository, images = self.repository(tool), self.images.after
        with self.timed("changed", tool, [*images, *metadata(repository)]):
            if isinstance(tool, Ours):
                tool.back_up_changes(repository, "changed", images, "full", self.images.folder / "changes.json")
            else:
                tool.back_up(repository, "changed", images)
        self._note("changed", tool)

    def _note(self, step: str, tool: Tool) -> None:
        if isinstance(tool, Ours):
            self.figures.told[step].append(tool.told)


def cpu_s_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def metadata(repository: Path) -> list[Path]:
    return [repository / "index"] if (repository / "index").exists() else []


def warm(path: Path) -> None:
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                for start, length in extents(file):
                    for at in range(start, start + length, READ_BYTES):
                        os.pread(opened.fileno(), READ_BYTES, at)


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def run_quietly(*command: str | Path) -> int:
    return subprocess.run([str(part) for part in command], capture_output=True, check=False).returncode


def report(figures: Figures, images: Images) -> dict[str, Any]:
    bytes_changed = sum(length for changed in images.changes.values() for _, length in changed)
    told = figures.told
    return {
        "full_vs_restic": figures.ratio("full", "restic"),
        "full_vs_borg": figures.ratio("full", "borg"),
        "dense_vs_restic": figures.ratio("dense", "restic"),
        "dense_vs_borg": figures.ratio("dense", "borg"),
        "changed_vs_restic": figures.ratio("changed", "restic"),
        "restore_vs_restic": figures.ratio("restore", "restic"),
        "restore_vs_borg": figures.ratio("restore", "borg"),
        "restore_vs_qemu_img": figures.ratio("restore", "qemu-img"),
        "verify_vs_restic": figures.ratio("verify", "restic"),
        "stored_vs_restic": round(median(figures.stored_bytes["ours"]) / median(figures.stored_bytes["restic"]), 3),
        "read_per_changed": round(max(one["bytes_read"] for one in told["changed"]) / bytes_changed, 3),
        "writer_rss_mb": max(one["rss_mb"] for step in ("full", "changed") for one in told[step]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder for images and repositories; about 20 GB")
    parser.add_argument("--quick", action="store_true", help="images of an eighth of the size: no figure to quote")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for peer in (Restic(), Borg(), QemuImg()):
        print(f"{peer.name}: {version(peer.program)}")
    for program in ("mke2fs", "debugfs"):
        found(program, "apt-get install e2fsprogs")
    folder = arguments.data.resolve()
    images = prepared(folder / ("quick-images" if arguments.quick else "images"), QUICK if arguments.quick else FULL)
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    figures = Figures()
    for number in range(arguments.rounds):
        Bench(work, images, figures).round(number)
    shutil.rmtree(work)
    print(f"by CPU time alone: {json.dumps(figures.cpu_ratios())}")
    print(json.dumps(report(figures, images), indent=2))


def version(program: str) -> str:
    argument = "version" if program.endswith("restic") else "--version"
    return subprocess.run([program, argument], capture_output=True, text=True, check=True).stdout.split("\n")[0]


if __name__ == "__main__":
    main()
