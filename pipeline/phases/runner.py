"""The loop that all per-scene phases share: which scenes, skip or resume, lease, signals, failures, summary, exit code.

A scene that fails is a result, not a crash: its reason is printed, logged with the traceback, kept beside the scene for
`python -m pipeline status`, and the next scene begins.
"""

import contextlib
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.device import fix_threads
from pipeline.errors import (
    ExitCode,
    InputError,
    LeaseHeldError,
    LeaseLostError,
    SceneError,
    StaleError,
    StoppedError,
    explain_os_error,
)
from pipeline.hints import next_step, phase_command
from pipeline.phases.base import ScenePhase, Work
from pipeline.phases.registry import following
from pipeline.reporter import Reporter
from pipeline.run_settings import RunSettings
from pipeline.signals import StopSignals
from pipeline.storage.completion import Assessment, DoneRecord, State, as_stored, assess, fingerprint
from pipeline.storage.files import dump_json, leftovers, names_in, remove_leftovers, write_shared
from pipeline.storage.holder import current_job_id
from pipeline.storage.journal import Fields
from pipeline.storage.lease import Lease, glance, traces
from pipeline.storage.ownership import OwnFiles, refuse_links
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
            for entry in entries:  # a lease that proves silent need not be watched again when its turn comes
                glance(Scene(settings.out_root, entry.scene_id).lease_path(phase.name))
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
        reporter.info(f"{phase.name}: {tally.sentence()}.{_advice(phase.name, failed)}")
        return ExitCode.SOME_SCENES_FAILED if failed else ExitCode.DONE


def _advice(name: str, failed: bool) -> str:
    if failed:
        return f" Mend what is named above, then: {phase_command(name)}"
    after = following(name)
    return next_step(after.name) if after else ""


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
            if found.state is State.DONE and not settings.dry_run:
                _tidy(phase, settings, scene, entry, signals)
            return
        if settings.dry_run:
            reporter.info(f"{name}: would run ({found.state}: {found.reason})")
            tally.planned.append(name)
            return
        _refuse_links(phase, settings, scene, entry)
        with Lease(scene.lease_path(phase.name), signals.safe_point) as lease:
            work = Work(journal=phase.journal(scene), lease=lease, signals=signals, reporter=reporter)
            if not _under_lease(phase, settings, scene, entry, fields, work, tally):
                return
        tally.done.append(name)
    except (LeaseHeldError, LeaseLostError) as held:
        reporter.end_progress()
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
            _remember_failure(scene, phase.name, reason, getattr(error, "waits_for", ""))


def _refuse_links(phase: ScenePhase, settings: RunSettings, scene: Scene, entry: SceneEntry) -> None:
    """InputError when anything that the phase writes or removes is a symbolic link."""
    outputs = phase.outputs(scene, entry)
    folders = {path.parent for path in outputs} | set(phase.folders(scene))
    single = [path for path in outputs if path.parent == scene.dir]  # not in a folder of the phase's own
    private = [at(phase.name) for at in (scene.journal_path, scene.lease_path, scene.failure_path)]
    refuse_links(settings.out_root, [*folders, *single, *private])
    phase.own_files(scene, entry).refuse_links()


def _tidy(phase: ScenePhase, settings: RunSettings, scene: Scene, entry: SceneEntry, signals: StopSignals) -> None:
    """Remove what killed workers left beside finished work, for which nobody takes the lease any more."""
    own, lease_path = phase.own_files(scene, entry), scene.lease_path(phase.name)
    with contextlib.suppress(OSError, InputError, LeaseHeldError):  # in use, or not writable: it is in nobody's way
        _refuse_links(phase, settings, scene, entry)
        if traces(lease_path) or own.leftovers() or leftovers(scene.private_dir, _private_names(phase, scene)):
            with Lease(lease_path, signals.safe_point):
                _sweep(own, phase, scene)


def _sweep(own: OwnFiles, phase: ScenePhase, scene: Scene) -> None:
    own.sweep()
    remove_leftovers(scene.private_dir, _private_names(phase, scene))


def _private_names(phase: ScenePhase, scene: Scene) -> Callable[[str], bool]:
    names = {scene.journal_path(phase.name).name, scene.failure_path(phase.name).name}
    return names.__contains__


