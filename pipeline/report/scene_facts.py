"""What the page says of one scene, from its done records, its metadata and the validation report.

Whatever is missing or damaged becomes a sentence on the page: nothing in this module raises for what a file holds.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.errors import InputError, PipelineError
from pipeline.hints import phase_command
from pipeline.media.images import multiple_of_16
from pipeline.phases.dependencies import record_folder
from pipeline.phases.registry import Phase, scene_phases
from pipeline.report.formatting import lens_words, number, strings
from pipeline.status import phase_status
from pipeline.storage.completion import DoneRecord, State
from pipeline.storage.files import read_json
from pipeline.storage.scene import LensSet, Scene, SceneEntry


@dataclass(frozen=True, kw_only=True)
class PhaseFacts:
    """One phase of a scene: where it stands, and who made it under which licence when it is done.

    Args:
        state: as `python -m pipeline status` says it.
        title: what the phase makes, in a word or two.
    """

    phase: str
    state: State
    title: str = ""
    detail: str = ""
    engine: str = ""
    version: str = ""
    options: str = ""
    licence: str = ""
    fingerprint: str = ""
    warnings: tuple[str, ...] = ()
    summary: dict[str, Any] = field(default_factory=dict)
    finished_at: float = 0.0  # time of the done record, seconds since the epoch

    def measured(self, name: str) -> float | None:
        return number(self.summary.get(name))


@dataclass(frozen=True, kw_only=True)
class SetFacts:
    """One lens set: its lens in words, how sharp the labels are on average, and the share of pixels beyond 1 px of blur."""

    index: int
    words: str
    focus_m: float
    mean_focus: float | None
    blurred: float | None = None


@dataclass(frozen=True, kw_only=True)
class SceneFacts:
    """One accepted scene.

    Args:
        verdict: "passed" or "failed" by validation; before it, "failed" when a phase failed, else "unchecked".
        reasons: everything that is wrong.
        warnings: what a person should look at.
        depth_m: d_min, d_p5, d_median, d_p95, d_max as far as they are known, metres.
    """

    entry: SceneEntry
    verdict: str
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    phases: tuple[PhaseFacts, ...] = ()
    sets: tuple[SetFacts, ...] = ()
    max_coc_m: float | None = None
    max_radius_px: float | None = None
    depth_m: dict[str, float] = field(default_factory=dict)
    num_bytes: float | None = None

    @property
    def scene_id(self) -> str:
        return self.entry.scene_id

    def phase(self, name: str) -> PhaseFacts:
        return next(
            (facts for facts in self.phases if facts.phase == name), PhaseFacts(phase=name, state=State.WAITING)
        )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the delivered frames, pixels."""
        return multiple_of_16((self.entry.width, self.entry.height))

    @property
    def detail_kept(self) -> float | None:
        """Gradient energy of the averaged frames over that of the per-frame ones."""
        frame, output = (self.phase("deblur").measured(name) for name in ("detail_frame", "detail_output"))
        return output / frame if frame and output is not None else None


def scene_facts(
    scene: Scene, entry: SceneEntry, found: Any, validated_at: float, render_stale: str | None
) -> SceneFacts:
    """Gather one scene.

    Args:
        scene, entry: the scene.
        found: its part of validation_report.json, None when it was not checked.
        validated_at: when the report was written, seconds since the epoch.
        render_stale: why no render can be current, None when the calibration stands.
    """
    try:
        return _gather(scene, entry, found if isinstance(found, dict) else None, validated_at, render_stale)
    except Exception as error:  # one scene, however damaged, must not cost the operator the page
        reason = f"this scene's files could not be read for this page: {type(error).__name__}: {error}"
        listed = strings(found.get("reasons")) if isinstance(found, dict) else ()
        return SceneFacts(entry=entry, verdict="failed", reasons=(*listed, reason))


