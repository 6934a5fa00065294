"""Runs and plans on disk. A run is a list of stages; a plan says which scenes each element of one stage's array takes.

A plan file is written once, named with its job, and never changed: tasks may wait for days, and a list that is rewritten
meanwhile would send two of them to one scene and none to another. Tasks get its hash and refuse a file that differs.

    logs/runs/<run>/run.json               stages, flags, profile
    logs/runs/<run>/<phase>_<round>.json   a plan; round 1 and later are retries
    logs/runs/<run>/<phase>_<round>.jobs   a line per submitted array: job id, first element, count
    logs/runs/<run>/<phase>_<round>/       records of each element (<element>.jsonl) and submitit's scripts and logs
    logs/runs/<run>/outcome.json           how it ended
"""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cluster.profile import Profile, Resources
from pipeline.errors import InputError, PipelineError
from pipeline.hints import operator_command
from pipeline.phases.registry import Phase
from pipeline.storage.appending import append_record, read_records
from pipeline.storage.bounded import JSON_LIMIT, parsing, read_bounded
from pipeline.storage.files import dump_json, parse_json, read_json, write_shared

SCHEMA = 2


class StalePlanError(PipelineError):
    """A task was started with a plan that no longer describes the dataset, or is not the file that was submitted."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One phase of a run.

    Args:
        phase: its name.
        args: flags of its script that are not shared ones.
        command: how Python is told to run it.
        folders: where its outputs stand in a scene. Both are kept, so that the watcher beside a task imports no phase.
    """

    phase: str
    args: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    @classmethod
    def of(cls, phase: Phase, args: tuple[str, ...]) -> "Stage":
        folders = tuple(modality.folder for modality in phase.outputs.modalities) if phase.outputs else ()
        return cls(phase=phase.name, args=args, command=phase.command, folders=folders)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was asked for, once and for all.

    Args:
        folder: logs/runs/<run id>.
        stages: in order; phases that work scene by scene are arrays, the others run inside a gate.
        scenes: scene ids.
        raw_root, out_root, logs: absolute.
        min_yield: share of scenes that must be done for the next stage to begin.
        scenes_per_task: 0 to choose by measured time.
    """

    folder: Path
    stages: tuple[Stage, ...]
    scenes: tuple[str, ...]
    raw_root: Path
    out_root: Path
    logs: Path
    profile: Profile
    local: bool = False
    on_stale: str = "stop"
    min_yield: float = 0.9
    scenes_per_task: int = 0

    @property
    def run_id(self) -> str:
        return self.folder.name

    @property
    def roots(self) -> list[str]:
        """The flags that every command of this run repeats."""
        return ["--raw_root", str(self.raw_root), "--out_root", str(self.out_root), "--logs", str(self.logs)]

    def stage(self, phase: str) -> Stage:
        return next(stage for stage in self.stages if stage.phase == phase)

    def command(self, phase: str, scenes: Sequence[str] = ()) -> list[str]:
        """The script and its flags, as a person would type them."""
        stale = ["--on_stale", self.on_stale] if self.on_stale != "stop" else []
        chosen = [flag for scene in scenes for flag in ("--scene", scene)]
        stage = self.stage(phase)
        return [*stage.command, *self.roots, *stale, *stage.args, *chosen]

    def save(self) -> None:
        self.folder.mkdir(parents=True)
        stored = {
            **asdict(self),
            "schema": SCHEMA,
            "profile": self.profile.to_json(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        stored.pop("folder")
        plain = {key: _plain(value) for key, value in stored.items()}
        write_shared(self.folder / "run.json", dump_json(plain).encode())

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """Read a run back.

        Raises:
            InputError: there is none, or it was written by another version.
        """
        path = folder / "run.json"
        try:
            stored = read_json(path, "the run")
        except FileNotFoundError:
            raise InputError(f"there is no {path}; was the logs folder cleaned while its jobs were queued?") from None
        if stored.pop("schema", None) != SCHEMA:
            raise InputError(f"{path} was written by another version of this pipeline; submit again")
        with parsing("the run", path):
            stored.pop("created")
            stages = tuple(
                Stage(phase=stage["phase"], **{name: tuple(stage[name]) for name in ("args", "command", "folders")})
                for stage in stored.pop("stages")
            )
            paths: dict[str, Any] = {name: Path(stored.pop(name)) for name in ("raw_root", "out_root", "logs")}
            profile = Profile.from_json(stored.pop("profile"))
            scenes = tuple(stored.pop("scenes"))
            return cls(folder=folder, stages=stages, scenes=scenes, profile=profile, **paths, **stored)

    def plans(self, phase: str) -> list["Plan"]:
        """The plans of a stage, in the order of their rounds."""
        names = [path.stem.removeprefix(f"{phase}_") for path in self.folder.glob(f"{phase}_*.json")]
        found = [int(name) for name in names if name.isascii() and name.isdigit()]
        return [Plan.load(self.folder / f"{phase}_{number}.json") for number in sorted(found)]

    def outcome(self) -> dict[str, Any] | None:
        try:
            return read_json(self.folder / "outcome.json", "the outcome")
        except FileNotFoundError:
            return None

    def reopen(self) -> None:
        """Forget how the run ended: it goes on."""
        (self.folder / "outcome.json").unlink(missing_ok=True)

    def finish(self, state: str, message: str) -> None:
        """Note how the run ended: "finished" or "stopped"."""
        outcome = {"state": state, "message": message, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_shared(self.folder / "outcome.json", dump_json(outcome).encode())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One array: `elements[i]` are the scenes of element i."""

    path: Path
    phase: str
    round: int
    elements: tuple[tuple[str, ...], ...]
    resources: Resources
    memory_factor: float = 1.0
    digest: str = field(default="", compare=False)

    @property
    def records(self) -> Path:
        """The folder of this plan's element records and of submitit's files."""
        return self.path.with_suffix("")

    def job_name(self, first: int) -> str:
        """The name of the array whose index 0 is element `first`: read back by `queue_view.place`."""
        return f"{self.phase}.{self.round}.{first}.{self.path.parent.name}"

    @property
    def scenes(self) -> list[str]:
        return [scene for element in self.elements for scene in element]

    def save(self) -> "Plan":
        """Write the file; it must not exist. Returns the plan with its digest."""
        stored = {
            "schema": SCHEMA,
            "phase": self.phase,
            "round": self.round,
            "elements": [list(element) for element in self.elements],
            "resources": vars(self.resources),
            "memory_factor": self.memory_factor,
        }
        data = dump_json(stored).encode()
        if self.path.exists():
            raise PipelineError(f"{self.path} exists; a plan is never rewritten. Another submission is at this run")
        write_shared(self.path, data)
        return Plan.load(self.path)

    @classmethod
    def load(cls, path: Path, digest: str | None = None) -> "Plan":
        """Read a plan back.

        Args:
            digest: what the file must hash to.

        Raises:
            StalePlanError: it is gone, of another version, or not the file that was submitted.
        """
        try:
            data = read_bounded(path, JSON_LIMIT)
            stored = parse_json(data, "the plan", path)
        except (OSError, InputError) as error:
            raise StalePlanError(
                f"the plan {path} cannot be read ({error}); make a new one: {operator_command('resume')}"
            ) from None
        found = hashlib.sha256(data).hexdigest()
        if not isinstance(stored, dict) or stored.get("schema") != SCHEMA or (digest is not None and found != digest):
            raise StalePlanError(
                f"the plan {path} is not the one that was submitted: it was changed, or is of another version. Nothing "
                f"was done; make a new one: {operator_command('resume')}"
            )
        with parsing("the plan", path):
            return cls(
                path=path,
                phase=stored["phase"],
                round=stored["round"],
                elements=tuple(tuple(element) for element in stored["elements"]),
                resources=Resources(**stored["resources"]),
                memory_factor=stored["memory_factor"],
                digest=found,
            )

    def note_job(self, job: str, first: int, count: int) -> None:
        """Remember a submitted array, at once, so that a submission that breaks off is known."""
        append_record(self.path.with_suffix(".jobs"), {"job": job, "first": first, "count": count})

    def jobs(self) -> list[dict[str, Any]]:
        """Submitted arrays: {"job": id, "first": element of its index 0, "count": elements}."""
        whole = read_records(self.path.with_suffix(".jobs"))
        return [job for job in whole if {"job", "first", "count"} <= job.keys()]


def runs_folder(logs: Path) -> Path:
    return logs / "runs"


def new_run_folder(logs: Path) -> Path:
    """A name that sorts by time and that two submissions in one second do not share."""
    return runs_folder(logs) / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def all_runs(logs: Path) -> Iterator[Run]:
    """Readable runs, newest first."""
    folder = runs_folder(logs)
    names = sorted(os.listdir(folder), reverse=True) if folder.is_dir() else []
    for name in names:
        if (folder / name / "run.json").exists():
            try:
                yield Run.load(folder / name)
            except (InputError, OSError):
                continue


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [asdict(item) if isinstance(item, Stage) else item for item in value]
    return value
