"""What the page says of the whole dataset, gathered from the output folder; the template only arranges it."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, PipelineError
from pipeline.hints import phase_command
from pipeline.phases.calibration import confirmed_calibration
from pipeline.phases.registry import scene_phases
from pipeline.report.calibration import CalibrationFacts, read_calibration
from pipeline.report.formatting import is_free, is_restricted
from pipeline.report.scene_facts import PhaseFacts, SceneFacts, scene_facts
from pipeline.run_settings import RunSettings
from pipeline.storage.completion import State
from pipeline.storage.files import read_json
from pipeline.storage.scene import SPLITS, Scene, SceneEntry, SceneIndex, calibration_path, validation_path

TARGETS = {"train": 0.8, "val": 0.1, "test": 0.1}


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    name: str
    scenes: int
    passed: int
    failed: int
    frames: int
    pairs: int
    share: float
    target: float


@dataclass(frozen=True, kw_only=True)
class ProgressFacts:
    """How many scenes stand where in one phase: (state, scenes) in the order of `State`, no zeros."""

    phase: str
    states: tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """One engine and version that made a part of this dataset, and what its licence allows."""

    role: str
    name: str
    version: str
    options: str
    licence: str
    scenes: int

    @property
    def restricted(self) -> bool:
        return is_restricted(self.licence)

    @property
    def free(self) -> bool:
        return is_free(self.licence)


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """Everything on the page but the pictures.

    Args:
        problems: what is wrong with the dataset as a whole.
        scenes: accepted scenes: failed first, then those with warnings, then the rest; by id inside each.
        rejected: scenes that phase 1 refused.
        validated_at: when validation_report.json was written, in words; empty before the first validation.
    """

    out_root: Path
    written_at: str
    validated_at: str
    problems: tuple[str, ...]
    calibration: CalibrationFacts
    scenes: tuple[SceneFacts, ...]
    rejected: tuple[SceneEntry, ...]
    splits: tuple[SplitFacts, ...]
    progress: tuple[ProgressFacts, ...]
    engines: tuple[EngineFacts, ...]
    num_bytes: float | None

    def count(self, verdict: str) -> int:
        return sum(scene.verdict == verdict for scene in self.scenes)

    @property
    def finished(self) -> bool:
        """Whether every phase of every scene is done."""
        return all(state == "done" for progress in self.progress for state, _ in progress.states)

    @property
    def frames(self) -> int:
        return sum(scene.entry.num_frames for scene in self.scenes)

    @property
    def pairs(self) -> int:
        return sum(_pairs(scene) for scene in self.scenes)

    @property
    def common_width(self) -> int:
        """The most frequent width of delivered frames, the larger of equals, pixels; 0 without scenes."""
        widths = [scene.size[0] for scene in self.scenes]
        return max(sorted(set(widths), reverse=True), key=widths.count, default=0)


def gather(out_root: Path) -> DatasetFacts:
    """Read an output folder in whatever state it is in."""
    problems: list[str] = []
    index = _read_index(out_root, problems)
    report, validated_at = _read_validation(validation_path(out_root), problems)
    calibration = _current(read_calibration(calibration_path(out_root)), out_root, index)
    if calibration.state == "damaged":
        problems.append(f"{calibration.problem}; run: {calibration.command}")
    checked = report.get("scenes")
    found: dict[str, Any] = checked if isinstance(checked, dict) else {}
    scenes = []
    for name, entry in sorted(index.accepted.items()):
        if not all(isinstance(value, int) for value in (entry.num_frames, entry.width, entry.height)):
            problems.append(f"{name}: scene_index.json garbles its frame count or size; index again")
            continue
        stale = calibration.problem if calibration.state == "stale" else None
        scenes.append(scene_facts(Scene(out_root, name), entry, found.get(name), validated_at, stale))
    if report and calibration.state != "stale":
        gone = sorted(set(found) - set(index.accepted))
        problems += [f"validation_report.json speaks of {name}, which the index no longer accepts" for name in gone]
    order = {"failed": 0, "unchecked": 1, "passed": 1}
    scenes.sort(key=lambda scene: (order[scene.verdict], not scene.warnings, scene.scene_id))
    sizes = [scene.num_bytes for scene in scenes if scene.num_bytes is not None]
    return DatasetFacts(
        out_root=out_root,
        written_at=_when(time.time()),
        validated_at=_when(validated_at) if report else "",
        problems=tuple(problems),
        calibration=calibration,
        scenes=tuple(scenes),
        rejected=tuple(entry for _, entry in sorted(index.entries.items()) if not entry.accepted),
        splits=tuple(_split(name, scenes) for name in SPLITS),
        progress=tuple(_progress(phase, scenes) for phase in (known.name for known in scene_phases())),
        engines=_engines(phase for scene in scenes for phase in scene.phases),
        num_bytes=sum(sizes) if sizes else None,
    )


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(seconds))


def _read_index(out_root: Path, problems: list[str]) -> SceneIndex:
    try:
        return SceneIndex.load(RunSettings(out_root=out_root).index_path)
    except (PipelineError, OSError, ValueError) as error:
        problems.append(str(error))
        return SceneIndex(raw_root="", settings={})


def _read_validation(path: Path, problems: list[str]) -> tuple[dict[str, Any], float]:
    """The report and when it was written; empty before the first validation."""
    try:
        return read_json(path, "the validation report"), path.stat().st_mtime
    except FileNotFoundError:
        return {}, 0.0
    except (InputError, OSError) as error:
        problems.append(f"{error}; run: {phase_command('validate')}")
        return {}, 0.0


def _current(calibration: CalibrationFacts, out_root: Path, index: SceneIndex) -> CalibrationFacts:
    """A confirmed calibration is only as good as the depth it was taken from."""
    if calibration.state != "confirmed":
        return calibration
    try:
        confirmed_calibration(RunSettings(out_root=out_root), index)
    except Exception as error:  # NotConfirmedError says what changed; anything else is a file of the wrong form
        return replace(
            calibration, state="stale", problem=str(error), command=phase_command("calibrate", "--on_stale", "redo")
        )
    return calibration


def _pairs(scene: SceneFacts) -> int:
    """Pairs that exist: a scene's count only once its renders are finished."""
    return scene.entry.num_frames * len(scene.sets) if scene.phase("render").state in (State.DONE, State.STALE) else 0


