"""Why scenes of a stage are unfinished, and which of them are tried again.

| cause | how it is known | tried again |
|---|---|---|
| timeout, node, lost | the scheduler's word; "lost" when it has forgotten and nothing was recorded | yes |
| stopped | the task ended at a safe point and is not queued | yes |
| held, queued | another worker has the scene, or its task is back in the queue | after a while |
| memory | the script or its step was killed (exit 137), or OUT_OF_MEMORY | once, with more memory |
| scenes_failed | exit 3: the scene's own reason | no |
| error | an exception, a stale plan, a wrong flag | no |
| environment | no Python on the node | no |
| no_progress | several attempts in a row finished nothing | no |
| cancelled | by a person | no |
| stale | made with other settings or inputs, and nobody said --on_stale | no |
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.cluster.plan import Plan
from pipeline.cluster.queue_view import place
from pipeline.cluster.scheduler import Slurm
from pipeline.cluster.worker import Records

MAX_TRIES = 4  # plans that may hold one scene
RETRIED = ("timeout", "node", "lost", "stopped", "memory")
_STATES = {
    "OUT_OF_MEMORY": "memory",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "NODE_FAIL": "node",
    "BOOT_FAIL": "node",
    "PREEMPTED": "node",
    "CANCELLED": "cancelled",
}


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A scene that a stage did not finish.

    Args:
        cause: one of the table above.
        tries: how many plans held it.
        more_memory: whether it was tried with more memory.
        task: the last array element that had it, `JOB_INDEX`.
        detail: more words.
    """

    scene: str
    cause: str
    tries: int
    more_memory: bool
    task: str = ""
    detail: str = ""

    @property
    def retry(self) -> bool:
        if self.cause == "memory":
            return not self.more_memory and self.tries < MAX_TRIES
        return self.cause in RETRIED and self.tries < MAX_TRIES


class TaskStates:
    """What the scheduler knows of array elements: the queue asked once, an array once, and only when records do not tell."""

    def __init__(self, slurm: Slurm | None) -> None:
        self._slurm = slurm
        self._ended: dict[str, dict[str, str]] = {}

    @cached_property
    def _queue(self) -> dict[tuple[str, str, int], str]:
        found = {place(task): task.job for task in self._slurm.queue()} if self._slurm else {}
        return {where: job for where, job in found.items() if where}

    def queued(self, plan: Plan, number: int) -> str | None:
        """The task that still has an element.

        Raises:
            SchedulerError: no answer; whoever took that for "not queued" would submit twice.
        """
        return self._queue.get((plan.path.parent.name, plan.path.stem, number))

    def ended(self, array: str, task: str) -> str | None:
        """SLURM's word for how a task ended; None when nobody remembers."""
        if self._slurm is None:
            return None
        if array not in self._ended:
            remembered = {job: facts.get("JobState", "") for job, facts in self._slurm.job_facts(array).items()}
            self._ended[array] = {**self._slurm.accounting(array), **remembered}
        return self._ended[array].get(task)


def unfinished(plans: Sequence[Plan], scenes: Iterable[str], states: TaskStates) -> dict[str, Unfinished]:
    """Why scenes are not done, from the last plan that held each.

    Args:
        plans: of one stage, in order.
        scenes: those whose sentinels do not say done.
        states: what the scheduler remembers.
    """
    wanted = set(scenes)
    last: dict[str, tuple[Plan, int]] = {}
    tries = dict.fromkeys(wanted, 0)
    more: set[str] = set()
    for plan in plans:
        for number, element in enumerate(plan.elements):
            held = wanted.intersection(element)
            if held and (_task(plan, number)[1] or _records(plan, number)):  # not where the submission broke off before
                tries |= {scene: tries[scene] + 1 for scene in held}
                more |= held if plan.memory_factor > 1 else set()
            last |= dict.fromkeys(held, (plan, number))
    causes: dict[tuple[Path, int], tuple[str, str]] = {}
    found = {}
    for scene, (plan, number) in sorted(last.items(), key=lambda item: item[0]):
        key = (plan.path, number)
        if key not in causes:
            causes[key] = element_cause(plan, number, states)
        cause, task = causes[key]
        found[scene] = Unfinished(scene=scene, cause=cause, tries=tries[scene], more_memory=scene in more, task=task)
    return found


def finished_by_task(plans: Sequence[Plan]) -> set[str]:
    """Scenes whose last element came to its end, so that its script has looked at each of them."""
    found: set[str] = set()
    for plan in plans:
        for number, element in enumerate(plan.elements):
            ends = [event["cause"] for event in _records(plan, number) if event["event"] == "end"]
            over = bool(ends) and ends[-1] in ("done", "scenes_failed")
            (found.update if over else found.difference_update)(element)
    return found


def element_cause(plan: Plan, number: int, states: TaskStates) -> tuple[str, str]:
    """(cause, task id) of an element that is over, or "queued"."""
    events = _records(plan, number)
    array, task = _task(plan, number)
    last = next((event for event in reversed(events) if event["event"] in ("end", "start")), None)
    if last is not None and last["event"] == "end" and last["cause"] != "requeued":
        cause = str(last["cause"])
        return ("held" if cause == "done" else cause), task
    queued = states.queued(plan, number)
    if queued:
        return "queued", queued
    state = (states.ended(array, task) or "").split("+")[0] if task else ""
    if state in _STATES:
        return _STATES[state], task
    step = _last_step(events)
    if step == 137:
        return "memory", task
    if step == 127:
        return "environment", task
    if last is None and step is not None and step != 0:
        return "error", task
    return ("stopped" if last is not None and last["event"] == "end" else "lost"), task


def _records(plan: Plan, number: int) -> list[dict[str, Any]]:
    return Records(plan.records / f"{number}.jsonl").read()


def _last_step(events: list[dict[str, Any]]) -> int | None:
    """The exit code that the batch script noted after the last start; None when it could not."""
    for event in reversed(events):
        if event["event"] == "step":
            return int(event["exit"])
        if event["event"] == "start":
            return None
    return None


def _task(plan: Plan, number: int) -> tuple[str, str]:
    """(array job id, task id) of an element; empty where nothing was submitted to a scheduler."""
    for job in plan.jobs():
        if job["first"] <= number < job["first"] + job["count"]:
            alone = job["count"] == 1  # submitit submits a single element as a plain job
            return job["job"], job["job"] if alone else f"{job['job']}_{number - job['first']}"
    return "", ""
