"""One worker per scene and phase: a lease file with a heartbeat, taken over when its holder is surely gone.

A lease is taken over at once when its holder was a process of this machine that no longer lives, or the same scheduler job
on another machine (requeued), otherwise after ten minutes without a heartbeat. Ages are read off the file system's own
clock, since the nodes' clocks may differ.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.errors import LeaseHeldError, LeaseLostError

HEARTBEAT_S = 30.0
EXPIRES_S = 600.0


def task_id() -> str | None:
    """`ARRAY_TASK`, or a single job's id, as SLURM's commands take it; the same after a requeue; None outside SLURM."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID")


def current_job_id() -> str | None:
    """The task, and which of its processes this is."""
    job = task_id()
    return f"{job}.{os.environ.get('SLURM_PROCID', '0')}" if job else None


def _process_start(pid: int) -> str | None:
    """When a process began, in kernel ticks, so that a recycled pid is not taken for the old process; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        try:  # no /proc (macOS): the pid alone must do
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return "unknown"
    except (PermissionError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


class Lease:
    """Hold `path` for as long as the `with` block runs.

    Raises on entry:
        LeaseHeldError: someone else holds it; the message says who, since when and what frees it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._lost = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Lease":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._create():
            self._remove_if_abandoned()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        if (read_lease(self.path) or {}).get("token") == self._token:
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise LeaseLostError when another worker has taken this lease over."""
        if self._lost:
            raise LeaseLostError(
                f"{self.path} was taken over by {_who(read_lease(self.path) or {})}; leaving the scene to it"
            )

    def _create(self) -> bool:
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_start": _process_start(os.getpid()),
            "job_id": current_job_id(),
            "token": self._token,
        }
        # A link is exclusive and whole at once; a lease that is created empty and then filled could be read in between.
        draft = self.path.with_name(f".{self.path.name}.{self._token}.tmp")
        try:
            draft.write_text(json.dumps(holder))
            os.link(draft, self.path)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _remove_if_abandoned(self) -> None:
        holder = read_lease(self.path)
        if holder is None:
            return
        age_s = _age_s(self.path, _file_system_now_s(self.path.parent))
        if not abandoned(holder, age_s):
            raise LeaseHeldError(
                f"{self.path.stem} is in work by {_who(holder)}, last heartbeat {age_s:.0f} s ago; "
                f"it is taken over after {EXPIRES_S:.0f} s of silence"
            )
        # Only one of several takers can rename this very lease; the winner looks at what it got before it drops it.
        aside = self.path.with_name(f".{self.path.name}.{self._token}.old.tmp")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        taken = read_lease(aside)
        if taken is not None and taken.get("token") != holder.get("token"):
            with contextlib.suppress(FileExistsError):
                os.link(aside, self.path)  # somebody's fresh lease: put it back
        aside.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                holder = read_lease(self.path)
                if holder is None or holder.get("token", self._token) != self._token:
                    self._lost = True
                    return
                os.utime(self.path)
            except OSError:
                continue  # a file system in trouble: the next beat may succeed, and the writer will see the trouble itself


def read_lease(path: Path) -> dict[str, Any] | None:
    """The holder's data; None when there is no lease; {} when it cannot be read."""
    try:
        holder = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def abandoned(holder: dict[str, Any], age_s: float) -> bool:
    """Whether a lease's holder is surely gone, by the three rules above."""
    if age_s > EXPIRES_S:
        return True
    if holder.get("host") == socket.gethostname() and isinstance(holder.get("pid"), int):
        return _process_start(holder["pid"]) != holder.get("process_start")
    return holder.get("job_id") is not None and holder["job_id"] == current_job_id()


def held(path: Path) -> str | None:
    """Who holds the lease at `path`, in words; None when it is free or abandoned. Changes nothing on disk."""
    holder = read_lease(path)
    if holder is None or abandoned(holder, _age_s(path, time.time())):
        return None
    return _who(holder)


def _age_s(path: Path, now_s: float) -> float:
    try:
        return max(0.0, now_s - path.stat().st_mtime)
    except FileNotFoundError:
        return 0.0  # released in this moment; the next attempt to create it will tell


def _file_system_now_s(folder: Path) -> float:
    probe = folder / f".now.{uuid.uuid4().hex}.tmp"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _who(holder: dict[str, Any]) -> str:
    job = f", job {holder['job_id']}" if holder.get("job_id") else ""
    return f"host {holder.get('host', '?')} pid {holder.get('pid', '?')}{job}"
