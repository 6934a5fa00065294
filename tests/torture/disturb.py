"""Disturbances of one command at work. Each leaves a state from which an undisturbed run must reach the same bytes."""

import errno
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torture import machine, subjects
from torture.subjects import NAME, Subject

EXPIRES_S = 0.3  # of leases in this campaign
ENVIRONMENT = {"BOKEHFLOW_LEASE_EXPIRES_S": str(EXPIRES_S)}


@dataclass(kw_only=True)
class Round:
    """One subject under attack.

    Args:
        context: the server that forks workers.
        root: the project.
        subject: the command.
        rng: decides everything that is random.
        work_s: how long the subject works undisturbed.
        places: where workers can run on this machine.
    """

    context: Any
    root: Path
    subject: Subject
    rng: random.Random
    work_s: float
    places: tuple[str, ...]
    done_twice: list[str] = field(default_factory=list)
    orphans: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.root / "said.txt"

    def start(self, place: str = "here", flags: tuple[str, ...] | None = None) -> machine.Worker:
        given = self.subject.flags if flags is None else flags
        argv = self.subject.argv(self.root, given)
        return machine.Worker(
            self.context, subjects.run, (self.subject.script, argv), self.log, place, environment=ENVIRONMENT
        )

    def at_work(self, worker: machine.Worker) -> None:
        """Wait for a random moment of the work: where it spends its time, not where it starts."""
        lease = self.subject.lease_path(self.root)
        deadline = time.monotonic() + 30
        while lease is not None and worker.alive and not lease.exists() and time.monotonic() < deadline:
            time.sleep(0.0005)
        time.sleep(self.rng.random() * self.work_s)

    def end(self, worker: machine.Worker, *allowed: int) -> int | None:
        code = worker.wait()
        if code is None:
            self.problems.append("hang")
        elif allowed and code not in allowed:
            self.problems.append(f"exit code {code}, allowed are {allowed}")
        self.orphans += worker.orphans()
        return code

    def note_done_twice(self, before: dict[Path, tuple[int, int]], now: dict[Path, tuple[int, int]]) -> None:
        """Every output that was whole before must be the same file now."""
        for path, stamp in before.items():
            if now.get(path) != stamp:
                self.done_twice.append(f"{path.relative_to(self.root)} {stamp} {now.get(path)}")

    def scene(self) -> dict[str, object]:
        """The scene's files, as far as the subject writes them."""
        found = subjects.results(self.root, self.subject)
        return {name: value for name, value in found.items() if name.startswith("output/")}

    def place(self) -> str:
        return self.rng.choice(self.places)


def kill(attack: Round) -> None:
    """SIGKILL, perhaps inside a namespace, where nobody outside can tell whether the process lives."""
    worker = attack.start(attack.place())
    attack.at_work(worker)
    worker.kill()
    attack.orphans += worker.orphans()


def ask(attack: Round) -> None:
    """A signal that asks for a stop."""
    worker = attack.start()
    attack.at_work(worker)
    worker.signal(attack.rng.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)))
    attack.end(worker)


def stop_past_the_lease(attack: Round) -> None:
    """A node hangs; a successor, perhaps with other settings, takes the scene over and may be killed; the first wakes up."""
    elsewhere = [place for place in attack.places if place != "here"]
    first = attack.start()
    attack.at_work(first)
    first.signal(signal.SIGSTOP)
    time.sleep(EXPIRES_S * 1.05)
    flags = attack.subject.flags
    if attack.subject.others and attack.rng.random() < 0.5:
        flags = (*attack.subject.others, "--on_stale", "redo")
    successor = attack.start(attack.rng.choice(elsewhere), flags)
    if attack.rng.random() < 0.5:
        attack.at_work(successor)
        successor.kill()
        attack.orphans += successor.orphans()
    else:
        attack.end(successor, 0, 3 if attack.subject.lease else 1)  # or the lease still looks alive on a busy machine
    wakes_at_work = attack.rng.random() < 0.3
    third = attack.start(attack.rng.choice(elsewhere), flags) if wakes_at_work else None
    if third is not None:
        attack.at_work(third)
    before = None if third is not None and third.alive else attack.scene()
    whole = before is not None and _is_done(attack)
    first.signal(signal.SIGCONT)
    attack.end(first)
    if whole and attack.scene() != before:
        attack.problems.append("a worker that lost its lease changed finished work")
    if third is not None:
        attack.end(third)


