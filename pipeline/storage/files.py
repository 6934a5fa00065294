"""Files that are whole or absent: written to a temporary name beside the target, flushed, fsynced, renamed.

What this is not: a database. One rename is atomic; order between files is the caller's business (done records last).
"""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

_counter = itertools.count()


def _write_all(descriptor: int, data: bytes) -> None:
    """The one place where bytes reach a disk; tests inject a full disk here."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Put `data` at `path`, atomically. A failure (disk full, no permission) leaves what was there before.

    Raises:
        OSError: as the operating system says; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_counter)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _write_all(descriptor, data)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_if_changed(path: Path, data: bytes) -> None:
    """Put `data` at `path`, atomically, unless it is there already: what is finished is not written again."""
    if not path.exists() or path.read_bytes() != data:
        write_bytes(path, data)


def append_line(path: Path, line: str) -> None:
    """Add one line and fsync. A torn last line, from a kill, is for the reader to ignore."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        _write_all(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the renames inside a folder survive a power cut; called once, before a done record is written."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> int:
    """Remove temporary files that a killed writer left. Only the holder of the folder's lease may call this."""
    removed = 0
    for entry in _scan(folder):
        if entry.name.startswith(".") and entry.name.endswith(".tmp"):
            Path(entry.path).unlink(missing_ok=True)
            removed += 1
    return removed


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except FileNotFoundError:
        return


def names_in(folder: Path) -> set[str]:
    """Names in a folder; empty when there is no such folder."""
    return {entry.name for entry in _scan(folder)}


def dump_json(value: Any) -> str:
    """The project's one JSON form: sorted keys, no NaN, readable."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Atomically write `value` as JSON."""
    write_bytes(path, dump_json(value).encode())


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object that this project wrote.

    Args:
        path: the file.
        what: how an error names it, e.g. "the scene index".

    Raises:
        FileNotFoundError: there is none; callers know what that means.
        InputError: it is empty, torn, not JSON or not an object.
    """
    text = path.read_bytes()
    if not text.strip():
        raise InputError(f"{what} {path} is empty; it was not written by this pipeline, or the disk lost it")
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{what} {path} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{what} {path} must hold a JSON object, got {type(value).__name__}")
    return value
