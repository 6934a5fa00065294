"""What an array task does: start one phase script on its scenes, pass signals on, and note how it ended.

The script runs in a process of its own, the very command a person would type. So its death is seen from outside: a
process killed for its memory cannot say so itself. submitit's own signal handlers are replaced, since they ignore SIGTERM
and requeue in the middle of a frame.

Light on purpose: nothing here imports PyTorch, so the watcher costs little beside the work.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.cluster.plan import Plan, Run, StalePlanError
from pipeline.cluster.profile import REPOSITORY
from pipeline.cluster.scheduler import SchedulerError, Slurm
from pipeline.errors import InputError
from pipeline.hints import phase_command
from pipeline.storage.appending import append_record, read_records
from pipeline.storage.files import names_in, read_json
from pipeline.storage.lease import task_id
from pipeline.storage.scene import Scene, index_path

STOPPED = 75
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
MAX_IDLE_RESTARTS = 3  # attempts in a row that finished nothing before a task stops requeueing itself


def run_element(plan_path: str, digest: str, element: int) -> None:
    """Run one element of a plan and exit as its script did (0, 1, 2, 3, or 75 when it was stopped and requeued)."""
    try:
        plan = Plan.load(Path(plan_path), digest)
        run = Run.load(plan.path.parent)
        scenes = still_indexed(run, plan.elements[element])
    except (StalePlanError, InputError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        _exit(2)
    try:
        code = _attempt(run, plan, scenes, Records(plan.records / f"{element}.jsonl"))
    except OSError as error:  # the records cannot be written: a full quota, most likely
        print(f"error: {error.filename or plan.records}: {error.strerror or error}", file=sys.stderr, flush=True)
        _exit(1)
    _exit(code)


def still_indexed(run: Run, scenes: tuple[str, ...]) -> tuple[str, ...]:
    """The scenes of an element, all of which the index must still accept.

    Raises:
        StalePlanError: the index changed since; names the scenes.
    """
    path = index_path(run.out_root)
    try:
        index = read_json(path, "the scene index")["scenes"]
    except FileNotFoundError:
        raise StalePlanError(f"there is no {path} any more; run: {phase_command('index')}") from None
    gone = [scene for scene in scenes if not index.get(scene, {}).get("accepted")]
    if gone:
        raise StalePlanError(
            f"the plan is older than {path}, which no longer accepts {', '.join(gone)}; "
            f"python -m pipeline resume plans again with the scenes there are"
        )
    return scenes


class Records:
    """What happened to one element, a JSON line an event: "start" and "end" by the task, "step" by its batch script."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        return read_records(self.path)

    def note(self, event: str, **facts: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append_record(self.path, {"event": event, "at": round(time.time(), 3), **facts})


def progress_of(run: Run, phase: str, scenes: tuple[str, ...]) -> list[int]:
    """Finished files and journal bytes of an element's scenes: what an attempt must add to."""
    files = journal = 0
    for scene in (Scene(run.out_root, name) for name in scenes):
        for folder in (scene.dir / name for name in run.stage(phase).folders):
            files += sum(len(names_in(inner)) for inner in (folder, *folder.glob("set_*")))
        path = scene.journal_path(phase)
        journal += path.stat().st_size if path.exists() else 0
    return [files, journal]


def _attempt(run: Run, plan: Plan, scenes: tuple[str, ...], records: Records) -> int:
    job, restart = (None if run.local else task_id()), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    before = progress_of(run, plan.phase, scenes)
    records.note(
        "start",
        job=job,
        restart=restart,
        host=os.environ.get("SLURMD_NODENAME", socket.gethostname()),
        gpus=plan.resources.gpus,
        progress=before,
    )
    command = [sys.executable, *run.command(plan.phase, scenes)]
    print(f"attempt {restart} of {job or 'a local task'} on {socket.gethostname()}: {' '.join(command)}", flush=True)
    code, received = _watch(command, own_session=run.local)
    died_of = signal.Signals(-code) if code < 0 else None
    if code in (0, 3):
        records.note("end", cause="done" if code == 0 else "scenes_failed", exit=code)
        return code
    if code == STOPPED or died_of in STOP_SIGNALS:
        return _stopped(run, plan, scenes, records, received)
    if died_of == signal.SIGKILL or code == 128 + signal.SIGKILL:
        records.note("end", cause="memory", exit=137)
        print("error: the script was killed, most likely for its memory", file=sys.stderr, flush=True)
        return 137
    records.note("end", cause="error", exit=code)
    return code if code > 0 else 128 - code


def _watch(command: list[str], own_session: bool) -> tuple[int, set[int]]:
    """Run a command; returns its exit code (negative: the signal it died of) and the signals that came meanwhile."""
    received: set[int] = set()
    process: subprocess.Popen[bytes] | None = None

    def forward(number: int, frame: FrameType | None) -> None:
        received.add(number)
        note = f"{signal.Signals(number).name}: passed on; the script stops at its next safe point\n"
        os.write(sys.stderr.fileno(), note.encode())  # print() may be interrupted by its own handler
        if process is not None and process.poll() is None:
            # Always SIGTERM: a second SIGINT would not wait for the safe point. srun signals the script too; twice is fine.
            process.send_signal(signal.SIGTERM)

    for number in STOP_SIGNALS:
        signal.signal(number, forward)
    # A terminal's Ctrl-C must reach the script once, through us. Under SLURM a session of its own could escape tracking.
    process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=own_session)
    if received:
        process.send_signal(signal.SIGTERM)
    while True:
        try:
            return process.wait(), received
        except InterruptedError:
            continue