def _gather(
    scene: Scene, entry: SceneEntry, found: dict[str, Any] | None, validated_at: float, render_stale: str | None
) -> SceneFacts:
    phases = tuple(_phase(scene, entry, phase, render_stale if phase.calibrated else None) for phase in scene_phases())
    known = {facts.phase: facts for facts in phases}
    reasons = [f"{facts.phase} {facts.state}: {facts.detail}" for facts in phases if facts.state.needs_a_person]
    warnings = [warning for facts in phases for warning in facts.warnings]
    lens_sets, max_radius_px, problem = _metadata(scene, known["render"].state)
    if problem:
        reasons.append(problem)
    depth_m, problem = _depth(scene, known["depth"])
    if problem:
        reasons.append(problem)
    verdict = "failed" if reasons else "unchecked"
    if found is not None:
        # Why a phase failed, which only its own note knows, comes before what validation finds missing because of it.
        listed = strings(found.get("reasons"))
        reasons = [*(reason for reason in reasons if reason not in listed), *listed]
        warnings += strings(found.get("warnings"))
        verdict = "passed" if found.get("passed") is True and not reasons else "failed"
        if found.get("passed") is not True and not reasons:
            reasons.append("validation_report.json says that it failed and gives no reason")
        if any(facts.finished_at > validated_at + 1 for facts in phases):
            warnings.append(f"a phase ran after the last validation; run: {phase_command('validate')}")
    for facts in phases:
        if (fallbacks := facts.measured("fallbacks")) and not any("raw frame" in text for text in facts.warnings):
            warnings.append(f"{facts.phase}: {fallbacks:.0f} frames fell back to their input")
    return SceneFacts(
        entry=entry,
        verdict=verdict,
        reasons=tuple(reasons),
        warnings=tuple(dict.fromkeys(warnings)),
        phases=phases,
        sets=_sets(lens_sets, known["render"], found or {}),
        max_coc_m=lens_sets[0].max_coc_m if lens_sets else None,
        max_radius_px=max_radius_px,
        depth_m=depth_m,
        num_bytes=number(found.get("bytes")) if found else None,
    )


def _phase(scene: Scene, entry: SceneEntry, phase: Phase, render_stale: str | None) -> PhaseFacts:
    try:
        status = phase_status(scene, entry, phase, render_stale)
        facts = PhaseFacts(phase=phase.name, title=phase.title, state=status.state, detail=status.detail)
        if status.total and status.state in (State.RUNNING, State.PARTIAL):
            facts = replace(facts, detail=f"{status.finished} of {status.total} files; {status.detail}")
    except Exception as error:  # a record of the right form with nonsense inside
        facts = PhaseFacts(
            phase=phase.name, title=phase.title, state=State.FOREIGN, detail=f"{type(error).__name__}: {error}"
        )
    folder = record_folder(scene, phase.name)
    try:
        record = DoneRecord.read(folder)
        finished_at = (folder / ".done").stat().st_mtime if record else 0.0
    except (InputError, OSError):
        return facts
    if record is None:
        return facts
    engine = record.fields.get("engine")
    described = engine if isinstance(engine, dict) else {}
    options = described.get("options")
    summary = record.summary if isinstance(record.summary, dict) else {}
    return replace(
        facts,
        detail="" if facts.state is State.DONE else facts.detail,  # a finished phase's detail is its warnings
        engine=str(record.engine),
        version=str(described.get("version", "")),
        options=", ".join(f"{key} {value}" for key, value in options.items()) if isinstance(options, dict) else "",
        licence=str(record.licence),
        fingerprint=str(record.fingerprint),
        warnings=strings(record.warnings),
        summary=summary | {"fallbacks": record.fallbacks, "repairs": record.repairs},
        finished_at=finished_at,
    )


def _metadata(scene: Scene, render_state: State) -> tuple[list[LensSet], float | None, str]:
    """The lens sets, the largest blur in pixels, and what is wrong with metadata.json (nothing, before phase 5)."""
    if not scene.metadata_path.exists():
        lost = render_state in (State.DONE, State.INCOMPLETE)
        return [], None, f"metadata: there is no {scene.metadata_path} behind the render's .done" if lost else ""
    try:
        return scene.lens_sets(), number(scene.read_metadata().get("max_radius_px")), ""
    except (PipelineError, OSError, AttributeError, ArithmeticError) as error:
        return [], None, f"metadata: {error}"


def _depth(scene: Scene, phase: PhaseFacts) -> tuple[dict[str, float], str]:
    """The depth statistics, and what is wrong with stats.json."""
    if phase.state in (State.WAITING, State.FAILED, State.PARTIAL, State.RUNNING) and not scene.stats_path.exists():
        return {}, ""
    try:
        stored = read_json(scene.stats_path, "the depth statistics")
    except (InputError, OSError) as error:
        return {}, f"depth statistics: {error}"
    names = ("d_min", "d_p5", "d_median", "d_p95", "d_max")
    return {name: value for name in names if (value := number(stored.get(name))) is not None}, ""


def _sets(lens_sets: list[LensSet], render: PhaseFacts, found: dict[str, Any]) -> tuple[SetFacts, ...]:
    measured = found.get("mean_focus") or render.summary.get("mean_focus")
    means = measured if isinstance(measured, list) else []
    return tuple(
        SetFacts(
            index=index,
            words=lens_words(lens_set.lens.f_m, lens_set.lens.f_number, lens_set.lens.focus_m)
            + (f" to {lens_set.pull_m[-1]:.2g} m" if lens_set.pull_m else ""),
            focus_m=lens_set.lens.focus_m,
            mean_focus=number(means[index]) if index < len(means) else None,
        )
        for index, lens_set in enumerate(lens_sets)
    )
