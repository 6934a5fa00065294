"""From a plan to jobs, through submitit: its SLURM executor on a cluster, its local one on this machine.

Three things submitit leaves to its caller: an array longer than MaxArraySize is refused (arrays are cut here, and every
element knows its place in the plan), a refused array leaves pickles behind (removed here), and a step that was killed says
nothing (the batch script notes its exit code in the element's records).
"""

import contextlib
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from pipeline.cluster.plan import Plan, Run
from pipeline.cluster.profile import CPU, REPOSITORY, Resources
from pipeline.cluster.scheduler import SchedulerError, Slurm, outside_job, scheduler_error
from pipeline.cluster.worker import run_element, run_gate
from pipeline.hints import operator_command

GATE_RETRY_S = 600  # how long a gate waits for scenes that another run has in progress


class _Slurm(submitit.SlurmExecutor):
    """submitit's executor, and the text that it would hand to sbatch."""

    def preview(self, count: int) -> str:
        self.parameters["map_count"] = count
        try:
            return str(self._make_submission_file_text(self._submitit_command_str, "preview"))
        finally:
            del self.parameters["map_count"]


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """What was handed over.

    Args:
        jobs: SLURM job ids, one per array.
        handles: submitit's local jobs, to wait for.
    """

    jobs: list[str] = field(default_factory=list)
    handles: list[Any] = field(default_factory=list)


def chunks(count: int, limit: int) -> list[tuple[int, int]]:
    """(first element, number of elements) of each array that `count` elements need."""
    return [(first, min(limit, count - first)) for first in range(0, count, limit)]


def submit_plan(run: Run, plan: Plan, max_array_size: int) -> Submitted:
    """Submit every array of a plan.

    With a limit on GPUs, one array follows the other, since `%N` throttles each by itself.

    Raises:
        SchedulerError: it was refused or broke off; the message says why, what is queued already and how to cancel it.
    """
    if run.local:
        return _submit_local(run, plan)
    jobs: list[str] = []
    for first, count in chunks(len(plan.elements), max_array_size):
        after = f"afterany:{jobs[-1]}" if jobs and run.profile.max_gpus else None
        try:
            with outside_job(run.profile):
                made = _executor(run, plan, first, after).map_array(
                    run_element, [str(plan.path)] * count, [plan.digest] * count, range(first, first + count)
                )
            jobs.append(str(made[0].job_id).partition("_")[0])
            plan.note_job(jobs[-1], first, count)
        except _BROKEN as error:
            _remove_litter(plan.records)
            what = f"elements {first}-{first + count - 1} of {plan.path.name}"
            raise scheduler_error(f"{_broke_off(what, error)}; {_queued(run, jobs)}") from None
    return Submitted(jobs=jobs)


def submit_gate(run: Run, jobs: list[str], delay_s: int = 0) -> str:
    """Queue the gate that looks at what the arrays left; returns its job id.

    Raises:
        SchedulerError: it was refused or broke off; the message says what is queued without it.
    """
    more: dict[str, Any] = {"requeue": True}
    if jobs:
        more |= {"dependency": f"afterany:{':'.join(jobs)}", "kill-on-invalid-dep": "yes"}
    elif delay_s:
        more["begin"] = f"now+{delay_s}"
    folder = run.folder / "gate"
    try:
        executor = _Slurm(folder)
        executor.update_parameters(**_parameters(run, run.profile.resources(CPU), f"gate.{run.run_id}", more, []))
        with outside_job(run.profile):
            return str(executor.submit(run_gate, str(run.folder)).job_id)
    except _BROKEN as error:
        _remove_litter(folder)
        after = f" When they end: {operator_command('resume')}" if jobs else ""
        raise scheduler_error(f"{_broke_off('the gate', error)}; {_queued(run, jobs)}.{after}") from None


_BROKEN = (FailedJobError, FailedSubmissionError, subprocess.SubprocessError, OSError)


def _broke_off(what: str, error: BaseException) -> str:
    if isinstance(error, OSError):  # a full quota, before or after sbatch was asked
        return f"submitting {what} broke off: {error.filename or 'the file system'}: {error.strerror or error}"
    return f"sbatch refused {what}: {_reason(error)}"


def _queued(run: Run, jobs: list[str]) -> str:
    """What of a run is queued, in words: as sbatch answered, and as the queue has it, where an answer got lost."""
    found = dict.fromkeys(jobs)
    with contextlib.suppress(SchedulerError):
        found |= dict.fromkeys(task.array for task in Slurm().queue() if task.name.endswith(f".{run.run_id}"))
    own = os.environ.get("SLURM_JOB_ID")
    ids = [job for job in found if job != own]
    listed = ", ".join(f"job {job}" for job in ids)
    return f"already queued: {listed}; cancel with: scancel {' '.join(ids)}" if ids else "nothing was queued"