def _stopped(run: Run, plan: Plan, scenes: tuple[str, ...], records: Records, received: set[int]) -> int:
    """After a stop at a safe point: back into the queue, unless the operator cancelled or nothing moves any more."""
    job = None if run.local else task_id()
    if job is None:
        records.note("end", cause="stopped", exit=STOPPED)
        return STOPPED
    idle = _idle_attempts(records.read(), progress_of(run, plan.phase, scenes))
    if idle >= MAX_IDLE_RESTARTS:
        records.note("end", cause="no_progress", exit=STOPPED)
        print(
            f"error: {idle} attempts in a row finished nothing; not requeued. One frame must fit into the time limit "
            f"and the time between the scheduler's warning and the limit (signal_s of the profile)",
            file=sys.stderr,
            flush=True,
        )
        return STOPPED
    # Before the request, which ends this process.
    records.note("end", cause="requeued", exit=STOPPED)
    if not requeue(job):
        records.note("end", cause="cancelled", exit=STOPPED)
    return STOPPED


def requeue(job: str) -> bool:
    """After a stop at a safe point: back into the queue; False when a person cancelled the job."""
    # Said before the request: the scheduler ends this process as it grants it.
    print(f"stopped at a safe point; asking the scheduler to put {job} back in the queue", flush=True)
    try:
        back = Slurm().requeue(job)
    except SchedulerError as error:  # preempted: the scheduler has requeued it already
        print(f"not requeued by this task: {error}", flush=True)
        return True
    if not back:
        print("not requeued: it was cancelled", flush=True)
    return back


def _idle_attempts(events: list[dict[str, Any]], now: list[int]) -> int:
    """How many attempts up to this one added nothing."""
    marks = [event["progress"] for event in events if event["event"] == "start"] + [now]
    idle = 0
    for before, after in zip(reversed(marks[:-1]), reversed(marks[1:]), strict=True):
        if before != after:
            break
        idle += 1
    return idle


def run_gate(folder: str) -> None:
    """The job after an array; the work is in gate.py, whose imports are heavier."""
    job = task_id()
    print(f"gate {job}, restart {os.environ.get('SLURM_RESTART_COUNT', '0')}, on {socket.gethostname()}", flush=True)
    code, received = _watch([sys.executable, "-m", "pipeline.cluster.gate", folder], own_session=False)
    if job and received and (code == STOPPED or -code in STOP_SIGNALS):
        requeue(job)
    _exit(code if code >= 0 else 128 - code)


def _exit(code: int) -> None:
    """End the task with this exit code. Not for submitit to handle: what is true is on disk already."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code == 0:
        return
    raise SystemExit(code)
