"""The machine under attack: processes that can be killed whole, other namespaces, disks that are small or read-only.

Linux only, and most of it needs root or user namespaces; what is not possible is skipped and counted.
"""

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWPID = 0x00020000, 0x20000000
MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE, MNT_DETACH = 1, 32, 16384, 1 << 18, 2
PRELOAD = [
    "conftest",
    "torture.subjects",
    "pipeline.cli",
    "pipeline.phases.runner",
    "pipeline.engines.lens",
    "model.train",
    "model.training.trainer",
    "model.video.apply",
    "torch.utils.tensorboard",
]
PLACES = ("here", "other host", "namespace", "namespace with its own /proc")


def spawner() -> Any:
    """A server that has everything imported and forks workers in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _call(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _enter(place: str) -> None:
    """Become a process on another host, or the first one of a PID namespace; the outer one waits and exits alike."""
    if place == "here":
        return
    if place == "other host":
        from pipeline.storage import holder

        holder.boot_id = lambda: "another host"  # type: ignore[assignment]
        return
    _call(LIBC.unshare(CLONE_NEWPID | CLONE_NEWNS))
    inner = os.fork()
    if inner:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) & 0xFF)
    if place.endswith("/proc"):
        _call(LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
        _call(LIBC.mount(b"proc", b"/proc", b"proc", 0, None))


def _begin(
    target: Callable[..., int], args: tuple[Any, ...], log: str, place: str, environment: dict[str, str]
) -> None:
    os.setsid()
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.environ.update(environment)
    _enter(place)
    os._exit(target(*args))


class Worker:
    """A command in a session of its own, so that everything it starts can be found and stopped with it."""

    def __init__(
        self,
        context: Any,
        target: Callable[..., int],
        args: tuple[Any, ...],
        log: Path,
        place: str = "here",
        environment: dict[str, str] | None = None,
    ) -> None:
        self.process = context.Process(target=_begin, args=(target, args, str(log), place, environment or {}))
        self.process.start()

    @property
    def alive(self) -> bool:
        return bool(self.process.is_alive())

    def signal(self, number: int) -> None:
        """To every process of the session."""
        for pid in session(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL to the commanding process alone: whether its helpers go too is what is tested."""
        members = session(self.process.pid)
        inner = [pid for pid in members if _parent(pid) == self.process.pid and _same_work(pid, self.process.pid)]
        for pid in [*inner, self.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.join(20)

    def wait(self, timeout_s: float = 120.0) -> int | None:
        """Exit code; None for a hang, which is ended."""
        self.process.join(timeout_s)
        if self.alive:
            self.signal(signal.SIGKILL)
            self.process.join(20)
            return None
        return int(self.process.exitcode or 0)

    def orphans(self, grace_s: float = 20.0) -> int:
        """Processes of the session that outlive it; they are ended."""
        deadline = time.monotonic() + grace_s
        while (left := session(self.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(left)


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["Z", "0", "0", "0"]


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _same_work(pid: int, outer: int) -> bool:
    """Whether a child is the inner process of a namespace rather than a helper: a fork, so with the same command line."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes() == Path(f"/proc/{outer}/cmdline").read_bytes()
    return False


def session(leader: int | None) -> list[int]:
    """Living processes of a session."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if (found := _stat(pid))[0] not in "ZX" and int(found[3]) == leader]


def can_unshare(context: Any, log: Path) -> bool:
    worker = Worker(context, _nothing, (), log, "namespace with its own /proc")
    return worker.wait(60) == 0


def _nothing() -> int:
    return 0


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    """A file system of its own at `folder`; OSError where that is not allowed."""
    folder.mkdir()
    _call(LIBC.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size_bytes}".encode()))
    try:
        yield
    finally:
        LIBC.umount2(os.fsencode(folder), MNT_DETACH)
        folder.rmdir()


def set_read_only(folder: Path, read_only: bool) -> None:
    _call(LIBC.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", MS_REMOUNT | (MS_RDONLY if read_only else 0), None))
