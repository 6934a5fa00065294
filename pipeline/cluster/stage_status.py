"""What stands where in one stage of a run, and the plans for what is to be done next.

Done is what the sentinels say. Why the rest is not is read from the tasks' records and the scheduler (failures.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.cluster.estimate import pack, seconds_per_frame, spread
from pipeline.cluster.failures import TaskStates, Unfinished, finished_by_task, unfinished
from pipeline.cluster.plan import Plan, Run
from pipeline.cluster.profile import Resources
from pipeline.cluster.scheduler import Slurm
from pipeline.errors import InputError
from pipeline.phases.registry import Phase, phase_named
from pipeline.run_settings import RunSettings
from pipeline.status import calibration_status, phase_status, render_difference
from pipeline.storage.completion import State
from pipeline.storage.files import read_json
from pipeline.storage.scene import Scene, SceneEntry, SceneIndex

MEMORY_FACTOR = 2.0


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """A stage by its sentinels. `waiting` scenes were never planned; `left` were, or are stale, and are not done."""

    plans: list[Plan]
    done: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    left: dict[str, Unfinished] = field(default_factory=dict)

    @property
    def retried(self) -> list[Unfinished]:
        return [one for one in self.left.values() if one.retry]

    def of_cause(self, *causes: str) -> list[Unfinished]:
        return [one for one in self.left.values() if one.cause in causes]


def stage_status(run: Run, phase: str, entries: Sequence[SceneEntry], slurm: Slurm | None) -> StageStatus:
    """What stands where in one stage.

    With --on_stale redo a scene is done when a task of this run has looked at it to the end, whatever an older `.done`
    says: only the script on its own node knows what would come out there.
    """
    plans = run.plans(phase)
    planned = {scene for plan in plans for scene in plan.scenes}
    looked_at = finished_by_task(plans) if run.on_stale == "redo" else set()
    kind = phase_named(phase)
    why_stale = _render_staleness(run, kind) if kind.calibrated else lambda scene: None
    found = StageStatus(plans=plans)
    tried: list[str] = []
    for entry in entries:
        name, scene = entry.scene_id, Scene(run.out_root, entry.scene_id)
        if run.on_stale == "redo" and name not in planned:
            found.waiting.append(name)
            continue
        status = phase_status(scene, entry, kind, why_stale(scene))
        kept = status.state is State.STALE and run.on_stale == "keep"
        if kept or (status.state is State.DONE and (run.on_stale != "redo" or name in looked_at)):
            found.done.append(name)
        elif status.state in (State.STALE, State.FOREIGN) and run.on_stale != "redo":
            found.left[name] = Unfinished(scene=name, cause="stale", tries=0, more_memory=False, detail=status.detail)
        else:
            (tried if name in planned else found.waiting).append(name)
    found.left.update(unfinished(plans, tried, TaskStates(slurm)))
    return found


def _render_staleness(run: Run, phase: Phase) -> Callable[[Scene], str | None]:
    settings = RunSettings(raw_root=run.raw_root, out_root=run.out_root, logs=run.logs)
    calibration, stale = calibration_status(settings, SceneIndex.load(settings.index_path))
    return lambda scene: stale or render_difference(scene, phase, calibration)


def make_plans(
    run: Run, phase: str, found: StageStatus, entries: dict[str, SceneEntry], slurm: Slurm | None
) -> list[Plan]:
    """Plans for what is to be submitted now, not yet on disk: first tries, retries, and retries with more memory."""
    resources = run.profile.resources(phase)
    again = [one.scene for one in found.retried if one.cause != "memory"]
    larger = [one.scene for one in found.retried if one.cause == "memory"]
    batches = [(found.waiting, 1.0), (again, 1.0), (larger, _memory_factor(resources, slurm) if larger else 1.0)]
    rate = seconds_per_frame(run.out_root, [entries[scene] for scene in found.done], phase)
    plans: list[Plan] = []
    for scenes, factor in batches:
        if not scenes or (scenes is larger and factor <= 1):
            continue
        chosen = [entries[scene] for scene in sorted(scenes)]
        if run.local:
            elements = spread(chosen, run.profile.workers)
        else:
            elements = pack(chosen, rate, run.profile.target_minutes, run.scenes_per_task)
        number = len(found.plans) + len(plans)
        plans.append(
            Plan(
                path=run.folder / f"{phase}_{number}.json",
                phase=phase,
                round=number,
                elements=tuple(elements),
                resources=resources.with_memory(factor),
                memory_factor=factor,
            )
        )
    return plans


def _memory_factor(resources: Resources, slurm: Slurm | None) -> float:
    """Twice as much, as far as a node of the partition has it."""
    offers = slurm.partitions().get(resources.partition) if slurm is not None else None
    if offers is None or not resources.mem_gb:
        return MEMORY_FACTOR
    return min(MEMORY_FACTOR, offers.mem_gb / resources.mem_gb)


def reason(run: Run, phase: str, one: Unfinished) -> str:
    """The scene's own words where it left any."""
    if one.cause == "stale":
        return f"stale: {one.detail}; --on_stale redo makes it again, keep leaves it"
    try:
        note = read_json(Scene(run.out_root, one.scene).failure_path(phase), "the failure note")
        return str(note.get("reason"))
    except (OSError, InputError):
        return {
            "memory": f"out of memory{', the second time too' if one.more_memory else ', and no node has more'}",
            "cancelled": "its task was cancelled",
            "environment": "no Python environment on the node; the task's log names it",
            "no_progress": "several attempts finished no frame",
            "held": "another worker has it",
        }.get(one.cause, "see the task's log")
