"""--dry_run: the plan, its arrays, what it would cost as measured, and the sbatch file. Submits and writes nothing."""

from pipeline.cluster.estimate import seconds_per_frame
from pipeline.cluster.plan import Plan, Run
from pipeline.cluster.profile import array_phases
from pipeline.cluster.scheduler import Slurm
from pipeline.cluster.stage_status import StageStatus, make_plans
from pipeline.cluster.submit import chunks, preview
from pipeline.errors import ExitCode
from pipeline.storage.scene import SceneEntry


def dry_run(run: Run, first: str, found: StageStatus, entries: list[SceneEntry], slurm: Slurm | None) -> ExitCode:
    """Show what a run would submit for its first array phase, and name what would follow."""
    plans = make_plans(run, first, found, {entry.scene_id: entry for entry in entries}, None)
    print(f"dry run, profile {run.profile.name}: {len(entries)} scenes, {len(found.done)} of them done in {first}")
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
    planned = set(plan.scenes)
    chosen = [entry for entry in entries if entry.scene_id in planned]
    arrays = chunks(len(plan.elements), limit)
    throttle = f", at most {run.profile.max_gpus} GPUs at once" if run.profile.max_gpus else ""
    print(f"{plan.phase}: {len(plan.scenes)} scenes in {len(plan.elements)} tasks, {_hours(run, plan.phase, chosen)}")
    for first, count in arrays:
        print(f"  array of elements {first}-{first + count - 1}{throttle}")
    print(f"the file of the first of {len(arrays)} arrays (the others differ in the elements' offset):\n")
    print(preview(run, plan, *arrays[0]))


def _hours(run: Run, phase: str, entries: list[SceneEntry]) -> str:
    if phase not in array_phases():
        return "in the gate job" if not run.local else "here"
    rate = seconds_per_frame(run.out_root, entries, phase)
    if rate is None:
        return "GPU hours unknown, no scene was measured yet"
    frames = sum(entry.num_frames for entry in entries)
    gpus = run.profile.resources(phase).gpus
    kind = "GPU hours" if gpus else "task hours"
    return f"about {frames * rate / 3600 * max(1, gpus):.2f} {kind} ({rate:.3g} s a frame as measured, {frames} frames)"