def _is_done(attack: Round) -> bool:
    folder = {"deblur": "frames_sharp", "depth": "depth_maps", "render": "bokeh_renders"}.get(attack.subject.lease, "")
    return bool(folder) and (attack.root / "output" / NAME / folder / ".done").exists()


def two_workers(attack: Round) -> None:
    """Two or three at once, one of them held up for a moment, in any places."""
    workers = [attack.start(attack.place()) for _ in range(attack.rng.choice((2, 2, 3)))]
    attack.at_work(workers[0])
    workers[0].signal(signal.SIGSTOP)
    time.sleep(attack.rng.random() * EXPIRES_S / 3)
    workers[0].signal(signal.SIGCONT)
    for worker in workers:
        # Refused by the lease, or by the finished work of a successor with other settings, is as good as done.
        attack.end(worker, 0, *((3,) if attack.subject.lease else (1,)))


def on_a_small_disk(attack: Round, disturb: Callable[[Round, Path], None]) -> None:
    """Move the output to a file system of its own for a while."""
    output, aside, disk = attack.root / attack.subject.disk, attack.root / "aside", attack.root / "disk"
    output.rename(aside)
    with machine.small_disk(disk, 16_000_000):
        shutil.copytree(aside, disk / "output")
        output.symlink_to(disk / "output")
        try:
            disturb(attack, disk)
        finally:
            output.unlink()
            shutil.rmtree(aside)
            shutil.copytree(disk / "output", output)


def full_disk(attack: Round) -> None:
    """Room for a few blocks only: a reason in words, and nothing half written."""

    def fill(attack: Round, disk: Path) -> None:
        ballast = disk / "ballast"
        with ballast.open("wb") as file:
            try:
                while True:
                    os.write(file.fileno(), b"x" * 4096)
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
            os.ftruncate(file.fileno(), max(0, file.tell() - 4096 * attack.rng.randrange(24)))
        attack.end(attack.start(), 0, 1, 3)
        ballast.unlink()

    on_a_small_disk(attack, fill)


def read_only_disk(attack: Round) -> None:
    """The disk is read-only, from the start or from the middle of the work on (which a writer may refuse)."""

    def freeze(attack: Round, disk: Path) -> None:
        machine.set_read_only(disk, True)
        attack.end(attack.start(), 0, 1, 3)
        machine.set_read_only(disk, False)

    on_a_small_disk(attack, freeze)


def links(attack: Round) -> None:
    """Something below the output root is a link to somebody's files: refused, and those files are as they were."""
    scene = attack.root / "output" / NAME
    places = [path for path in [scene, *scene.rglob("*")] if path.name != ".done" and not path.is_symlink()]
    linked = attack.rng.choice(sorted(places))
    away = attack.root / "somebody" / linked.name
    away.parent.mkdir(exist_ok=True)
    linked.rename(away)
    linked.symlink_to(away, target_is_directory=away.is_dir())
    before = {path: path.read_bytes() for path in away.parent.rglob("*") if path.is_file()}
    redo = ("--redo", "--scene", NAME) if attack.subject.lease and attack.rng.random() < 0.5 else ()
    attack.end(attack.start(flags=(*attack.subject.flags, *redo)))
    if {path: path.read_bytes() for path in away.parent.rglob("*") if path.is_file()} != before:
        attack.problems.append(f"files behind the link {linked} were touched")
    if linked.is_symlink():
        linked.unlink()
        away.rename(linked)
    elif linked.is_file():  # replaced by a rename, which follows no link
        away.unlink()
    else:
        attack.problems.append(f"the link {linked} was removed")
    shutil.rmtree(away.parent)  # a link that was removed leaves what it led to


KINDS: dict[str, tuple[Callable[[Round], None], int]] = {
    "kill": (kill, 6),
    "signal": (ask, 2),
    "stop past the lease": (stop_past_the_lease, 5),
    "two workers": (two_workers, 3),
    "full disk": (full_disk, 2),
    "read-only disk": (read_only_disk, 1),
    "links": (links, 2),
}
