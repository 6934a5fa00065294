"""Mutated inputs through their readers, in a worker that is watched for time, memory and what it raises.

Input n is a function of the seed and n. The worker lives for thousands of inputs; one that hangs in a library is killed, and
a new worker goes on with the next input.
"""

import contextlib
import io
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table

from torture import machine, subjects

TIME_LIMIT_S = 20.0  # of one input, on a busy machine; the readers take tens of milliseconds
HANG_S = 60.0
MEMORY_LIMIT_MB = 400
CLEAN, ACCEPTED, TRACEBACK, MEMORY, HANG = "clean errors", "accepted", "tracebacks", "over memory", "hangs"


@dataclass(kw_only=True)
class Found:
    """What the closing table shows."""

    verdicts: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    outside: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.outside or any(self.verdicts[kind] for kind in (TRACEBACK, MEMORY, HANG)))

    def table(self) -> Table:
        table = Table(title=f"{sum(self.verdicts.values())} mutated inputs in {len(self.formats)} formats")
        for column in ("cases", CLEAN, ACCEPTED, TRACEBACK, MEMORY, HANG, "outside"):
            table.add_column(column, justify="right")
        counts = [self.verdicts[kind] for kind in (CLEAN, ACCEPTED, TRACEBACK, MEMORY, HANG)]
        table.add_row(*(str(count) for count in (sum(self.verdicts.values()), *counts, self.outside)))
        return table


class TooSlowError(BaseException):
    """The alarm rang; no handler for failures may take it for one."""


def _ring(number: int, frame: FrameType | None) -> None:
    raise TooSlowError


def _peak_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def judge(root: Path, one: Any, seed: int, number: int) -> tuple[str, str]:
    """Damage one file, read it, put the sample back. Returns the verdict and what to know of it."""
    from pipeline.errors import PipelineError
    from torture.mutations import mutate, put_in_place

    rng = random.Random(f"{seed}/{number}")
    path = root / one.file
    sample = path.read_bytes()
    stamp = path.stat()
    reader = rng.choice(one.readers)
    put_in_place(path, mutate(sample, path.name, rng), rng)
    # The scale of what was in use before: the peak is set back to it, since damaging may take more than reading.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before_mb = _peak_mb()
    said, verdict = "", ACCEPTED
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            reader(root)
    except PipelineError as error:
        verdict, said = CLEAN, str(error)
    except TooSlowError:
        verdict, said = HANG, "".join(traceback.format_stack()[-3:])
    except BaseException as error:
        where = [frame for frame in traceback.extract_tb(error.__traceback__) if "/torture/" not in frame.filename]
        place = f"{Path(where[-1].filename).name}:{where[-1].lineno}" if where else "?"
        ours = [frame for frame in where if "/pipeline/" in frame.filename or "/model/" in frame.filename]
        place += f", ours {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
        verdict, said = TRACEBACK, f"{type(error).__name__}: {str(error)[:200]!r} at {place}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.write_bytes(sample)
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    used_mb = _peak_mb() - before_mb
    if verdict in (CLEAN, ACCEPTED) and used_mb > MEMORY_LIMIT_MB:
        verdict, said = MEMORY, f"{used_mb:.0f} MB more"
    return verdict, said


def _work(pipe: Any, root: Path, seed: int, numbers: Any, names: tuple[str, ...]) -> None:
    from torture.formats import FORMATS

    resource.setrlimit(resource.RLIMIT_DATA, (6 << 30, 6 << 30))  # a reader without bounds ends here, not the machine
    sys.setrecursionlimit(1000)
    signal.signal(signal.SIGALRM, _ring)
    os.environ["BOKEHFLOW_LEASE_EXPIRES_S"] = "600"
    chosen = [one for one in FORMATS if not names or one.name in names]
    for number in numbers:
        one = chosen[number % len(chosen)]
        pipe.send((number, one.name, *judge(root, one, seed, number)))


def _state(root: Path) -> dict[str, tuple[int, int]]:
    """Every file of the project but those that readers may write, a lease's: to see that reading changes nothing."""
    return {
        str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".pipeline" not in path.parts
    }


def run(
    root: Path, seed: int, first: int, count: int | None, seconds: float, formats: list[str] | None, console: Console
) -> Found:
    """`count` inputs from number `first` on, or as many as there is time for."""
    from conftest import REPOSITORY

    from torture.formats import samples

    root.mkdir()
    project = root / "project"
    with contextlib.redirect_stdout(io.StringIO()):
        subjects.build(project)
    samples(project, REPOSITORY)
    shutil.copytree(project, root / "whole", symlinks=True)
    before, around = _state(project), {path.name for path in root.iterdir()}
    found = Found()
    deadline = time.monotonic() + seconds
    last = first + (10**9 if count is None else count)
    number = first
    while number < last and (count is not None or time.monotonic() < deadline):
        stop = deadline if count is None else None
        number = _one_worker(project, seed, range(number, last), tuple(formats or ()), found, console, stop)
        if number < last:  # whoever was killed did not put its sample back
            shutil.rmtree(project)
            shutil.copytree(root / "whole", project, symlinks=True)
    after = _state(project)
    changed = [name for name in {*before, *after} if before.get(name) != after.get(name)]
    found.outside = len({path.name for path in root.iterdir()} - around) + len(changed)
    for name in changed[:5]:
        console.print(f"changed by reading: {name}")
    shutil.rmtree(root)
    return found


def _one_worker(
    project: Path,
    seed: int,
    numbers: range,
    names: tuple[str, ...],
    found: Found,
    console: Console,
    deadline: float | None,
) -> int:
    """Run inputs until they are done, time is up, or the worker hangs; returns the number to go on with."""
    context = machine.spawner()
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(send, project, seed, numbers, names))
    process.start()
    send.close()
    at = numbers.start
    try:
        while at < numbers.stop and (deadline is None or time.monotonic() < deadline):
            if not receive.poll(HANG_S + (60 if at == numbers.start else 0)):
                number, name, verdict, said = at, "?", HANG, "inside a library"
            else:
                try:
                    number, name, verdict, said = receive.recv()
                except EOFError:
                    process.join()
                    number, name, verdict, said = at, "?", TRACEBACK, f"the worker ended with {process.exitcode}"
            found.verdicts[verdict] += 1
            found.formats[name] += 1
            if verdict in (TRACEBACK, MEMORY, HANG):
                found.problems.append(said)
                console.print(f"input {number}, {name}: {verdict}: {said}", markup=False, soft_wrap=True)
            at = number + 1
            if name == "?":
                break
    finally:
        process.kill()
        process.join()
    return at
