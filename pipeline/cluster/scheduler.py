"""Every question put to SLURM, in one place: counted, bounded in time, and answered with "unknown" rather than by waiting.

What this is not: the source of truth. Sentinels say what is done; the scheduler says what is queued, running or refused.
"""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.cluster.profile import Profile
from pipeline.errors import PipelineError

TIMEOUT_S = 60.0


class SchedulerError(PipelineError):
    """SLURM refused or did not answer."""


class SchedulerUnreachableError(SchedulerError):
    """SLURM did not answer, which says nothing about what was asked; worth another try later."""


_SILENT = re.compile(
    r"unable to contact|timed out|connection refused|communication (connection )?failure", re.IGNORECASE
)


def scheduler_error(message: str) -> SchedulerError:
    """Silent or refused, by SLURM's own words."""
    return (SchedulerUnreachableError if _SILENT.search(message) else SchedulerError)(message)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One partition, as far as a plan has to fit it.

    Args:
        gpus, cpus, mem_gb: the most that a single node of it has.
        max_minutes: its time limit; None without one.
    """

    name: str
    gpus: int
    cpus: int
    mem_gb: float
    max_minutes: int | None


@dataclass(frozen=True, kw_only=True)
class QueuedTask:
    """A job or array element that the scheduler still has.

    Args:
        job: its id, `ARRAY_TASK` for array elements.
        array: the array's job id, or the job's own.
        index: the element; None outside arrays.
        name: as it was submitted.
        state: SLURM's word, such as PENDING or RUNNING.
        reason: why it is pending, or where it runs.
    """

    job: str
    array: str
    index: int | None
    name: str
    state: str
    reason: str


class Slurm:
    """SLURM's client commands. `questions` counts the calls, since a controller serves thousands of users."""

    def __init__(self) -> None:
        self.questions = 0

    @staticmethod
    def present() -> bool:
        return shutil.which("sbatch") is not None and shutil.which("scontrol") is not None

    def ask(self, *argv: str) -> str:
        """The output of one command.

        Raises:
            SchedulerError: the command is missing, refused, or took more than TIMEOUT_S.
        """
        self.questions += 1
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except FileNotFoundError:
            raise SchedulerError(
                f"there is no {argv[0]} here; run this on a login node, or add --local to use this machine's processes"
            ) from None
        except subprocess.TimeoutExpired:
            raise SchedulerUnreachableError(
                f"{argv[0]} did not answer within {TIMEOUT_S:.0f} s; try again later"
            ) from None
        if done.returncode:
            raise scheduler_error(f"{' '.join(argv)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
        return done.stdout

    def max_array_size(self) -> int:
        """How many elements one array may have: MaxArraySize caps the index, which starts at 0."""
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", self.ask("scontrol", "show", "config"), re.MULTILINE)
        if not found or int(found[1]) < 2:
            raise SchedulerError(
                f"this cluster allows no job arrays (MaxArraySize = {found[1] if found else 'unknown'}); "
                f"ask its operators, or run single scenes with jobs/test_bear.sh"
            )
        return int(found[1])

    def partitions(self) -> dict[str, Partition]:
        """By name. One line per kind of node; the largest counts."""
        found: dict[str, Partition] = {}
        for line in self.ask("sinfo", "-h", "-o", "%R|%G|%c|%m|%l").splitlines():
            name, gres, cpus, memory, limit = line.strip().split("|")
            gpus = sum(int(count) for count in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", gres))
            known = found.get(name, Partition(name=name, gpus=0, cpus=0, mem_gb=0, max_minutes=minutes(limit)))
            found[name] = Partition(
                name=name,
                gpus=max(known.gpus, gpus),
                cpus=max(known.cpus, _number(cpus)),
                mem_gb=max(known.mem_gb, _number(memory) / 1024),
                max_minutes=known.max_minutes,
            )
        return found

    def queue(self) -> list[QueuedTask]:
        """This user's jobs, one entry per array element."""
        tasks = []
        for line in self.ask("squeue", "--me", "-h", "-r", "-o", "%F|%K|%T|%j|%R").splitlines():
            array, index, state, name, reason = line.strip().split("|", 4)
            number = int(index) if index.isdigit() else None
            job = array if number is None else f"{array}_{number}"
            tasks.append(QueuedTask(job=job, array=array, index=number, name=name, state=state, reason=reason))
        return tasks

    def job_facts(self, job: str) -> dict[str, dict[str, str]]:
        """What the controller still remembers of a job or of all elements of an array: job -> field -> value.

        A controller forgets finished jobs after MinJobAge; an empty answer is normal.

        Raises:
            SchedulerUnreachableError: it did not answer: not the same as having forgotten.
        """
        try:
            text = self.ask("scontrol", "show", "job", job)
        except SchedulerUnreachableError:
            raise
        except SchedulerError:
            return {}
        found = {}
        for block in text.split("\n\n"):
            facts = dict(re.findall(r"(\w+)=(\S+)", block))
            if "JobId" in facts:
                array, task = facts.get("ArrayJobId"), facts.get("ArrayTaskId")
                found[f"{array}_{task}" if array and task else facts["JobId"]] = facts
        return found

    def accounting(self, job: str) -> dict[str, str]:
        """Final states from `sacct`, where the site has it: job -> state. Empty without accounting."""
        if shutil.which("sacct") is None:
            return {}
        try:
            text = self.ask("sacct", "-X", "-n", "-P", "-j", job, "-o", "JobID,State")
        except SchedulerError:
            return {}
        rows = (line.split("|") for line in text.splitlines() if "|" in line)
        return {row[0]: row[1].split()[0] for row in rows if row[1]}

    def requeue(self, job: str) -> bool:
        """Requeue this job or array element after a stop, unless a person cancelled it; returns whether it is back.

        The bare id of an array would requeue every element.

        Raises:
            SchedulerError: it was not requeued; after a preemption because the scheduler has done it already.
        """
        if self.was_cancelled(job):
            return False
        self.ask("scontrol", "requeue", job)
        return True

    def was_cancelled(self, job: str) -> bool:
        """Whether a job that is being ended was cancelled by a person, rather than preempted or out of time."""
        facts = self.job_facts(job).get(job, {})
        ending = "COMPLETING" in facts.get("JobState", "") or "CANCELLED" in facts.get("JobState", "")
        preempted = facts.get("PreemptTime", "None") not in ("None", "(null)", "Unknown")
        return ending and not preempted and facts.get("Reason") not in ("TimeLimit", "Preempted")


def minutes(limit: str) -> int | None:
    """SLURM's [days-]hours:minutes:seconds as minutes; None for infinite."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if not found:
        return None
    days, hours, mins, _ = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + mins


def _number(text: str) -> int:
    return int(re.match(r"\d+", text)[0]) if re.match(r"\d+", text) else 0  # type: ignore[index]


@contextlib.contextmanager
def outside_job(profile: Profile) -> Iterator[None]:
    """Hide this job's own SLURM variables, which sbatch would hand on to the new job, over what its file says.

    Where the cluster is stays, and what a person exports for all their jobs, unless the profile says otherwise.
    """
    kept = ["SLURM_CONF", "SBATCH_RESERVATION"]
    kept += [f"SBATCH_{name}" for name, given in (("ACCOUNT", profile.account), ("QOS", profile.qos)) if not given]
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_")) and name not in kept
    }
    try:
        yield
    finally:
        os.environ.update(hidden)
