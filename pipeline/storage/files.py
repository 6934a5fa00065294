"""Files that are whole or absent: written to a temporary name beside the target, flushed, fsynced, renamed.

What this is not: a database. One rename is atomic; order between files is the caller's business (done records last).
Whether this process may still write is asked of a fence, after the temporary file is there and right before the rename.
Whoever takes work over removes the temporary files first. So a writer that was stopped at any point and wakes up later is
refused by the fence, or finds its temporary file gone; between the two there is no gap.
"""

import hashlib
import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.storage.bounded import JSON_LIMIT, parsing, read_bounded
from pipeline.storage.holder import boot_id, pid_namespace, process_start

Fence = Callable[[], None]  # raises when this process may not write any more
_counter = itertools.count()
_ABANDONED_S = 3600.0


def no_fence() -> None:
    """For files that no lease covers."""


@cache
def _here(process: int) -> str:
    """Where a pid means this process: host, boot and PID namespace, as a short name. Asked anew after a fork."""
    place = f"{socket.gethostname()} {boot_id()} {pid_namespace()}"
    return hashlib.blake2b(place.encode(), digest_size=6).hexdigest()


def _write_all(descriptor: int, data: bytes) -> None:
    """The one place where bytes reach a disk; tests inject a full disk here."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def write_bytes(path: Path, data: bytes, fence: Fence = no_fence) -> None:
    """Put `data` at `path`, atomically. A failure (disk full, no permission) leaves what was there before.

    Raises:
        OSError: as the operating system says; the temporary file is removed.
        LeaseLostError: the fence is a lease's, and the lease was lost.
    """
    os.close(replace_keeping_open(path, data, fence))


def replace_keeping_open(path: Path, data: bytes, fence: Fence = no_fence) -> int:
    """`write_bytes`, and a descriptor that appends to the very file that was written, whatever stands at `path` later."""
    # The place too: pids of two machines, or two namespaces, on one disk may well be the same.
    process = os.getpid()
    temporary = path.with_name(f".{path.name}.{_here(process)}-{process}-{next(_counter)}.tmp")
    descriptor = None
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        _write_all(descriptor, data)
        fence()
        try:
            os.replace(temporary, path)
        except FileNotFoundError:
            fence()  # a successor removed the temporary file, or the folder is really gone
            raise
    except BaseException:
        if descriptor is not None:
            os.close(descriptor)
        temporary.unlink(missing_ok=True)
        raise
    return descriptor


def write_shared(path: Path, data: bytes) -> None:
    """`write_bytes` where no lease is held: several commands may write this file at once, and the last one wins.

    Temporary files of this name go first whose writer is dead, or which are an hour old.
    """
    for entry in _scan(path.parent):
        if is_temporary(entry.name) and _target(entry.name) == path.name and _is_abandoned(Path(entry.path)):
            Path(entry.path).unlink(missing_ok=True)
    write_bytes(path, data)


def _target(temporary: str) -> str:
    return temporary[1:].rsplit(".", 2)[0]


def _is_abandoned(temporary: Path) -> bool:
    place, _, process = temporary.name.rsplit(".", 2)[1].rpartition("-")[0].partition("-")
    if place == _here(os.getpid()) and process.isdigit():
        return process_start(int(process)) is None
    try:
        return time.time() - temporary.stat().st_mtime > _ABANDONED_S
    except FileNotFoundError:
        return False


def write_if_changed(path: Path, data: bytes, fence: Fence = no_fence) -> None:
    """Put `data` at `path`, atomically, unless it is there already: what is finished is not written again."""
    if path.is_symlink() or not path.exists() or path.read_bytes() != data:
        write_bytes(path, data, fence)


def sync_folder(folder: Path) -> None:
    """Make the renames inside a folder survive a power cut; called once, before a done record is written."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_temporary(name: str) -> bool:
    """Whether `write_bytes` may have given this name to a file it had not finished."""
    return name.startswith(".") and name.endswith(".tmp")


def remove_leftovers(folder: Path, names: Callable[[str], bool] = lambda name: True) -> int:
    """Remove temporary files that a killed writer left. Only the holder of the folder's lease may call this.

    Args:
        folder: not its subfolders.
        names: which targets' temporary files: those of names that others write are not ours to remove.
    """
    removed = 0
    for entry in _scan(folder):
        if is_temporary(entry.name) and names(_target(entry.name)):
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


def write_json(path: Path, value: Any, fence: Fence = no_fence) -> None:
    """Atomically write `value` as JSON."""
    write_bytes(path, dump_json(value).encode(), fence)


def parse_json(data: bytes | str, what: str, path: Path) -> Any:
    """Any JSON value; InputError that names the file, whatever is wrong with the bytes."""
    with parsing(what, path):
        return json.loads(data, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object that this project wrote.

    Args:
        path: the file.
        what: how an error names it, e.g. "the scene index".

    Raises:
        FileNotFoundError: there is none; callers know what that means.
        InputError: it is empty, torn, not JSON, not an object, no regular file, or larger than any that is written here.
    """
    data = read_bounded(path, JSON_LIMIT)
    if not data.strip():
        raise InputError(f"{what} {path} is empty; it was not written by this pipeline, or the disk lost it")
    value = parse_json(data, what, path)
    if not isinstance(value, dict):
        raise InputError(f"{what} {path} must hold a JSON object, got {type(value).__name__}")
    return value
