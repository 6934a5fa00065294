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
| skipped | an earlier stage did not finish it | no |
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.cluster.plan import Plan, Run
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
LIVE = (
    "PENDING",
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "RESIZING",
    "SUSPENDED",
    "STAGE_OUT",
)


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A scene that a stage did not finish.

    Args:
        cause: one of the table above.
        tries: how many plans held it.
        more_memory: whether it was tried with more memory.
        task: the last array element that had it, `JOB_INDEX`.
    """

    scene: str
    cause: str
    tries: int
    more_memory: bool
    task: str = ""

    @property
    def retry(self) -> bool:
        if self.cause == "memory":
            return not self.more_memory and self.tries < MAX_TRIES
        return self.cause in RETRIED and self.tries < MAX_TRIES


class TaskStates:
    """Final states of array elements: asked once per array, and only when records leave something open."""

    def __init__(self, slurm: Slurm | None) -> None:
        self._slurm = slurm
        self._known: dict[str, dict[str, str]] = {}

    def state(self, array: str, task: str) -> str | None:
        """SLURM's word for a task; None when nobody remembers."""
        if self._slurm is None:
            return None
        if array not in self._known:
            remembered = {job: facts.get("JobState", "") for job, facts in self._slurm.job_facts(array).items()}
            self._known[array] = {**self._slurm.accounting(array), **remembered}
        return self._known[array].get(task)


def unfinished(run: Run, phase: str, scenes: Iterable[str], states: TaskStates) -> dict[str, Unfinished]:
    """Judge scenes that are not done by the last plan that held each.

    Args:
        scenes: those whose sentinels do not say done.
        states: what the scheduler remembers.
    """
    plans = run.plans(phase)
    place: dict[str, tuple[Plan, int]] = {}
    tries: dict[str, int] = {}
    more: set[str] = set()
    for plan in plans:
        for number, element in enumerate(plan.elements):
            for scene in element:
                place[scene] = (plan, number)
                tries[scene] = tries.get(scene, 0) + 1
                if plan.memory_factor > 1:
                    more.add(scene)
    causes: dict[tuple[str, int], tuple[str, str]] = {}
    found = {}
    for scene in scenes:
        if scene not in place:
            continue
        plan, number = place[scene]
        key = (str(plan.path), number)
        if key not in causes:
            causes[key] = element_cause(plan, number, states)
        cause, task = causes[key]
        found[scene] = Unfinished(scene=scene, cause=cause, tries=tries[scene], more_memory=scene in more, task=task)
    return found


def element_cause(plan: Plan, number: int, states: TaskStates) -> tuple[str, str]:
    """(cause, task id) of an element that is over."""
    events = Records(plan.records / f"{number}.jsonl").read()
    array, task = _task(plan, number)
    last = next((event for event in reversed(events) if event["event"] in ("end", "start")), None)
    if last is not None and last["event"] == "end" and last["cause"] != "requeued":
        cause = str(last["cause"])
        return ("held" if cause == "done" else cause), task
    state = (states.state(array, task) or "").split("+")[0] if task else ""
    if state in _STATES:
        return _STATES[state], task
    if state in LIVE:
        return "queued", task
    step = _last_step(events)
    if step == 137:
        return "memory", task
    if step == 127:
        return "environment", task
    if last is None and step is not None and step != 0:
        return "error", task
    return ("stopped" if last is not None and last["event"] == "end" else "lost"), task


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
