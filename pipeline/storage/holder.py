"""Who holds a lease, and whether that process is surely gone.

A pid means something only inside one PID namespace of one boot of one machine; containers share host names, clones share
them too. So a holder says boot id and namespace, and where either differs only a silent heart tells that it is gone.
"""

import os
import socket
from functools import cache
from pathlib import Path
from typing import Any

UNKNOWN = "unknown"  # the process lives, and when it began cannot be told


def task_id() -> str | None:
    """`ARRAY_TASK`, or a single job's id, as SLURM's commands take it; the same after a requeue; None outside SLURM."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID")


def current_job_id() -> str | None:
    """The task, and which of its processes this is."""
    job = task_id()
    return f"{job}.{os.environ.get('SLURM_PROCID', '0')}" if job else None


@cache
def boot_id() -> str | None:
    """This boot of this machine; None where the kernel does not tell (macOS)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None


def pid_namespace() -> str | None:
    """The PID namespace this process is in; None where there are none."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _proc_is_ours() -> bool:
    """Whether /proc shows this namespace's processes; after a bare `unshare --pid` it still shows the outer one's."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def process_start(pid: int) -> str | None:
    """When a process began, in kernel ticks, so that a recycled pid is not taken for the old one; None when it is gone."""
    if not _proc_is_ours():
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return None
        except PermissionError:
            pass
        return UNKNOWN
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError:
        return UNKNOWN
    return None if fields[0] in "ZX" else fields[19]


def this_process(token: str) -> dict[str, Any]:
    """What a lease says of its holder. `token` is the lease's own: one process may hold several, one after the other."""
    return {
        "host": socket.gethostname(),
        "boot_id": boot_id(),
        "pid_namespace": pid_namespace(),
        "pid": os.getpid(),
        "process_start": process_start(os.getpid()),
        "job_id": current_job_id(),
        "restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
        "token": token,
    }


def gone(holder: dict[str, Any]) -> bool:
    """Whether a holder is surely gone: its process here is dead, or it is this very job, put back in the queue.

    Requeued tasks keep their id. On the same boot, where a second container of one job may well be at work, the restart
    count has to differ as well.
    """
    here = boot_id()
    same_boot = holder.get("boot_id") == here and (here is not None or holder.get("host") == socket.gethostname())
    if same_boot and holder.get("pid_namespace") == pid_namespace():
        pid = holder.get("pid")
        return isinstance(pid, int) and pid > 0 and not _lives(pid, holder.get("process_start"))
    job = current_job_id()
    if job is None or holder.get("job_id") != job:
        return False
    return not same_boot or holder.get("restart") != os.environ.get("SLURM_RESTART_COUNT", "0")


def _lives(pid: int, began: Any) -> bool:
    found = process_start(pid)
    return found is not None and (UNKNOWN in (found, began) or found == began)


def who(holder: dict[str, Any]) -> str:
    """A holder in words."""
    job = f", job {holder['job_id']}" if holder.get("job_id") else ""
    return f"host {holder.get('host', '?')} pid {holder.get('pid', '?')}{job}"
