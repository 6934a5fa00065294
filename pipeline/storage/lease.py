"""One worker per scene and phase: a lease file with a heartbeat, taken over when its holder is surely gone or silent.

Taken over at once when the holder's process is dead or its job was put back in the queue (`holder`), otherwise after ten
minutes without a heartbeat. No clock is trusted alone: ages are read off the file system, and before a silent lease is
taken its heart is watched for two and a half beats of this process's own monotonic clock, so that a clock that jumped, or
hosts that disagree about the time, rob nobody who is alive. Whoever lost a lease writes nothing more (`fence`).
"""

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.errors import LeaseHeldError, LeaseLostError, UsageError
from pipeline.storage.bounded import MIB, read_bounded, refuse_link
from pipeline.storage.holder import current_job_id, gone, task_id, this_process, who

__all__ = ["Lease", "LeaseTimes", "current_job_id", "glance", "held", "read_lease", "task_id", "traces"]

EXPIRES_VARIABLE = "BOKEHFLOW_LEASE_EXPIRES_S"
# When a lease was first seen with the heartbeat it still has: path -> (token and heartbeat, time.monotonic()).
_sightings: dict[Path, tuple[tuple[Any, int], float]] = {}


@dataclass(frozen=True, kw_only=True)
class LeaseTimes:
    """How long silence must last; the same for all workers on one output root.

    Args:
        expires_s: seconds without a heartbeat after which a lease may be taken over. The environment variable
            BOKEHFLOW_LEASE_EXPIRES_S sets it, for tests and for file systems that stall longer than ten minutes.
    """

    expires_s: float = 600.0

    def __post_init__(self) -> None:
        if not 0.1 <= self.expires_s <= 86400:
            raise UsageError(f"{EXPIRES_VARIABLE} must be in [0.1, 86400] seconds, got {self.expires_s:g}")

    @property
    def heartbeat_s(self) -> float:
        return self.expires_s / 20

    @property
    def watch_s(self) -> float:
        return 2.5 * self.heartbeat_s

    @classmethod
    def from_environment(cls) -> "LeaseTimes":
        """Ten minutes, or what the environment says; UsageError when that is no number in the allowed range."""
        text = os.environ.get(EXPIRES_VARIABLE)
        if text is None:
            return cls()
        try:
            return cls(expires_s=float(text))
        except ValueError:
            raise UsageError(f"{EXPIRES_VARIABLE} must be a number of seconds, got {text!r}") from None


