"""The loop that all per-scene phases share: which scenes, skip or resume, lease, signals, failures, summary, exit code.

A scene that fails is a result, not a crash: its reason is printed, logged with the traceback, kept beside the scene for
`python -m pipeline status`, and the next scene begins.
"""

import contextlib
import errno
import time
import traceback
from dataclasses import dataclass, field

from pipeline.device import fix_threads
from pipeline.errors import ExitCode, LeaseHeldError, SceneError, StaleError, StoppedError
from pipeline.hints import operator_command, phase_command
from pipeline.phases.base import ScenePhase, Work
from pipeline.phases.registry import following
from pipeline.reporter import Reporter
from pipeline.run_settings import RunSettings
from pipeline.signals import StopSignals
from pipeline.storage.completion import Assessment, DoneRecord, Fields, Journal, State, as_stored, assess, fingerprint
from pipeline.storage.files import names_in, remove_leftovers, write_json
from pipeline.storage.lease import Lease, current_job_id
from pipeline.storage.scene import Scene, SceneEntry, SceneIndex


@dataclass(kw_only=True)
class Tally:
    """Scene ids by what became of them."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    planned: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        parts = [f"{len(names)} {kind}" for kind, names in vars(self).items() if names or kind in ("done", "skipped")]
        return ", ".join(parts) + (f" ({', '.join(self.failed)})" if self.failed else "")


def run_scenes(phase: ScenePhase, settings: RunSettings) -> ExitCode:
    """Take every chosen scene through a phase.

    Raises:
        PipelineError: nothing could begin (no index, unknown scene, nothing confirmed).
    """
    entries = settings.chosen(SceneIndex.load(settings.index_path))
    tally = Tally()
    with StopSignals() as signals, Reporter(phase.name, None if settings.dry_run else settings.logs) as reporter:
        stopped = None
        try:
            for entry in entries:
                signals.safe_point()
                _one_scene(phase, settings, Scene(settings.out_root, entry.scene_id), entry, tally, signals, reporter)
        except StoppedError as stop:
            stopped = stop
        if not settings.dry_run:
            try:
                phase.after()
            except OSError as error:
                reporter.warning(f"the logs were not merged: {explain_error(error)}")
        if not entries:
            reporter.warning(f"{settings.index_path} has no accepted scene")
        if stopped:
            reporter.info(f"{phase.name}: stopped by {stopped}; {tally.sentence()}. Run the same command to go on.")
            return ExitCode.STOPPED
        failed = bool(tally.failed)
        advice = f"mend what is named above, then: {phase_command(phase.name)}" if failed else _next(phase.name)
        reporter.info(f"{phase.name}: {tally.sentence()}. {advice[0].upper()}{advice[1:]}")
        return ExitCode.SOME_SCENES_FAILED if failed else ExitCode.DONE


def _next(name: str) -> str:
    after = following(name)
    return f"next: {phase_command(after.name)}" if after else f"next: {operator_command('status')}"


def _one_scene(
    phase: ScenePhase,
    settings: RunSettings,
    scene: Scene,
    entry: SceneEntry,
    tally: Tally,
    signals: StopSignals,
    reporter: Reporter,
) -> None:
    name = entry.scene_id
    try:
        fields = as_stored(phase.fields(scene, entry))
        found = _assess(phase, scene, entry, fields)
        if _settled(found, settings, name, tally, reporter):
            return
        if settings.dry_run:
            reporter.info(f"{name}: would run ({found.state}: {found.reason})")
            tally.planned.append(name)
            return
        with Lease(scene.lease_path(phase.name)) as lease:
            found = _assess(phase, scene, entry, fields)  # another worker may have finished it in between
            if _settled(found, settings, name, tally, reporter):
                return
            phase.ready(scene, entry)
            scene.failure_path(phase.name).unlink(missing_ok=True)
            journal = _prepare(phase, scene, entry, fields, found, reporter)
            work = Work(journal=journal, lease=lease, signals=signals, reporter=reporter)
            fix_threads()
            _finish(phase, scene, entry, fields, work)
        tally.done.append(name)
    except LeaseHeldError as held:
        reporter.info(f"{name}: {held}")
        tally.held.append(name)
    except (
        SceneError,
        OSError,
        MemoryError,
        RuntimeError,
        ValueError,
        ArithmeticError,
        LookupError,
        TypeError,
    ) as error:
        reporter.end_progress()
        reason = explain_error(error)
        reporter.error(f"{name}: {reason}")
        if not isinstance(error, SceneError):
            reporter.log_only(traceback.format_exc())
        tally.failed.append(name)
        if not settings.dry_run:
            _remember_failure(scene, phase.name, reason)


def _assess(phase: ScenePhase, scene: Scene, entry: SceneEntry, fields: Fields) -> Assessment:
    return assess(fields, phase.folders(scene), phase.outputs(scene, entry), phase.journal(scene))


def _settled(found: Assessment, settings: RunSettings, name: str, tally: Tally, reporter: Reporter) -> bool:
    """Whether a scene needs nothing; raises StaleError when the user has to choose."""
    if found.state is State.DONE:
        reporter.log_only(f"{name}: already done")
        tally.skipped.append(name)
        return True
    if found.state is State.STALE and settings.on_stale == "keep":
        reporter.warning(f"{name}: kept although {found.reason}")
        tally.kept.append(name)
        return True
    if found.state in (State.STALE, State.FOREIGN) and settings.on_stale != "redo":
        choice = "redo to make them again" + (", keep to leave them" if found.state is State.STALE else "")
        raise StaleError(f"{found.reason}; nothing was touched. Choose with --on_stale: {choice}")
    return False


def _prepare(
    phase: ScenePhase, scene: Scene, entry: SceneEntry, fields: Fields, found: Assessment, reporter: Reporter
) -> Journal:
    name = entry.scene_id
    if found.state in (State.STALE, State.FOREIGN):
        reporter.info(f"{name}: redoing, since {found.reason}")
        clear(phase, scene)
    elif found.state is State.INCOMPLETE:
        reporter.warning(f"{name}: {found.reason}; making them again")
        for folder in phase.folders(scene):
            (folder / ".done").unlink(missing_ok=True)
    elif found.state is State.PARTIAL:
        reporter.info(f"{name}: resuming, {found.reason}")
    for folder in {path.parent for path in phase.outputs(scene, entry)} | set(phase.folders(scene)):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
    remove_leftovers(scene.dir)
    journal = phase.journal(scene)
    if journal.fields != fields:
        journal.begin(fields)
    return journal


def clear(phase: ScenePhase, scene: Scene) -> None:
    """Remove what a phase made of a scene: first the `.done`, so that no reader takes the rest for whole."""
    for folder in phase.folders(scene):
        (folder / ".done").unlink(missing_ok=True)
    phase.journal(scene).path.unlink(missing_ok=True)
    for folder in phase.folders(scene):
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def _finish(phase: ScenePhase, scene: Scene, entry: SceneEntry, fields: Fields, work: Work) -> None:
    started = time.monotonic()
    outputs = phase.outputs(scene, entry)
    result = phase.run(scene, entry, work)
    work.reporter.end_progress()
    work.lease.check()
    folders = {path.parent for path in outputs}
    present = {folder / name for folder in folders for name in names_in(folder)}
    lost = [path for path in outputs if path not in present]
    if lost:
        raise SceneError(f"{len(lost)} outputs vanished while the scene was in work, the first is {lost[0]}")
    for warning in result.warnings:
        work.reporter.warning(f"{scene.scene_id}: {warning}")
    for folder in phase.folders(scene):
        DoneRecord(
            phase=phase.name,
            fingerprint=fingerprint(fields),
            fields=fields,
            upstream=fields.get("upstream", {}),
            outputs=sum(1 for path in outputs if folder in path.parents),
            engine=phase.info.name,
            licence=phase.info.licence,
            fallbacks=result.fallbacks,
            repairs=result.repairs,
            warnings=result.warnings,
            summary=result.summary,
            wall_s=round(time.monotonic() - started, 3),
            job_id=current_job_id(),
        ).write(folder)


def explain_error(error: BaseException) -> str:
    """A reason a person can act on."""
    if isinstance(error, SceneError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error}); free some space and run the same command, finished frames are kept"
    if isinstance(error, PermissionError):
        return f"no permission: {error}"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return f"out of memory: {error or type(error).__name__}"
    return f"{type(error).__name__}: {error} (the traceback is in the log)"


def _remember_failure(scene: Scene, phase: str, reason: str) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with contextlib.suppress(OSError):  # the reason was printed; a full disk must not hide it behind another error
        scene.private_dir.mkdir(parents=True, exist_ok=True)
        write_json(scene.failure_path(phase), {"phase": phase, "reason": reason, "at": at})
