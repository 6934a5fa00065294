"""Rounds: a fresh project, a few disturbances of one command, and an undisturbed run that must reach the same bytes.

A round is a function of the seed and its number, so that one that fails can be run again alone; what the kernel's scheduler
adds is not reproducible, and a failing round may need several tries.
"""

import contextlib
import io
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torture import machine, subjects
from torture.disturb import EXPIRES_S, KINDS, Round
from torture.subjects import Subject

LEFTOVERS = ("*.tmp", "*.lease", "*.partial*", "*.work", "*.old")
FAULTS = ("Traceback (most recent call last)", "this is a fault of the program")


@dataclass(kw_only=True)
class Counts:
    """What the closing table shows."""

    rounds: int = 0
    disturbances: dict[str, int] = field(default_factory=dict)
    by_subject: dict[str, int] = field(default_factory=dict)
    compared: int = 0
    differing: int = 0
    done_twice: int = 0
    orphans: int = 0
    leftovers: int = 0
    tracebacks: int = 0
    outside: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.disturbances.values())

    @property
    def clean(self) -> bool:
        counted = (self.differing, self.done_twice, self.orphans, self.leftovers, self.tracebacks, self.outside)
        return not any(counted) and not self.problems


class Campaign:
    """Attacks commands in `root`, a folder of its own on a disk that knows fsync."""

    def __init__(self, root: Path, seed: int, only: tuple[Subject, ...] = subjects.SUBJECTS) -> None:
        self._root, self._seed, self._subjects = root, seed, only
        self._context = machine.spawner()
        self._built = root / "built"
        with _quiet():
            subjects.build(self._built)
        unshared = machine.can_unshare(self._context, root / "unshare.txt")
        self._places = machine.PLACES if unshared else machine.PLACES[:2]
        self.counts = Counts(skipped={} if unshared else {"namespaces": 1})
        self._expected: dict[str, tuple[dict[str, object], float]] = {}
        for subject in only:
            self._expected[subject.name] = self._undisturbed(subject)
        self._outside = _listing(root)

    def _undisturbed(self, subject: Subject) -> tuple[dict[str, object], float]:
        root = self._root / "reference"
        subjects.lay_out(self._built, root, subject)
        attack = self._round(root, subject, random.Random(0), 0.0)
        worker = attack.start()
        lease = subject.lease_path(root)
        while lease is not None and worker.alive and not lease.exists():
            time.sleep(0.0005)
        started = time.monotonic()
        code = worker.wait()
        seconds = time.monotonic() - started
        assert code == 0, f"{subject.name} undisturbed ended with {code}: {attack.log.read_text()}"
        found = subjects.results(root, subject)
        assert found, f"{subject.name} wrote nothing"
        shutil.rmtree(root)
        return found, seconds

    def _round(self, root: Path, subject: Subject, rng: random.Random, work_s: float) -> Round:
        return Round(context=self._context, root=root, subject=subject, rng=rng, work_s=work_s, places=self._places)

    def run(self, number: int) -> None:
        """Round `number`."""
        rng = random.Random(f"{self._seed}/{number}")
        subject = self._subjects[number % len(self._subjects)]
        expected, work_s = self._expected[subject.name]
        root = self._root / f"round_{number}"
        subjects.lay_out(self._built, root, subject)
        attack = self._round(root, subject, rng, work_s)
        names, weights = list(KINDS), [weight for _, weight in KINDS.values()]
        finished: dict[Path, tuple[int, int]] = {}
        story = []
        for _ in range(rng.choice((1, 2, 3))):
            kind = rng.choices(names, weights)[0]
            story.append(kind)
            try:
                KINDS[kind][0](attack)
            except PermissionError:
                self.counts.skipped[kind] = self.counts.skipped.get(kind, 0) + 1
                continue
            self.counts.disturbances[kind] = self.counts.disturbances.get(kind, 0) + 1
            self.counts.by_subject[subject.name] = self.counts.by_subject.get(subject.name, 0) + 1
            if kind in ("kill", "signal", "two workers"):
                now = subjects.finished(root)
                attack.note_done_twice(finished, now)
            finished = subjects.finished(root)
        self._finish(attack, expected, finished)
        self._judge(number, attack, expected, story)

    def _finish(self, attack: Round, expected: dict[str, object], before: dict[Path, tuple[int, int]]) -> None:
        """Run the command undisturbed until it has nothing more to do; a lease of somebody who cannot be seen to be dead has
        to fall silent first."""
        redo = ("--on_stale", "redo") if attack.subject.lease else ()
        for _ in range(8):
            attack.end(attack.start(flags=(*attack.subject.flags, *redo)), 0, 3 if attack.subject.lease else 1)
            if subjects.results(attack.root, attack.subject) == expected and not _leftovers(attack.root):
                break
            time.sleep(EXPIRES_S)
        if not attack.subject.others:
            attack.note_done_twice(before, subjects.finished(attack.root))

    def _judge(self, number: int, attack: Round, expected: dict[str, object], story: list[str]) -> None:
        counts, root = self.counts, attack.root
        found = subjects.results(root, attack.subject)
        differing = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]
        leftovers = _leftovers(root)
        text = attack.log.read_text(errors="replace") if attack.log.exists() else ""
        tracebacks = sum(text.count(fault) for fault in FAULTS)
        outside = {name for name in _listing(self._root) - self._outside if not name.startswith("round_")}
        counts.rounds += 1
        counts.compared += len(expected)
        counts.differing += len(differing)
        counts.leftovers += len(leftovers)
        counts.tracebacks += tracebacks
        counts.outside += len(outside)
        counts.done_twice += len(attack.done_twice)
        counts.orphans += attack.orphans
        found_fault = differing or leftovers or tracebacks or outside or attack.done_twice or attack.orphans
        if found_fault or attack.problems:
            details = [
                *attack.problems,
                *(f"differs: {name}" for name in differing[:3]),
                *(f"left: {path.relative_to(root)}" for path in leftovers[:3]),
                *(f"outside: {name}" for name in sorted(outside)[:3]),
                *(f"done twice: {name}" for name in attack.done_twice[:3]),
                *([f"orphans: {attack.orphans}"] if attack.orphans else []),
                *(line for line in text.splitlines() if any(fault in line for fault in FAULTS)),
            ]
            counts.problems.append(f"round {number}, {attack.subject.name}, {', '.join(story)}: {'; '.join(details)}")
        else:
            shutil.rmtree(root)


def _leftovers(root: Path) -> list[Path]:
    return [path for pattern in LEFTOVERS for path in root.rglob(pattern)]


def _listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@contextmanager
def _quiet() -> Iterator[Any]:
    with contextlib.redirect_stdout(io.StringIO()) as sink:
        yield sink
