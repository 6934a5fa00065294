"""Files that are whole or absent: written to a temporary name beside the target, flushed, fsynced, renamed.

What this is not: a database. One rename is atomic; order between files is the caller's business (done records last).
Whether this process may still write is asked of a fence, after the temporary file is there and right before the rename.
Whoever takes work over removes the temporary files first. So a writer that was stopped at any point and wakes up later is
refused by the fence, or finds its temporary file gone; between the two there is no gap. A writer that still may write and
finds it gone, since somebody took it for dead, writes it again.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.storage.bounded import JSON_LIMIT, parsing, read_bounded
from pipeline.storage.holder import boot_id, pid_namespace, process_start
from pipeline.storage.lease import LeaseTimes

Fence = Callable[[], None]  # raises when this process may not write any more
_counter = itertools.count()
_TEMPORARY = re.compile(r"\.(?P<target>.+)\.(?:(?P<place>[0-9a-f]+)-)?(?P<process>\d+)-\d+\.tmp", re.DOTALL)


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
    for _ in range(3):
        with contextlib.suppress(FileNotFoundError):  # the temporary file was swept, or the folder is gone
            return _replace(path, data, fence)
    return _replace(path, data, fence)


def _replace(path: Path, data: bytes, fence: Fence) -> int:
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

    What dead writers of this file left goes first.
    """
    remove_abandoned(path)
    write_bytes(path, data)


def remove_abandoned(path: Path) -> None:
    """Remove temporary files for `path`, which no lease covers, whose writers are dead or as silent as an expired lease."""
    for entry in _scan(path.parent):
        if target_of(entry.name) == path.name and _is_abandoned(Path(entry.path)):
            Path(entry.path).unlink(missing_ok=True)


def _is_abandoned(temporary: Path) -> bool:
    found = _TEMPORARY.fullmatch(temporary.name)
    if found and found["place"] == _here(os.getpid()):
        return process_start(int(found["process"])) is None
    try:
        age_s = time.time() - temporary.lstat().st_mtime
    except FileNotFoundError:
        return False
    return abs(age_s) > LeaseTimes.from_environment().expires_s


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


def target_of(name: str) -> str | None:
    """The name of the file for which `write_bytes` made a temporary file of this name; None for a name that it gives none."""
    found = _TEMPORARY.fullmatch(name)
    return found["target"] if found else None


def leftovers(folder: Path, names: Callable[[str], bool] = lambda name: True) -> list[Path]:
    """Temporary files in a folder, of those targets that `names` is true for."""
    found = ((Path(entry.path), target_of(entry.name)) for entry in _scan(folder))
    return [path for path, target in found if target is not None and names(target)]


def remove_leftovers(folder: Path, names: Callable[[str], bool] = lambda name: True) -> int:
    """Remove temporary files that a killed writer left. Only the holder of the folder's lease may call this.

    Args:
        folder: not its subfolders.
        names: which targets' temporary files: those of names that others write are not ours to remove.
    """
    found = leftovers(folder, names)
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


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