class Lease:
    """Hold `path` for as long as the `with` block runs.

    Args:
        path: of the lease file; its folder is made.
        safe_point: called while a silent lease is watched; may raise to give up.
        times: when a lease expires.

    Raises on entry:
        LeaseHeldError: someone else holds it; the message says who, since when and what frees it.
        InputError: a symbolic link stands in its place.
        OSError: its folder cannot be written.
    """

    def __init__(
        self, path: Path, safe_point: Callable[[], None] = lambda: None, times: LeaseTimes | None = None
    ) -> None:
        self.path = path
        self._safe_point = safe_point
        self._times = times or LeaseTimes.from_environment()
        self._token = uuid.uuid4().hex
        self._text = json.dumps(this_process(self._token)).encode()
        self._draft = path.with_name(f".{path.name}.{self._token}.tmp")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Lease":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            while not self._place(self._draft, self._text):
                self._make_way()
        finally:
            self._draft.unlink(missing_ok=True)
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        self._sweep()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        with contextlib.suppress(OSError):  # a disk in trouble: the lease falls silent and is taken over
            if self.is_ours():
                self._take_aside(self._token)

    def is_ours(self) -> bool:
        """Whether the lease on the disk is this one."""
        return (read_lease(self.path) or {}).get("token") == self._token

    def check(self) -> None:
        """Look at the disk, and raise LeaseLostError unless the lease there is this one."""
        if not self.is_ours():
            holder = read_lease(self.path)
            by = f"was taken over by {who(holder)}" if holder else "is gone"
            raise LeaseLostError(f"the lease {self.path} {by}; nothing more is written here, leaving the scene to it")

    def _place(self, draft: Path, text: bytes) -> bool:
        """Put a lease at `path` unless there is one: a hard link, which is exclusive and whole at once.

        Where a file system has no hard links, exclusive creation and then the text. A reader may find it empty in
        between, or for good after a kill; such a lease counts as held until it is ten minutes old.
        """
        try:
            if not draft.exists():
                draft.write_bytes(text)
            os.link(draft, self.path)
            return True
        except FileExistsError:
            return False
        except FileNotFoundError:  # the draft was swept: a long pause lies behind us
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return False
        except OSError:
            return self._create(text)

    def _create(self, text: bytes) -> bool:
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        try:
            os.write(descriptor, text)
        except OSError:
            self.path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        return True

    def _make_way(self) -> None:
        """Remove the lease that is in the way when its holder is gone or silent; LeaseHeldError otherwise."""
        refuse_link(self.path)
        holder = read_lease(self.path)
        if holder is None:
            return
        if not gone(holder):
            age_s = self._now_s() - _mtime_s(self.path)
            # A heartbeat from far in the future says as little as one from long ago: some clock jumped.
            if abs(age_s) <= self._times.expires_s or not self._silent():
                raise LeaseHeldError(
                    f"{self.path.stem} is in work by {who(holder)}, last heartbeat {max(0.0, age_s):.0f} s ago; "
                    f"it is taken over after {self._times.expires_s:g} s of silence"
                )
        self._take_aside(holder.get("token"))

    def _silent(self) -> bool:
        """Watch the lease; whether it showed no heartbeat for `watch_s`, looks before this call (`glance`) included."""
        first = glance(self.path)
        while True:
            seen = glance(self.path)
            if seen is None or first is None:
                return True  # released
            if seen != first:
                return False
            left_s = first[1] + self._times.watch_s - time.monotonic()
            if left_s <= 0:
                return True
            time.sleep(min(left_s, 0.2))
            self._safe_point()

    def _take_aside(self, token: Any) -> None:
        """Remove the lease with this token; only one of several takers can rename this very file.

        A fresh lease that came between the look and the rename is not put back: while it was away a third worker may have
        had the scene, done it and released it, and its holder, finding its own token again, would do all of it twice. Its
        holder loses it instead.
        """
        if (read_lease(self.path) or {}).get("token") != token:
            return
        aside = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}.tmp")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, aside)
            aside.unlink(missing_ok=True)

    def _now_s(self) -> float:
        """The file system's clock: that of the draft, touched now."""
        try:
            os.utime(self._draft)
            return self._draft.stat().st_mtime
        except FileNotFoundError:
            return time.time()

    def _sweep(self) -> None:
        """Remove drafts that killed workers left beside the lease."""
        with contextlib.suppress(OSError):
            for draft in self.path.parent.glob(f".{self.path.name}.*.tmp"):
                age_s = time.time() - _mtime_s(draft)
                if gone(read_lease(draft) or {}) or abs(age_s) > self._times.expires_s:
                    draft.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(self._times.heartbeat_s):
            with contextlib.suppress(OSError):  # a file system in trouble: the writer will see it itself
                if (read_lease(self.path) or {}).get("token") == self._token:
                    os.utime(self.path)


def glance(path: Path) -> tuple[tuple[Any, int], float] | None:
    """Look at a lease: its token and heartbeat, and since when this process has seen it so; None when there is none.

    A command looks at all leases in its way before it begins, so that by the time it comes to a silent one it need not
    watch it any more.
    """
    holder, beat = read_lease(path), _mtime_ns(path)
    if holder is None:
        _sightings.pop(path, None)
        return None
    stamp = (holder.get("token"), beat)
    known = _sightings.get(path)
    if known is None or known[0] != stamp:
        known = _sightings[path] = (stamp, time.monotonic())
    return known


def traces(path: Path) -> bool:
    """Whether the lease at `path` is there, or a draft that a killed worker left beside it."""
    try:
        names = os.listdir(path.parent)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return any(name == path.name or (name.startswith(f".{path.name}.") and name.endswith(".tmp")) for name in names)


def read_lease(path: Path) -> dict[str, Any] | None:
    """The holder's data; None when there is no lease; {} when it cannot be read, or is a link, which is not followed."""
    try:
        holder = {} if path.is_symlink() else json.loads(read_bounded(path, MIB))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception:  # torn, foreign, unreadable: nobody knows whose it is
        return {}
    return holder if isinstance(holder, dict) else {}


def held(path: Path) -> str | None:
    """Who holds the lease at `path`, in words; None when it is free or abandoned. Changes nothing on disk."""
    holder = read_lease(path)
    if holder is None or gone(holder):
        return None
    if abs(time.time() - _mtime_s(path)) > LeaseTimes.from_environment().expires_s:
        return None
    return who(holder)


def _mtime_ns(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return time.time_ns()  # released in this moment; the next attempt to create it will tell


def _mtime_s(path: Path) -> float:
    return _mtime_ns(path) / 1e9
