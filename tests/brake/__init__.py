"""A brake for processes under test: they stop at their n-th finished file, so that a kill or a signal hits them at work.

Waiting for a process to come half-way and then acting is a race, lost on a fast machine and on a busy one. A process under
a brake cannot get further: it finishes `count` files whose paths match, and holds at the next, before that one gets its name,
until the brake is released, the process is told to stop, or it is killed.

    brake = Brake(folder)                        # an empty folder of its own
    brake.set("bokeh_renders/*/*.png", 5)        # hold whoever has finished five
    subprocess.Popen(..., env=brake.environment) # Python below site/ puts the brake on as it starts; or call put_on(folder)
    ... brake.held() ...                         # process ids that hold now
    brake.release()                              # they go on, and nobody is held any more

Files get their names by a rename here, which CPython's audit events report, so the code under test is what it always is.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path, PurePath

VARIABLE = "BOKEHFLOW_TEST_BRAKE"
SITE = Path(__file__).parent / "site"
POLL_S = 0.005


class Brake:
    """The test's side: a folder with the order, and a note from every process that holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """What a Python process needs to come under this brake."""
        path = os.pathsep.join(filter(None, (str(SITE), os.environ.get("PYTHONPATH"))))
        return {**os.environ, VARIABLE: str(self.folder), "PYTHONPATH": path}

    def set(self, pattern: str, count: int, *, memory_mb: int = 0) -> None:
        """Hold every process that finishes more than `count` files; one that holds takes so much memory besides."""
        order = {"pattern": pattern, "count": count, "memory_mb": memory_mb}
        partial = self.folder / "order.partial"
        partial.write_text(json.dumps(order))
        partial.rename(self.folder / "order.json")

    def release(self) -> None:
        """Let go of all, for good or until the next order."""
        (self.folder / "order.json").unlink()

    def held(self) -> list[int]:
        """Ids of processes that were held, dead ones included."""
        return sorted(int(path.suffix[1:]) for path in self.folder.glob("held.*"))

    def wait(self, processes: int = 1, timeout_s: float = 240) -> list[int]:
        """Wait until so many processes hold; returns their ids."""
        deadline = time.monotonic() + timeout_s
        while len(found := self.held()) < processes:
            assert time.monotonic() < deadline, f"{len(found)} of {processes} processes reached the brake"
            time.sleep(0.02)
        return found


def put_on(folder: Path) -> None:
    """The process's side: obey the brake in `folder` from now on."""
    lock = threading.Lock()  # files may be finished by several threads
    finished = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal finished
        if event != "os.rename":
            return
        order = _order(folder)
        if order is None or not PurePath(os.fsdecode(arguments[1])).match(order["pattern"]):
            return
        with lock:
            finished += 1
            over = finished > order["count"]
        if over:
            _hold(folder, order["memory_mb"])

    sys.addaudithook(watch)


def _order(folder: Path) -> dict | None:
    try:
        return json.loads((folder / "order.json").read_bytes())
    except FileNotFoundError:
        return None


def _hold(folder: Path, memory_mb: int) -> None:
    ballast = b"\1" * (memory_mb << 20)  # not zeros, which would cost no memory
    (folder / f"held.{os.getpid()}").touch()
    while (folder / "order.json").exists() and not _told_to_stop():
        time.sleep(POLL_S)
    del ballast


def _told_to_stop() -> bool:
    """Whether a signal waits for the next safe point, which a held process must be let go to reach."""
    return bool(getattr(getattr(signal.getsignal(signal.SIGTERM), "__self__", None), "received", None))
