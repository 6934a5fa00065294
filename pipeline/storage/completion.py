"""What "done" means: fingerprints, done records, journals, and the assessment of what a folder holds.

A fingerprint hashes what changes the output and nothing else. A phase's `.done` is written last and holds the fingerprint,
its fields in clear (so that a difference can be named) and what happened. While a scene is in progress, its journal holds the
same fingerprint and one line per finished frame; it is what makes an interrupted run resumable and its summary exact.
"""

import hashlib
import json
import math
import platform
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.storage.bounded import parsing
from pipeline.storage.files import Fence, names_in, no_fence, read_json, sync_folder, write_json
from pipeline.storage.journal import Fields, Journal

SCHEMA = 1
DONE_NAME = ".done"
_VERSIONED = ("bokehflow", "numpy", "opencv-python-headless", "pillow", "torch")


def as_stored(fields: Fields) -> Fields:
    """The fields as they come back from a file (tuples become lists), so that old and new compare."""
    stored: Fields = json.loads(json.dumps(fields, allow_nan=False))
    return stored


def fingerprint(fields: Fields) -> str:
    """blake2b of the canonical JSON of the fields; the same in every process and on every machine."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def flatten(fields: Fields, prefix: str = "") -> dict[str, Any]:
    """{"engine": {"name": "lens"}} -> {"engine.name": "lens"}."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def first_difference(old: Fields, new: Fields) -> tuple[str, Any, Any] | None:
    """The first field, by name, that differs: (name, old value, new value); None when the two are equal."""
    flat_old, flat_new = flatten(old), flatten(new)
    for name in sorted(flat_old.keys() | flat_new.keys()):
        if flat_old.get(name, "(absent)") != flat_new.get(name, "(absent)"):
            return name, flat_old.get(name, "(absent)"), flat_new.get(name, "(absent)")
    return None


@cache
def software_versions() -> dict[str, str]:
    """Versions that a reader of a done record may need to explain a difference."""
    versions = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


@dataclass(frozen=True, kw_only=True)
class DoneRecord:
    """The JSON of a `.done` file. `wall_s` (of all the runs that it took), `host`, `job_id` and `versions` are the only
    parts that may differ between two runs of the same work."""

    phase: str
    fingerprint: str
    fields: Fields
    upstream: dict[str, str]
    outputs: int
    engine: str
    licence: str
    fallbacks: int = 0
    repairs: int = 0
    warnings: tuple[str, ...] = ()
    summary: dict[str, Any] = field(default_factory=dict)
    wall_s: float = 0.0
    host: str = field(default_factory=socket.gethostname)
    job_id: str | None = None
    versions: dict[str, str] = field(default_factory=software_versions)
    schema: int = SCHEMA

    def write(self, folder: Path, fence: Fence = no_fence) -> None:
        """Put the record into a modality folder, after everything else in it has reached the disk."""
        sync_folder(folder)
        write_json(folder / DONE_NAME, asdict(self), fence)

    @classmethod
    def read(cls, folder: Path) -> "DoneRecord | None":
        """The record in a folder, None when there is none.

        Raises:
            InputError: there is a `.done` that this pipeline did not write: empty, not JSON, or another form.
        """
        path = folder / DONE_NAME
        try:
            stored = read_json(path, "the done record")
        except (FileNotFoundError, NotADirectoryError):
            return None
        with parsing("the done record is not one of this pipeline's:", path):
            record = cls(**{**stored, "warnings": tuple(stored["warnings"])})
            texts = (
                record.phase,
                record.engine,
                record.licence,
                record.host,
                *record.warnings,
                *record.upstream.values(),
            )
            counts = (record.outputs, record.fallbacks, record.repairs)
            whole = (
                all(isinstance(part, dict) for part in (record.fields, record.upstream, record.summary))
                and all(isinstance(text, str) for text in texts)
                and all(type(count) is int and count >= 0 for count in counts)
                and math.isfinite(record.wall_s)
            )
            known = whole and record.schema == SCHEMA and record.fingerprint == fingerprint(record.fields)
        if not known:
            raise InputError(f"the done record {path} has another schema or a fingerprint that is not its fields'")
        return record


class State(StrEnum):
    """Where one phase of one scene stands. The order is that of tables and of the report."""

    DONE = "done"
    RUNNING = "running"  # a worker holds the lease
    QUEUED = "queued"  # a task of the scheduler has it
    PARTIAL = "partial"  # interrupted work with the same fingerprint: resumes
    STALE = "stale"  # made with other settings or inputs
    INCOMPLETE = "incomplete"  # .done is there, outputs are not: the missing ones are made again
    FAILED = "failed"  # the last attempt left a reason
    FOREIGN = "foreign"  # a .done or files that this pipeline did not write
    WAITING = "waiting"  # nothing done yet

    @property
    def needs_a_person(self) -> bool:
        """Whether running the same command again, or waiting, is not known to help."""
        return self in (State.FAILED, State.STALE, State.FOREIGN, State.INCOMPLETE)


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """The state of one phase of one scene, and why."""

    state: State
    reason: str
    missing: int = 0
    record: DoneRecord | None = None


def assess(fields: Fields, folders: Iterable[Path], outputs: Iterable[Path], journal: Journal) -> Assessment:
    """Compare what is on disk with what is asked for.

    Args:
        fields: what the output depends on, as asked for now.
        folders: the modality folders that carry a `.done`.
        outputs: every file the phase must have written.
        journal: the phase's journal.
    """
    try:
        records = [DoneRecord.read(folder) for folder in folders]
    except InputError as error:
        return Assessment(state=State.FOREIGN, reason=str(error))
    present: dict[Path, set[str]] = {}
    missing = found = 0
    first_missing = None
    for path in outputs:
        names = present.setdefault(path.parent, names_in(path.parent))
        if path.name in names:
            found += 1
        else:
            missing += 1
            first_missing = first_missing or path
    done = [record for record in records if record is not None]
    for old in [record.fields for record in done] or ([journal.fields] if journal.fields and found else []):
        difference = first_difference(old, fields)
        if difference:
            name, before, after = difference
            return Assessment(state=State.STALE, reason=f"{name} changed: {before!r} -> {after!r}", missing=missing)
    if len(done) == len(records):
        if missing:
            reason = f"{missing} outputs are missing behind .done, the first is {first_missing}"
            return Assessment(state=State.INCOMPLETE, reason=reason, missing=missing)
        return Assessment(state=State.DONE, reason="same fingerprint, all outputs present", record=done[-1])
    if found and journal.fields is None:
        reason = f"{found} outputs of unknown origin: no .done and no journal {journal.path}"
        return Assessment(state=State.FOREIGN, reason=reason, missing=missing)
    if found:
        return Assessment(state=State.PARTIAL, reason=f"{missing} of {missing + found} outputs to do", missing=missing)
    return Assessment(state=State.WAITING, reason="nothing done yet", missing=missing)
