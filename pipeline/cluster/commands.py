"""What jobs/*.sh and `python -m pipeline resume` call: check everything, plan, submit, say what was done.

python -m pipeline.cluster 1-4                      index, then arrays for deblur and depth, then calibration
python -m pipeline.cluster 5-6 --render_args "--num_sets 2"
python -m pipeline.cluster depth --engine vda       one phase; its script's flags follow as they are
python -m pipeline.cluster 1-4 --local              the same plan in this machine's processes
python -m pipeline.cluster 1-4 --dry_run            what would be submitted, and nothing else
"""

import argparse
import contextlib
import importlib.util
import io
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import cli
from pipeline.cluster.estimate import seconds_per_frame
from pipeline.cluster.gate import advance, judge, make_plans
from pipeline.cluster.in_work import active_scenes
from pipeline.cluster.plan import SCRIPTS, Plan, Run, Stage, new_run_folder, runs_folder
from pipeline.cluster.profile import ARRAY_PHASES, CPU, REPOSITORY, Profile, known_profiles, load_profile
from pipeline.cluster.scheduler import Slurm, check_fits, detect_profile
from pipeline.cluster.submit import chunks, preview
from pipeline.cluster.worker import task_id
from pipeline.engines import engine_class, parse_options
from pipeline.engines.base import Role
from pipeline.errors import LeaseHeld, Stopped, UsageError
from pipeline.lease import Lease
from pipeline.phases.calibration import confirmed_calibration
from pipeline.runner import ExitCode, RunSettings
from pipeline.scene import SceneEntry, SceneIndex
from pipeline.signals import StopSignals

GROUPS = {
    "1-4": ("index", "deblur", "depth", "calibrate"),
    "5-6": ("render", "validate"),
    "test": ("index", "deblur", "depth", "calibrate", "confirm", "render", "validate"),
    **{phase: (phase,) for phase in ARRAY_PHASES},
}
_ROLES: dict[str, Role] = {"deblur": "deblur", "depth": "depth", "render": "bokeh"}
SUBMIT_PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """A submission as it was asked for.

    Args:
        phases: of GROUPS, in order; "index" runs at once.
        args: flags of single phases' scripts.
        profile: a name, a path, or empty to look at the cluster.
    """

    phases: tuple[str, ...]
    args: dict[str, tuple[str, ...]]
    settings: RunSettings
    profile: str = ""
    account: str = ""
    qos: str = ""
    mail: str = ""
    local: bool = False
    workers: int = 0
    min_yield: float = 0.9
    scenes_per_task: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.min_yield <= 1:
            raise UsageError(f"--min_yield must be between 0 and 1, got {self.min_yield}")
        for name in ("workers", "scenes_per_task"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name} must not be negative, got {getattr(self, name)}")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say where and how to run; shared by jobs/*.sh and `resume`."""
    group = parser.add_argument_group("cluster")
    shipped = ", ".join(known_profiles())
    group.add_argument(
        "--profile",
        default=os.environ.get("BOKEHFLOW_PROFILE", ""),
        help=f"resources: {shipped}, or a .toml file; by default what fits the cluster's partitions",
    )
    for name in ("account", "qos", "mail"):
        group.add_argument(f"--{name}", default="", help="overrides the profile's")
    group.add_argument("--local", action="store_true", help="in processes of this machine, without SLURM; waits")
    group.add_argument("--workers", type=int, default=0, help="with --local: processes at once; 0: the profile's")
    group.add_argument("--scenes_per_task", type=int, default=0, help="0: as many as fill the profile's target_minutes")
    group.add_argument("--min_yield", type=float, default=0.9, help="share of scenes that the next stage needs")


