"""What an unfinished output was made with, so that the next run goes on with it or says why it does not."""

import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.storage.completion import Fields, as_stored, first_difference
from pipeline.storage.files import read_json, write_json

_NAME = "settings.json"
# Where it is computed, what is replaced and what is copied changes no frame.
_UNRECORDED = ("device", "overwrite", "audio", "save_depth", "profile")


def frame_fields(settings: Any, source: Path) -> Fields:
    """What decides the frames, of the command line (a dataclass of settings) and of the film; the rest is the caller's."""
    files = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else [source]
    stats = [path.stat() for path in files]
    stamp = {
        "files": len(files),
        "bytes": sum(s.st_size for s in stats),
        "changed_ns": max(s.st_mtime_ns for s in stats),
    }
    chosen = {item.name: str(getattr(settings, item.name)) for item in fields(settings) if item.name not in _UNRECORDED}
    return {"source": {"path": str(source.resolve()), **stamp}, "settings": chosen}


def begin_work(work: Path, wanted: Fields, say: Callable[[str], None]) -> None:
    """Make the work folder, or take up the one that is there; what was made in another way goes, with a message."""
    wanted = as_stored(wanted)
    try:
        found: Fields | None = read_json(work / _NAME, "the settings of the unfinished output")
    except FileNotFoundError:
        found = None
    except InputError:
        found = {}
    difference = None if found is None else first_difference(found, wanted)
    if difference:
        name, before, now = difference
        say(f"the unfinished output was made with another {name} ({before}, now {now}): starting over")
    if difference or found is None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(work / _NAME, wanted)
