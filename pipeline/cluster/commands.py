"""What jobs/*.sh and `python -m pipeline resume` call: check everything, plan, submit, say what was done.

python -m pipeline.cluster 1-4                      index, then arrays for deblur and depth, then calibration
python -m pipeline.cluster 5-6 --render_args "--num_sets 2"
python -m pipeline.cluster depth --engine vda       one phase; its script's flags follow as they are
python -m pipeline.cluster 1-4 --local              the same plan in this machine's processes
python -m pipeline.cluster 1-4 --dry_run            what would be submitted, and nothing else
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.cluster.dry_run import dry_run
from pipeline.cluster.fit import check_fits, detect_profile
from pipeline.cluster.gate import advance
from pipeline.cluster.plan import Run, Stage, new_run_folder, runs_folder
from pipeline.cluster.preflight import check_flags, check_same_settings, refuse_stale
from pipeline.cluster.profile import CPU, REPOSITORY, Profile, array_phases, load_profile
from pipeline.cluster.queue_view import active_scenes
from pipeline.cluster.request import Request
from pipeline.cluster.scheduler import Slurm
from pipeline.cluster.stage_status import stage_status
from pipeline.cluster.worker import requeue
from pipeline.errors import ExitCode, LeaseHeldError, StoppedError
from pipeline.phases.calibration import confirmed_calibration
from pipeline.phases.registry import Phase, phase_named
from pipeline.signals import StopSignals
from pipeline.storage.lease import Lease, task_id
from pipeline.storage.scene import SceneEntry, SceneIndex

SUBMIT_PATIENCE_S = 60.0


def submit(request: Request, why: dict[str, str] | None = None) -> ExitCode:
    """Check a request, plan it, and submit it or run it here.

    Args:
        request: what to do.
        why: for `resume`: scene -> why it is submitted again, to print.

    Raises:
        PipelineError: something does not fit; nothing was submitted, or the message says what was.
    """
    chosen = [phase_named(name) for name in request.phases]
    asked = {phase.name: check_flags(phase, request.args.get(phase.name, ())) for phase in chosen}
    slurm = None if request.local else Slurm()
    profile = _profile(request, slurm)
    settings = request.settings
    for phase in chosen:
        if not phase.lists_scenes or settings.dry_run:
            continue
        code = _list_scenes(request, phase)
        if code not in (ExitCode.DONE, ExitCode.SOME_SCENES_FAILED):
            return ExitCode(code) if code in {*ExitCode} else ExitCode.FAILED
    index = SceneIndex.load(settings.index_path)
    entries = settings.chosen(index)
    if any(phase.calibrated for phase in chosen) and not any(phase.confirms for phase in chosen):
        confirmed_calibration(settings, index)
    for scene, reason in (why or {}).items():
        print(f"{scene}: {reason}")
    run = _run(request, profile, entries)
    first = next(stage.phase for stage in run.stages if stage.phase in array_phases())
    found = stage_status(run, first, entries, None)
    refuse_stale(first, found)
    if why is None and settings.on_stale == "stop":
        check_same_settings(run, asked, entries)
    if settings.dry_run:
        return dry_run(run, first, found, entries, slurm)
    with _submission_lease(settings.logs), StopSignals() as signals:
        entries = _without_those_in_progress(request, entries, slurm)
        if not entries:
            return ExitCode.DONE
        run = replace(run, scenes=tuple(entry.scene_id for entry in entries))
        run.save()
        print(f"run {run.run_id}: {len(run.scenes)} scenes; its files are in {run.folder}", flush=True)
        if slurm is not None:
            return advance(run, slurm, signals)
    try:
        with StopSignals() as signals:  # here it takes hours: other submissions must not wait for the lease
            return advance(run, None, signals)
    except StoppedError:
        if task_id() is not None:  # a job that runs everything itself: back into the queue
            requeue(str(task_id()))
        raise


def _run(request: Request, profile: Profile, entries: list[SceneEntry]) -> Run:
    phases = [phase_named(name) for name in request.phases]
    stages = tuple(Stage.of(phase, request.args.get(phase.name, ())) for phase in phases if not phase.lists_scenes)
    settings = request.settings
    return Run(
        folder=new_run_folder(settings.logs.resolve()),
        stages=stages,
        scenes=tuple(entry.scene_id for entry in entries),
        raw_root=settings.raw_root.resolve(),
        out_root=settings.out_root.resolve(),
        logs=settings.logs.resolve(),
        profile=profile,
        local=request.local,
        on_stale=settings.on_stale,
        min_yield=request.min_yield,
        scenes_per_task=request.scenes_per_task,
    )


def _profile(request: Request, slurm: Slurm | None) -> Profile:
    """The profile with the request's overrides, checked against the cluster."""
    if slurm is None:
        name = request.profile if request.profile.endswith(".toml") else "local"
        profile = load_profile(name)
        return replace(profile, workers=request.workers) if request.workers else profile
    partitions = slurm.partitions()
    profile = load_profile(request.profile or detect_profile(partitions))
    given = {name: getattr(request, name) for name in ("account", "qos", "mail") if getattr(request, name)}
    profile = replace(profile, **given)
    arrays = tuple(phase for phase in request.phases if phase in array_phases())
    check_fits(profile, partitions, (*arrays, CPU))
    return profile


def _list_scenes(request: Request, phase: Phase) -> int:
    settings = request.settings
    shared = ["--raw_root", str(settings.raw_root), "--out_root", str(settings.out_root), "--logs", str(settings.logs)]
    shared += [flag for scene in settings.scenes for flag in ("--scene", scene)]
    script, *words = phase.command
    path = script if script.startswith("-") else str(REPOSITORY / script)
    command = [sys.executable, path, *words, *shared, *request.args.get(phase.name, ())]
    return subprocess.run(command, check=False).returncode


@contextlib.contextmanager
def _submission_lease(logs: Path) -> Iterator[None]:
    """One submission at a time looks at the queue and adds to it."""
    path = runs_folder(logs.resolve()) / "submit.lease"
    deadline = time.monotonic() + SUBMIT_PATIENCE_S
    while True:
        try:
            lease = Lease(path)
            lease.__enter__()
            break
        except LeaseHeldError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
    try:
        yield
    finally:
        lease.__exit__(None, None, None)


def _without_those_in_progress(request: Request, entries: list[SceneEntry], slurm: Slurm | None) -> list[SceneEntry]:
    """The scenes that no queued or running run has for the same phases; says which are left out."""
    if slurm is None:
        return entries
    settings = request.settings
    taken = active_scenes(settings.logs.resolve(), settings.out_root.resolve(), slurm.queue(), request.phases)
    left_out = [entry.scene_id for entry in entries if entry.scene_id in taken]
    if left_out:
        runs = sorted({taken[scene] for scene in left_out})
        print(
            f"{len(left_out)} of {len(entries)} scenes are in progress already, by run {', '.join(runs)}; "
            f"not submitted again. To start over, cancel that run's jobs first (squeue --me)"
        )
    return [entry for entry in entries if entry.scene_id not in taken]