def parse(argv: list[str] | None = None) -> Request:
    parser = cli.parser(__doc__)
    parser.prog = "python -m pipeline.cluster"
    parser.add_argument("what", choices=sorted(GROUPS), help="phases to run")
    add_flags(parser)
    for phase in SCRIPTS:
        parser.add_argument(f"--{phase}_args", default="", metavar="FLAGS", help=f"further flags of {SCRIPTS[phase]}")
    args, rest = parser.parse_known_args(argv)
    phases = GROUPS[args.what]
    given = {phase: tuple(shlex.split(getattr(args, f"{phase}_args"))) for phase in phases}
    if rest and len(phases) > 1:
        parser.error(
            f'{rest[0]} is no flag of all phases; give it to one, as in: --{phases[1]}_args "{" ".join(rest)}"'
        )
    given[phases[0]] = (*given[phases[0]], *rest)
    if "confirm" in phases:
        given["confirm"] = ("--confirm", "--keep_confirmed", *given["confirm"])
    return Request(phases=phases, args=given, settings=cli.run_settings(args), **cluster_flags(args))


def cluster_flags(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_flags` added."""
    names = ("profile", "account", "qos", "mail", "local", "workers", "min_yield", "scenes_per_task")
    return {name: getattr(args, name) for name in names}


def submit(request: Request, why: dict[str, str] | None = None) -> ExitCode:
    """Check a request, plan it, and submit it or run it here.

    Args:
        request: what to do.
        why: for `resume`: scene -> why it is submitted again, to print.

    Raises:
        PipelineError: something does not fit; nothing was submitted, or the message says what was.
    """
    for phase in request.phases:
        _check_script_flags(phase, request.args.get(phase, ()))
    slurm = None if request.local else Slurm()
    profile = _profile(request, slurm)
    settings = request.settings
    if "index" in request.phases and not settings.dry_run:
        code = _index(request)
        if code not in (ExitCode.DONE, ExitCode.SOME_SCENES_FAILED):
            return code
    index = SceneIndex.load(settings.index_path)
    entries = settings.chosen(index)
    if "render" in request.phases and "confirm" not in request.phases:
        confirmed_calibration(settings, index)
    for scene, reason in (why or {}).items():
        print(f"{scene}: {reason}")
    if settings.dry_run:
        return _dry_run(request, profile, entries, slurm)
    with _submission_lease(settings.logs), StopSignals() as signals:
        entries = _not_in_work(request, entries, slurm)
        if not entries:
            return ExitCode.DONE
        run = _run(request, profile, entries)
        run.save()
        print(f"run {run.run_id}: {len(run.scenes)} scenes; its files are in {run.folder}", flush=True)
        if slurm is not None:
            return advance(run, slurm, signals)
    try:
        with StopSignals() as signals:  # here it takes hours: other submissions must not wait for the lease
            return advance(run, None, signals)
    except Stopped:
        if task_id() is not None:  # a job that runs everything itself: back into the queue
            Slurm().requeue(str(task_id()))
        raise


def _run(request: Request, profile: Profile, entries: list[SceneEntry]) -> Run:
    stages = tuple(Stage(phase=phase, args=request.args.get(phase, ())) for phase in request.phases if phase != "index")
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
    arrays = tuple(phase for phase in request.phases if phase in ARRAY_PHASES)
    check_fits(profile, partitions, (*arrays, CPU))
    return profile


def _check_script_flags(phase: str, args: tuple[str, ...]) -> None:
    """Let the phase's own script parse its flags now, not in a task hours later; engines by name, without weights.

    Raises:
        UsageError: it does not accept them; with the script's own words.
    """
    path = REPOSITORY / SCRIPTS[phase]
    spec = importlib.util.spec_from_file_location(f"cluster_{path.stem}", path)
    assert spec and spec.loader, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words), contextlib.redirect_stdout(words):
            parsed = module.parse(list(args))
    except SystemExit:
        last = words.getvalue().strip().splitlines()[-1:] or [""]
        raise UsageError(f"{SCRIPTS[phase]} does not take {shlex.join(args)}: {last[0]}") from None
    if phase in _ROLES:
        engine = engine_class(_ROLES[phase], parsed.engine)
        parse_options(engine, cli.engine_options(parsed))


def _index(request: Request) -> ExitCode:
    settings = request.settings
    shared = ["--raw_root", str(settings.raw_root), "--out_root", str(settings.out_root), "--logs", str(settings.logs)]
    shared += [flag for scene in settings.scenes for flag in ("--scene", scene)]
    script = REPOSITORY / SCRIPTS["index"]
    command = [sys.executable, str(script), *shared, *request.args.get("index", ())]
    return ExitCode(subprocess.run(command, check=False).returncode)


@contextlib.contextmanager
def _submission_lease(logs: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """One submission at a time looks at the queue and adds to it."""
    path = runs_folder(logs.resolve()) / "submit.lease"
    deadline = time.monotonic() + SUBMIT_PATIENCE_S
    while True:
        try:
            lease = Lease(path)
            lease.__enter__()
            break
        except LeaseHeld:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
    try:
        yield
    finally:
        lease.__exit__(None, None, None)


def _not_in_work(request: Request, entries: list[SceneEntry], slurm: Slurm | None) -> list[SceneEntry]:
    """The scenes that no queued or running run has for the same phases; says which are left out."""
    if slurm is None:
        return entries
    settings = request.settings
    taken = active_scenes(settings.logs.resolve(), settings.out_root.resolve(), slurm.queue(), request.phases)
    left_out = [entry.scene_id for entry in entries if entry.scene_id in taken]
    if left_out:
        runs = sorted({taken[scene] for scene in left_out})
        print(
            f"{len(left_out)} of {len(entries)} scenes are in work already, by run {', '.join(runs)}; "
            f"not submitted again. To start over, cancel that run's jobs first (squeue --me)"
        )
    return [entry for entry in entries if entry.scene_id not in taken]


def _dry_run(request: Request, profile: Profile, entries: list[SceneEntry], slurm: Slurm | None) -> ExitCode:
    run = _run(request, profile, entries)
    first = next(stage.phase for stage in run.stages if stage.phase in ARRAY_PHASES)
    known = {entry.scene_id: entry for entry in entries}
    found = judge(run, first, entries, None)
    plans = make_plans(run, first, found, known, None)
    print(f"dry run, profile {profile.name}: {len(entries)} scenes, {len(found.done)} of them done in {first}")
    limit = slurm.max_array_size() if slurm is not None else max(1, len(entries))
    for plan in plans:
        _show(run, plan, limit, entries)
    for stage in run.stages:
        if stage.phase != first:
            print(f"then {stage.phase}: {_hours(run, stage.phase, entries)}")
    if not plans:
        print(f"nothing to submit for {first}")
    return ExitCode.DONE


def _show(run: Run, plan: Plan, limit: int, entries: list[SceneEntry]) -> None:
    chosen = [entry for entry in entries if entry.scene_id in set(plan.scenes)]
    arrays = chunks(len(plan.elements), limit)
    throttle = f", at most {run.profile.max_gpus} GPUs at once" if run.profile.max_gpus else ""
    print(f"{plan.phase}: {len(plan.scenes)} scenes in {len(plan.elements)} tasks, {_hours(run, plan.phase, chosen)}")
    for first, count in arrays:
        print(f"  array of elements {first}-{first + count - 1}{throttle}")
    print(f"the file of the first of {len(arrays)} arrays (the others differ in the elements' offset):\n")
    print(preview(run, plan, *arrays[0]))


def _hours(run: Run, phase: str, entries: list[SceneEntry]) -> str:
    if phase not in ARRAY_PHASES:
        return "in the gate job" if not run.local else "here"
    rate = seconds_per_frame(run.out_root, entries, phase)
    if rate is None:
        return "GPU hours unknown, no scene was measured yet"
    frames = sum(entry.num_frames for entry in entries)
    gpus = run.profile.phases[phase].gpus
    kind = "GPU hours" if gpus else "task hours"
    return f"about {frames * rate / 3600 * max(1, gpus):.2f} {kind} ({rate:.3g} s a frame as measured, {frames} frames)"
