"""Append-only files of one JSON object a line, which survive kills and full disks: the one home of torn tails.

A line that broke off, in the middle of the file or at its end, is passed over by readers, and a writer that finds one at the
end begins a new line, so that it swallows nothing. Nothing is ever cut off: somebody else may be appending too.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.storage import files
from pipeline.storage.bounded import JSON_LIMIT, read_bounded


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