def _under_lease(
    phase: ScenePhase,
    settings: RunSettings,
    scene: Scene,
    entry: SceneEntry,
    fields: Fields,
    work: Work,
    tally: Tally,
) -> bool:
    """Do a scene whose lease is held; False when another worker finished it in between.

    Temporary files go before anything is looked at: from then on nothing that an earlier holder began can appear.
    """
    own = phase.own_files(scene, entry)
    try:
        work.lease.check()
        _sweep(own, phase, scene)
        work.journal = phase.journal(scene)
        found = _assess(phase, scene, entry, fields)
        if _settled(found, settings, scene.scene_id, tally, work.reporter):
            return False
        phase.ready(scene, entry)
        scene.failure_path(phase.name).unlink(missing_ok=True)
        _prepare(phase, scene, entry, fields, found, settings, own, work)
        fix_threads()
        _finish(phase, scene, entry, fields, work)
    except Exception:
        work.lease.check()  # files that a successor removed look like a failure of ours
        raise
    finally:
        work.journal.close()
    return True


def _assess(phase: ScenePhase, scene: Scene, entry: SceneEntry, fields: Fields) -> Assessment:
    return assess(fields, phase.folders(scene), phase.outputs(scene, entry), phase.journal(scene))


def _settled(found: Assessment, settings: RunSettings, name: str, tally: Tally, reporter: Reporter) -> bool:
    """Whether a scene needs nothing; raises StaleError when the user has to choose."""
    if settings.redo:
        return False
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
    phase: ScenePhase,
    scene: Scene,
    entry: SceneEntry,
    fields: Fields,
    found: Assessment,
    settings: RunSettings,
    own: OwnFiles,
    work: Work,
) -> None:
    name, reporter, fence = scene.scene_id, work.reporter, work.lease.check
    if found.state in (State.STALE, State.FOREIGN) or settings.redo:
        reporter.info(f"{name}: redoing, since {'--redo was given' if settings.redo else found.reason}")
        fence()
        work.journal.path.unlink(missing_ok=True)
        left = own.remove(fence)
        if left:
            reporter.warning(
                f"{name}: {len(left)} files were left alone, which this phase does not write, e.g. {left[0]}"
            )
        work.journal = phase.journal(scene)
    elif found.state is State.INCOMPLETE:
        reporter.warning(f"{name}: {found.reason}; making them again")
        for folder in phase.folders(scene):
            fence()
            (folder / ".done").unlink(missing_ok=True)
    elif found.state is State.PARTIAL:
        reporter.info(f"{name}: resuming, {found.reason}")
    for folder in {path.parent for path in phase.outputs(scene, entry)} | set(phase.folders(scene)):
        folder.mkdir(parents=True, exist_ok=True)
    if work.journal.fields == fields:
        work.journal.go_on(fence)
    else:
        work.journal.begin(fields, fence)


def _finish(phase: ScenePhase, scene: Scene, entry: SceneEntry, fields: Fields, work: Work) -> None:
    started, spent_s = time.monotonic(), work.journal.spent_s
    outputs = phase.outputs(scene, entry)
    result = phase.run(scene, entry, work)
    work.reporter.end_progress()
    folders = {path.parent for path in outputs}
    present = {folder / name for folder in folders for name in names_in(folder)}
    lost = [path for path in outputs if path not in present]
    if lost:
        raise SceneError(f"{len(lost)} outputs vanished while the scene was in progress, the first is {lost[0]}")
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
            wall_s=round(spent_s + time.monotonic() - started, 3),
            job_id=current_job_id(),
        ).write(folder, work.lease.check)


def explain_error(error: BaseException) -> str:
    """A reason a person can act on."""
    if isinstance(error, SceneError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return explain_os_error(error)
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return f"out of memory: {error or type(error).__name__}"
    return f"{type(error).__name__}: {error} (the traceback is in the log)"


def _remember_failure(scene: Scene, phase: str, reason: str, waits_for: str) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    # The reason was printed; a full disk, or a link that leads away, must not hide it behind another error.
    with contextlib.suppress(OSError, InputError):
        refuse_links(scene.dir.parent, [scene.failure_path(phase)])
        scene.private_dir.mkdir(parents=True, exist_ok=True)
        note = dump_json({"phase": phase, "reason": reason, "at": at, "waits_for": waits_for})
        write_shared(scene.failure_path(phase), note.encode())
