"""What stands where, from the sentinels alone: the tables behind `python -m pipeline status` and `explain`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, PipelineError
from pipeline.phases.calibration import confirmed_calibration
from pipeline.phases.dependencies import record_folder, stale_upstream
from pipeline.phases.registry import Phase, scene_phases
from pipeline.run_settings import RunSettings
from pipeline.storage.completion import DoneRecord, Journal, State, first_difference, flatten
from pipeline.storage.files import names_in, read_json
from pipeline.storage.lease import held
from pipeline.storage.scene import MAX_SETS, Scene, SceneEntry, SceneIndex, calibration_path


@dataclass(frozen=True, kw_only=True)
class PhaseStatus:
    """One phase of one scene.

    Args:
        state: see `State`; never QUEUED, which only the scheduler knows.
        finished, total: output files; total is 0 where it is not known yet (render before its first run).
        detail: why, or who.
    """

    state: State
    finished: int
    total: int
    detail: str = ""


def phase_status(scene: Scene, entry: SceneEntry, phase: Phase, calibration_stale: str | None = None) -> PhaseStatus:
    """The state of one phase, from its files.

    Args:
        scene, entry: the scene.
        phase: one that works scene by scene.
        calibration_stale: why nothing that follows the calibration can be current, where it is not what was confirmed.
    """
    error = None
    try:
        record = DoneRecord.read(record_folder(scene, phase.name))
    except InputError as problem:
        record, error = None, str(problem)
    begun = None if record else Journal.head(scene.journal_path(phase.name))
    fields = record.fields if record else begun or {}
    made = phase.outputs
    assert made is not None, f"{phase.name} works on all scenes at once"
    num_sets = _num_sets(fields) if made.per_set else 0
    outputs = scene.output_names(made, entry.num_frames, num_sets) if num_sets or not made.per_set else {}
    total = sum(len(names) for names in outputs.values())
    finished = sum(len(names & names_in(folder)) for folder, names in outputs.items())

    def status(state: State, detail: str = "") -> PhaseStatus:
        return PhaseStatus(state=state, finished=finished, total=total, detail=detail)

    holder = held(scene.lease_path(phase.name))
    if holder:
        return status(State.RUNNING, holder)
    if error:
        return status(State.FOREIGN, error)
    if record:
        stale = stale_upstream(scene, entry, record) or (calibration_stale if phase.calibrated else None)
        if stale:
            return status(State.STALE, stale)
        if finished < total:
            return status(State.INCOMPLETE, f"{total - finished} outputs are missing behind .done")
        return status(State.DONE, "; ".join(record.warnings))
    try:
        failure = read_json(scene.failure_path(phase.name), "the failure note")
        if failure.get("waits_for") and not finished:  # nothing failed: it was started too early
            return status(State.WAITING, _waits(scene, str(failure["waits_for"])))
        return status(State.FAILED, f"{failure.get('reason')} (at {failure.get('at')})")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (InputError, OSError):
        return status(State.FAILED, f"{scene.failure_path(phase.name)} cannot be read")
    if finished:
        return status(State.PARTIAL, "interrupted; the same command goes on") if begun else status(State.FOREIGN)
    return status(State.WAITING)


def _waits(scene: Scene, phase: str) -> str:
    """For what a phase that was started too early waits; empty when it need not wait any longer."""
    try:
        done = DoneRecord.read(record_folder(scene, phase)) is not None
    except (PipelineError, AssertionError):
        done = False
    return "" if done else f"waits for {phase}"


def _num_sets(fields: dict[str, Any]) -> int:
    """As a record or journal says; 0 when it says nothing that can be."""
    settings = fields.get("settings")
    number = settings.get("num_sets") if isinstance(settings, dict) else None
    return number if type(number) is int and 0 < number <= MAX_SETS else 0


def dataset_status(run: RunSettings) -> dict[str, Any]:
    """Everything `status` shows, as JSON: {"scenes": {id: {phase: {...}}}, "rejected": {...}, "calibration": {...}}."""
    index = SceneIndex.load(run.index_path)
    calibration, calibration_stale = calibration_status(run, index)
    scenes: dict[str, Any] = {}
    for entry in run.chosen(index):
        scene = Scene(run.out_root, entry.scene_id)
        row: dict[str, Any] = {"split": entry.split, "frames": entry.num_frames}
        for phase in scene_phases():
            stale = calibration_stale or render_difference(scene, phase, calibration) if phase.calibrated else None
            row[phase.name] = vars(phase_status(scene, entry, phase, stale))
        scenes[entry.scene_id] = row
    rejected = {name: list(entry.reasons) for name, entry in index.entries.items() if not entry.accepted}
    return {"scenes": scenes, "rejected": rejected, "calibration": calibration}


def calibration_status(run: RunSettings, index: SceneIndex) -> tuple[dict[str, Any], str | None]:
    """{"state": ...} of the calibration, and why no render can be current, if so."""
    if not calibration_path(run.out_root).exists():
        return {"state": "waiting"}, None
    try:
        calibration = confirmed_calibration(run, index)
    except PipelineError as error:
        confirmed = "not confirmed" not in str(error)
        return {"state": "stale" if confirmed else "unconfirmed", "detail": str(error)}, str(
            error
        ) if confirmed else None
    return {"state": "confirmed", "max_coc": calibration.max_coc_m}, None


def render_difference(scene: Scene, phase: Phase, calibration: dict[str, Any]) -> str | None:
    """How the max_coc that a scene was rendered with differs from the confirmed one; None where it does not."""
    try:
        record = DoneRecord.read(record_folder(scene, phase.name))
    except InputError:
        return None
    if record is None or "max_coc" not in calibration or record.fields.get("max_coc") == calibration["max_coc"]:
        return None
    return f"max_coc changed: {record.fields.get('max_coc')} -> {calibration['max_coc']}"


def explain(run: RunSettings, scene_id: str, phase: str) -> str:
    """Why a phase of a scene is in the state it is in, in lines a person reads.

    Raises:
        UsageError: unknown scene.
    """
    index = SceneIndex.load(run.index_path)
    (entry,) = replace(run, scenes=(scene_id,)).chosen(index)
    scene = Scene(run.out_root, scene_id)
    found = dataset_status(replace(run, scenes=(scene_id,)))
    status = found["scenes"][scene_id][phase]
    lines = [
        f"{scene_id}, phase {phase}: {status['state']}",
        f"  outputs: {status['finished']} of {status['total'] or '?'}",
    ]
    if status["detail"]:
        lines.append(f"  {status['detail']}")
    folder = record_folder(scene, phase)
    lines += _record_lines(folder)
    journal = Journal(scene.journal_path(phase))
    noted = f"{len(journal.facts)} entries in {journal.path}, {journal.spent_s:.1f} s to the last"
    lines.append(f"  journal: {noted if journal.fields else 'none'}")
    lines += _journal_difference(folder, journal)
    lines.append(
        f"  raw source: {run.raw_root / entry.source}, {entry.num_frames} frames, {entry.width}x{entry.height}"
    )
    return "\n".join(lines)


def _record_lines(folder: Path) -> list[str]:
    try:
        record = DoneRecord.read(folder)
    except InputError as error:
        return [f"  .done: not trusted, {error}", "  to make the outputs again: --on_stale redo"]
    if record is None:
        return [f"  .done: none in {folder}"]
    lines = [
        f"  .done: {record.outputs} outputs by {record.engine} on {record.host}"
        + (f", job {record.job_id}" if record.job_id else "")
        + f", {record.wall_s:.1f} s in all its runs; fallbacks {record.fallbacks}, repairs {record.repairs}",
        f"  licence: {record.licence}",
        f"  fingerprint {record.fingerprint} of:",
    ]
    return lines + [f"    {name} = {value}" for name, value in sorted(flatten(record.fields).items())]


def _journal_difference(folder: Path, journal: Journal) -> list[str]:
    try:
        record = DoneRecord.read(folder)
    except InputError:
        return []
    difference = first_difference(record.fields, journal.fields) if record and journal.fields else None
    if difference is None:
        return []
    name, before, after = difference
    return [f"  the journal is of other work: {name} {before!r} -> {after!r}"]
