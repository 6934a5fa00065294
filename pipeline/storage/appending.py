"""Append-only files of one JSON object a line, which survive kills and full disks: the one home of torn tails.

A line that broke off, in the middle of the file or at its end, is passed over by readers, and a writer that finds one at the
end begins a new line, so that it swallows nothing. Nothing is ever cut off: somebody else may be appending too.
"""

import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.storage import files
from pipeline.storage.bounded import JSON_LIMIT, read_bounded
from pipeline.storage.files import Fence


def append_line(path: Path, line: str) -> None:
    """Add one line and fsync, on a line of its own even where the last writer broke off.

    Raises:
        OSError: as the operating system says; part of the line may be there.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        files._write_all(descriptor, (b"\n" if torn else b"") + line.encode() + b"\n")
    finally:
        os.close(descriptor)


class OwnAppender:
    """Append to a file that this process put in place itself, for as long as it may.

    The lines go to that very file, whatever stands under its name later: a worker whose lease was taken over meanwhile writes
    into a file that has no name any more.

    Args:
        path: replaced, atomically.
        lines: what it begins with.
        fence: raises when this process may not write any more.
    """

    def __init__(self, path: Path, lines: Iterable[str], fence: Fence = files.no_fence) -> None:
        self._fence, self._torn, self._lock = fence, False, threading.Lock()
        data = "".join(f"{line}\n" for line in lines).encode()
        self._descriptor: int | None = files.replace_keeping_open(path, data, fence)

    def append(self, line: str) -> None:
        """Add one line and fsync.

        Raises:
            LeaseLostError: the fence is a lease's, and the lease was lost.
            OSError: as the operating system says; part of the line may be there, and the next one begins a new line.
        """
        with self._lock:
            assert self._descriptor is not None, "closed"
            self._fence()
            before, self._torn = self._torn, True
            files._write_all(self._descriptor, (("\n" if before else "") + line + "\n").encode())
            self._torn = False

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.close()


def append_record(path: Path, record: dict[str, Any]) -> None:
    """`append_line` of one JSON object; NaN is refused."""
    append_line(path, json.dumps(record, sort_keys=True, allow_nan=False))


def whole_records(data: bytes) -> Iterator[dict[str, Any]]:
    """The objects of all lines that are whole; what a kill or a full disk tore is passed over."""
    for line in data.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def read_records(path: Path) -> list[dict[str, Any]]:
    """The whole records of a file; none where there is no file.

    Raises:
        InputError: it is no regular file, or cannot be read.
    """
    try:
        return list(whole_records(read_bounded(path, JSON_LIMIT)))
    except (FileNotFoundError, NotADirectoryError):
        return []
