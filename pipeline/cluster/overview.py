"""What the queue adds to `python -m pipeline status`: queued tasks, runs and their outcome, hours used.

The scheduler is asked once, and only where runs were ever submitted; when it does not answer, the status says so and
shows what the sentinels tell.
"""

from itertools import islice
from typing import Any

from pipeline.cluster.plan import all_runs, runs_folder
from pipeline.cluster.queue_view import hours_used, queued_scenes
from pipeline.cluster.scheduler import QueuedTask, SchedulerError, Slurm
from pipeline.hints import operator_command
from pipeline.run_settings import RunSettings
from pipeline.storage.completion import State

_SHOWN_RUNS = 3
_QUEUED_OVER = (
    State.WAITING,
    State.PARTIAL,
    State.FAILED,
    State.STALE,
    State.INCOMPLETE,
)  # states that a queued task will change


def add_cluster(found: dict[str, Any], settings: RunSettings, slurm: Slurm | None = None) -> None:
    """Add "cluster" to what `dataset_status` found, and mark scenes whose task is queued.

    Args:
        found: changed in place; nothing is added where no run was ever submitted.
        settings: roots and logs.
        slurm: to ask; by default SLURM's own commands where there are any.
    """
    logs, out_root = settings.logs.resolve(), settings.out_root.resolve()
    if not runs_folder(logs).is_dir():
        return
    queue: list[QueuedTask] = []
    silent = ""
    if slurm is not None or Slurm.present():
        try:
            queue = (slurm or Slurm()).queue()
        except SchedulerError as error:
            silent = str(error)
    for queued in queued_scenes(logs, out_root, queue):
        cell = found["scenes"].get(queued.scene, {}).get(queued.phase)
        if cell is not None and cell["state"] in _QUEUED_OVER:
            # Also in a task that runs: it has other scenes, and the one in progress has a lease and is "running" already.
            cell["state"] = State.QUEUED
            cell["detail"] = f"task {queued.task} {queued.state.lower()} {queued.reason}"
    live = frozenset(task.job for task in queue)
    found["cluster"] = {
        "tasks": _by_state(queue),
        "silent": silent,
        "hours": hours_used(logs, out_root, live),
        "runs": _runs(logs, out_root, queue),
    }


def _by_state(queue: list[QueuedTask]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for task in queue:
        counts[task.state] = counts.get(task.state, 0) + 1
    return counts


def _runs(logs: Any, out_root: Any, queue: list[QueuedTask]) -> list[dict[str, Any]]:
    """The newest runs on this output root: what they do now or how they ended."""
    shown = []
    for run in islice((run for run in all_runs(logs) if run.out_root == out_root), _SHOWN_RUNS):
        jobs = [task for task in queue if task.name.endswith(f".{run.run_id}")]
        outcome = run.outcome() or {}
        if jobs:
            waiting = sum(task.state == "PENDING" for task in jobs)
            kinds = sorted({task.name.partition(".")[0] for task in jobs})
            state, message = "in the queue", f"{', '.join(kinds)}: {waiting} pending, {len(jobs) - waiting} running"
        else:
            state = outcome.get("state", "here" if run.local else "gone")
            gone = f"its jobs are gone without a result (cancelled?): {operator_command('resume')}"
            message = outcome.get("message", "" if run.local else gone)
        phases = [stage.phase for stage in run.stages]
        shown.append({"run": run.run_id, "phases": phases, "state": state, "message": message})
    return shown


def lines(cluster: dict[str, Any]) -> list[str]:
    """The same for a person."""
    text = []
    if cluster["silent"]:
        text.append(f"queue: unknown ({cluster['silent']})")
    elif cluster["tasks"]:
        text.append(
            "queue: " + ", ".join(f"{count} {state.lower()}" for state, count in sorted(cluster["tasks"].items()))
        )
    for run in cluster["runs"]:
        text.append(f"run {run['run']} ({', '.join(run['phases'])}): {run['state']}; {run['message']}")
    used = [
        f"{phase} {sums['gpu_hours']:.2f} GPU h" if sums["gpu_hours"] else f"{phase} {sums['task_hours']:.2f} task h"
        for phase, sums in cluster["hours"].items()
    ]
    if used:
        text.append(f"hours used: {', '.join(used)}")
    return text