def preview(run: Run, plan: Plan, first: int, count: int) -> str:
    """The sbatch file of one array, as it would be submitted."""
    if run.local:
        return "\n".join(shlex.join(["python", *run.command(plan.phase, scenes)]) for scenes in plan.elements)
    return _executor(run, plan, first, None).preview(count)


def _executor(run: Run, plan: Plan, first: int, after: str | None) -> _Slurm:
    executor = _Slurm(plan.records)
    more: dict[str, Any] = {"requeue": True}
    if after:
        more |= {"dependency": after, "kill-on-invalid-dep": "yes"}
    parameters = _parameters(run, plan.resources, plan.job_name(first), more, _note_exit(plan, first))
    if run.profile.max_gpus:
        parameters["array_parallelism"] = max(1, run.profile.max_gpus // max(1, plan.resources.gpus))
    else:
        parameters["array_parallelism"] = len(plan.elements)
    executor.update_parameters(**parameters)
    return executor


def check_python(executable: str, note: str = "") -> str:
    """A line of shell that ends a task with exit code 127 on a node that does not see this Python, whatever its path."""
    python = shlex.quote(executable)
    missing = (
        f'echo "error: there is no "{python}" on $(hostname): the environment must be on a file system that all '
        f'nodes see; make it with: bash scripts/00_setup_env.sh" >&2'
    )
    return f"test -x {python} || {{ {missing}; {note}exit 127; }}"


def _parameters(run: Run, resources: Resources, name: str, more: dict[str, Any], record: list[str]) -> dict[str, Any]:
    profile = run.profile
    setup = [*record, f"cd {shlex.quote(str(REPOSITORY))} || exit 1", *profile.setup]
    setup.append(check_python(sys.executable, "note_exit 127; " if record else ""))
    teardown = ["code=$?", *(["note_exit $code"] if record else []), "exit $code"]
    parameters: dict[str, Any] = {
        "job_name": name,
        "time": resources.minutes,
        "signal_delay_s": profile.signal_s,
        "stderr_to_stdout": True,
        "setup": setup,
        "teardown": teardown,
        "wckey": None,
        "additional_parameters": more,
    }
    if resources.partition:
        parameters["partition"] = resources.partition
    if resources.mem_gb:
        parameters["mem"] = f"{round(resources.mem_gb * 1024)}MB"
    if resources.cpus:
        parameters["cpus_per_task"] = resources.cpus
        # Since Slurm 22.05 srun does not take this over from the job: the task would be bound to a single core.
        parameters["srun_args"] = [f"--cpus-per-task={resources.cpus}"]
    if resources.gpus:
        parameters["gpus_per_node"] = resources.gpus
    for key, value in (("account", profile.account), ("qos", profile.qos), ("mail_user", profile.mail)):
        if value:
            parameters[key] = value
    if profile.mail:
        parameters["mail_type"] = "END,FAIL"
    return parameters


def _note_exit(plan: Plan, first: int) -> list[str]:
    """A shell function for the batch script, which outlives a step that is killed for its memory."""
    record = f"{shlex.quote(str(plan.records))}/$(({first} + ${{SLURM_ARRAY_TASK_ID:-0}})).jsonl"
    line = '{"event": "step", "exit": %d, "at": %d}'
    return [f'note_exit() {{ printf \'{line}\\n\' "$1" "$(date +%s)" >> {record}; }}']


def _submit_local(run: Run, plan: Plan) -> Submitted:
    plan.records.mkdir(parents=True, exist_ok=True)
    executor = submitit.LocalExecutor(plan.records)
    executor.update_parameters(
        timeout_min=plan.resources.minutes, signal_delay_s=run.profile.signal_s, stderr_to_stdout=True
    )
    handles = []
    for number in range(len(plan.elements)):
        executor.update_parameters(visible_gpus=(number,), gpus_per_node=1)
        handles.append(executor.submit(run_element, str(plan.path), plan.digest, number))
    return Submitted(handles=handles)


def _remove_litter(folder: Path) -> None:
    for pattern in ("*.pkl", ".submission_file_*.sh"):
        for path in folder.glob(pattern):
            if not path.name[0].isdigit() or "_submitted" not in path.name:
                with contextlib.suppress(OSError):
                    path.unlink()


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    reason = text.partition("sbatch: error: ")[2] or text
    reason = reason.replace("sbatch: error: ", "")
    if "account" in reason.lower():
        reason += " (name yours with --account, or in the profile)"
    return reason
