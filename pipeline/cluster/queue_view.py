"""Which scenes the queue holds: job names lead to runs, and runs to scenes. Also the hours that tasks have used."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cluster.plan import Plan, Run, StalePlanError, all_runs, runs_folder
from pipeline.cluster.profile import array_phases
from pipeline.cluster.scheduler import QueuedTask
from pipeline.cluster.worker import Records
from pipeline.errors import InputError


@dataclass(frozen=True, kw_only=True)
class QueuedScene:
    """A scene in a task that the scheduler still has."""

    phase: str
    scene: str
    task: str
    state: str
    reason: str


def place(task: QueuedTask) -> tuple[str, str, int] | None:
    """(run id, plan, element) of a queued array element, from its name; None for a gate or somebody's other job.

    The name is what sbatch was given, so it holds even where the answer with the job's id got lost.
    """
    phase, number, first, run_id = (*task.name.split("."), "", "", "", "")[:4]
    if phase not in array_phases() or not (number.isdigit() and first.isdigit()):
        return None
    return run_id, f"{phase}_{number}", int(first) + (task.index or 0)


def _active_runs(logs: Path, out_root: Path, queue: Sequence[QueuedTask]) -> Iterator[Run]:
    for run_id in sorted({task.name.rpartition(".")[2] for task in queue}):
        folder = runs_folder(logs) / run_id
        if (folder / "run.json").exists():
            run = Run.load(folder)
            if run.out_root == out_root:
                yield run


def active_scenes(logs: Path, out_root: Path, queue: Sequence[QueuedTask], phases: Sequence[str]) -> dict[str, str]:
    """Scenes that runs with a phase of `phases` still have in progress: scene -> run id.

    A run that goes on has all its scenes; one that stopped, as after a refused submission, only those in its queued tasks.
    """
    taken: dict[str, str] = {}
    for run in _active_runs(logs, out_root, queue):
        if {stage.phase for stage in run.stages} & set(phases):
            scenes = run.scenes if run.outcome() is None else [one.scene for one in _scenes_of(run, queue)]
            taken.update(dict.fromkeys(scenes, run.run_id))
    return taken


def queued_scenes(logs: Path, out_root: Path, queue: Sequence[QueuedTask]) -> list[QueuedScene]:
    """Every scene in a queued or running array element."""
    return [found for run in _active_runs(logs, out_root, queue) for found in _scenes_of(run, queue)]


def _scenes_of(run: Run, queue: Sequence[QueuedTask]) -> Iterator[QueuedScene]:
    plans: dict[str, Plan] = {}
    for task in queue:
        found = place(task)
        if found is None or found[0] != run.run_id:
            continue
        _, name, element = found
        if name not in plans:
            plans[name] = Plan.load(run.folder / f"{name}.json")
        for scene in plans[name].elements[element]:
            yield QueuedScene(phase=plans[name].phase, scene=scene, task=task.job, state=task.state, reason=task.reason)


def hours_used(logs: Path, out_root: Path, live: frozenset[str] = frozenset()) -> dict[str, dict[str, float]]:
    """Task and GPU hours by phase, from the tasks' own records: {"deblur": {"task_hours", "gpu_hours"}}.

    A task that was killed counts to its batch script's note, or until now while the scheduler has it; where neither is
    known its time is unknown and counts nothing.

    Args:
        live: tasks that are queued or running.
    """
    hours: dict[str, dict[str, float]] = {}
    for run in all_runs(logs):
        if run.out_root != out_root:
            continue
        for phase in array_phases():
            try:
                plans = run.plans(phase)
            except (InputError, StalePlanError, KeyError):
                continue
            for plan in plans:
                seconds, gpu_seconds = _plan_seconds(plan, live)
                if seconds:
                    sums = hours.setdefault(phase, {"task_hours": 0.0, "gpu_hours": 0.0})
                    sums["task_hours"] += seconds / 3600
                    sums["gpu_hours"] += gpu_seconds / 3600
    return hours


def _plan_seconds(plan: Plan, live: frozenset[str]) -> tuple[float, float]:
    seconds = gpu_seconds = 0.0
    for path in plan.records.glob("*.jsonl"):
        start: dict[str, Any] | None = None
        for event in [*Records(path).read(), {"event": "now", "at": time.time()}]:
            if start is not None and (event["event"] in ("end", "step") or start.get("job") in live):
                spent = max(0.0, float(event["at"]) - float(start["at"]))
                seconds += spent
                gpu_seconds += spent * start.get("gpus", 0)
                start = None
            if event["event"] == "start":
                start = event
    return seconds, gpu_seconds