def _split(name: str, scenes: list[SceneFacts]) -> SplitFacts:
    members = [scene for scene in scenes if scene.entry.split == name]
    return SplitFacts(
        name=name,
        scenes=len(members),
        passed=sum(scene.verdict == "passed" for scene in members),
        failed=sum(scene.verdict == "failed" for scene in members),
        frames=sum(scene.entry.num_frames for scene in members),
        pairs=sum(_pairs(scene) for scene in members),
        share=len(members) / len(scenes) if scenes else 0.0,
        target=TARGETS[name],
    )


def _progress(phase: str, scenes: list[SceneFacts]) -> ProgressFacts:
    found = [scene.phase(phase).state for scene in scenes]
    return ProgressFacts(phase=phase, states=tuple((state, found.count(state)) for state in State if state in found))


def _engines(phases: Iterable[PhaseFacts]) -> tuple[EngineFacts, ...]:
    counted: dict[tuple[str, str, str, str, str], int] = {}
    for phase in phases:
        if phase.engine:
            key = (phase.phase, phase.engine, phase.version, phase.options, phase.licence)
            counted[key] = counted.get(key, 0) + 1
    titles = {phase.name: phase.title for phase in scene_phases()}
    order = list(titles)
    return tuple(
        EngineFacts(role=titles[key[0]], name=key[1], version=key[2], options=key[3], licence=key[4], scenes=scenes)
        for key, scenes in sorted(counted.items(), key=lambda item: (order.index(item[0][0]), item[0]))
    )
