"""What happens between arrays: look at the sentinels, retry by cause, go on to the next stage, or stop and say why.

    python -m pipeline.cluster.gate logs/runs/RUN       what the gate job runs; safe to run by hand, again and again

A gate keeps nothing in memory: it reads what is done from the dataset, what was tried from the plans, and why it failed
from the tasks' records and the scheduler. So it can itself be killed, requeued or run twice.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import cli
from pipeline.cluster.causes import TaskStates, Unfinished, unfinished
from pipeline.cluster.estimate import pack, seconds_per_frame, spread
from pipeline.cluster.plan import Plan, Run
from pipeline.cluster.profile import ARRAY_PHASES, REPOSITORY
from pipeline.cluster.scheduler import Slurm
from pipeline.cluster.submit import GATE_RETRY_S, Submitted, submit_gate, submit_plan
from pipeline.errors import InputError
from pipeline.files import append_line, read_json
from pipeline.lease import Lease
from pipeline.runner import ExitCode
from pipeline.scene import Scene, SceneEntry, SceneIndex
from pipeline.scene_phase import failure_path
from pipeline.signals import StopSignals
from pipeline.status import phase_status

MAX_WAITS = 72  # delayed gates in a row: half a day for another run's scenes
MEMORY_FACTOR = 2.0


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A stage by its sentinels. `waiting` scenes were never planned; `left` were, and are not done."""

    done: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    left: dict[str, Unfinished] = field(default_factory=dict)

    @property
    def retried(self) -> list[Unfinished]:
        return [one for one in self.left.values() if one.retry]

    @property
    def held(self) -> list[Unfinished]:
        return [one for one in self.left.values() if one.cause in ("held", "queued")]


def judge(run: Run, phase: str, entries: Sequence[SceneEntry], slurm: Slurm | None) -> Judgement:
    """What stands where in one stage."""
    planned = {scene for plan in run.plans(phase) for scene in plan.scenes}
    done: list[str] = []
    waiting: list[str] = []
    tried: list[str] = []
    for entry in entries:
        scene_id = entry.scene_id
        redo = run.on_stale == "redo" and scene_id not in planned
        state = "waiting" if redo else phase_status(Scene(run.out_root, scene_id), entry, phase).state
        if state == "done":
            done.append(scene_id)
        else:
            (tried if scene_id in planned else waiting).append(scene_id)
    return Judgement(done=done, waiting=waiting, left=unfinished(run, phase, tried, TaskStates(slurm)))


def make_plans(
    run: Run, phase: str, found: Judgement, entries: dict[str, SceneEntry], slurm: Slurm | None
) -> list[Plan]:
    """Plans for what is to be submitted now, not yet on disk: first tries, retries, and retries with more memory."""
    resources = run.profile.phases[phase]
    retried = found.retried
    again = sorted(one.scene for one in retried if one.cause != "memory")
    larger = sorted(one.scene for one in retried if one.cause == "memory")
    rate = seconds_per_frame(run.out_root, list(entries.values()), phase)
    plans: list[Plan] = []
    number = len(run.plans(phase)) if run.folder.exists() else 0
    for scenes, factor in ((sorted(found.waiting), 1.0), (again, 1.0), (larger, MEMORY_FACTOR)):
        if not scenes:
            continue
        chosen = [entries[scene] for scene in scenes]
        wanted = resources.with_memory(factor)
        if factor > 1 and slurm is not None:
            offers = slurm.partitions().get(resources.partition)
            if offers is not None and wanted.mem_gb > offers.mem_gb:
                wanted = resources.with_memory(max(1.0, offers.mem_gb / resources.mem_gb))
        if run.local:
            elements = spread(chosen, run.profile.workers)
        else:
            elements = pack(chosen, rate, run.profile.target_minutes, run.scenes_per_task)
        path = run.folder / f"{phase}_{number + len(plans)}.json"
        plans.append(
            Plan(
                path=path,
                phase=phase,
                round=number + len(plans),
                elements=tuple(elements),
                resources=wanted,
                memory_factor=factor,
            )
        )
    return plans


def advance(run: Run, slurm: Slurm | None, signals: StopSignals) -> ExitCode:
    """Take a run as far as it goes without waiting for a cluster: the next arrays and their gate, or the end.

    On this machine (`run.local`) it waits for each array itself and goes through all stages.

    Raises:
        SchedulerError: a submission was refused; says what is queued.
    """
    # Two gates of one run (a requeued one and its ghost, or a person's) must not both submit.
    with Lease(run.folder / "gate.lease"):
        entries = _entries(run)
        eligible = list(entries.values())
        failed = False
        for stage in run.stages:
            signals.safe_point()
            if stage.phase not in ARRAY_PHASES:
                code = _run_here(run, stage.phase)
                if code:
                    return _stop(run, f"{stage.phase} ended with exit code {code}; see above", code)
                continue
            while True:
                found = judge(run, stage.phase, eligible, slurm)
                plans = make_plans(run, stage.phase, found, entries, slurm)
                if not plans:
                    break
                submitted = _submit(run, plans, slurm)
                if slurm is not None:
                    gate = submit_gate(run, submitted.jobs)
                    print(f"gate: job {gate}, when they end\n{_then(run, stage.phase)}", flush=True)
                    return ExitCode.DONE
                _wait(submitted, signals)
            if found.held and slurm is not None and not found.retried and _may_wait(run):
                gate = submit_gate(run, [], delay_s=GATE_RETRY_S)
                names = ", ".join(one.scene for one in found.held)
                print(f"{stage.phase}: other workers have {names}; gate {gate} looks again in {GATE_RETRY_S} s")
                return ExitCode.DONE
            _tell(run, stage.phase, found, len(eligible))
            failed = failed or bool(found.left)
            if len(found.done) < run.min_yield * len(run.scenes) and stage.phase != "render":
                share = f"{len(found.done)} of {len(run.scenes)} scenes"
                return _stop(
                    run,
                    f"{stage.phase} finished {share}, less than --min_yield {run.min_yield:g}; mend what is named above, "
                    f"then: python -m pipeline resume",
                    ExitCode.SOME_SCENES_FAILED,
                )
            eligible = [entries[scene] for scene in found.done]
        run.finish("finished", "some scenes failed" if failed else "all scenes are done")
        print(f"run {run.run_id} is finished. python -m pipeline status", flush=True)
        return ExitCode.SOME_SCENES_FAILED if failed else ExitCode.DONE


def _entries(run: Run) -> dict[str, SceneEntry]:
    accepted = SceneIndex.load(run.out_root / "scene_index.json").accepted
    return {scene: accepted[scene] for scene in run.scenes if scene in accepted}


def _submit(run: Run, plans: list[Plan], slurm: Slurm | None) -> Submitted:
    limit = slurm.max_array_size() if slurm is not None else 0
    jobs: list[str] = []
    handles = []
    for draft in plans:
        plan = draft.save()
        made = submit_plan(run, plan, limit)
        jobs += made.jobs
        handles += made.handles
        what = "again " if plan.round else ""
        memory = f", {plan.resources.mem_gb:g} GB" if plan.memory_factor > 1 else ""
        where = ", ".join(f"job {job['job']} ({job['count']} tasks)" for job in plan.jobs()) or (
            f"{len(made.handles)} processes here"
        )
        print(
            f"{plan.phase}: {len(plan.scenes)} scenes {what}in {len(plan.elements)} tasks{memory}: {where}", flush=True
        )
    return Submitted(jobs=jobs, handles=handles)


def _wait(submitted: Submitted, signals: StopSignals) -> None:
    """Wait for local tasks; a stop is passed on to them, and waits for their safe points."""
    for handle in submitted.handles:
        while not handle.done():
            if signals.received:
                for other in submitted.handles:
                    if not other.done():
                        other._process.terminate()  # submitit's cancel would send SIGINT, which kills its controller
                for other in submitted.handles:
                    other._process.wait()
                signals.safe_point()
            try:
                handle._process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue


def _run_here(run: Run, phase: str) -> int:
    command = run.command(phase)
    print(" ".join(["python", *command]), flush=True)
    code = subprocess.run([sys.executable, *command], cwd=REPOSITORY, check=False).returncode
    return code if code >= 0 else 128 - code


def _tell(run: Run, phase: str, found: Judgement, eligible: int) -> None:
    print(f"{phase}: {len(found.done)} of {eligible} scenes done", flush=True)
    for one in found.left.values():
        where = f", task {one.task}" if one.task else ""
        print(f"  {one.scene}: {reason(run, phase, one)} ({one.cause}, tried {one.tries} x{where})", flush=True)


def reason(run: Run, phase: str, one: Unfinished) -> str:
    """The scene's own words where it left any."""
    try:
        note = read_json(failure_path(Scene(run.out_root, one.scene), phase), "the failure note")
        return str(note.get("reason"))
    except (OSError, InputError):
        return {
            "memory": "out of memory, with more too" if one.more_memory else "out of memory",
            "cancelled": "its task was cancelled",
            "environment": "no Python environment on the node; the task's log names it",
            "no_progress": "several attempts finished no frame",
            "held": "another worker has it",
        }.get(one.cause, "see the task's log")


def _stop(run: Run, message: str, code: int) -> ExitCode:
    run.finish("stopped", message)
    print(f"run {run.run_id} stopped: {message}", file=sys.stderr, flush=True)
    return ExitCode(code) if code in {*ExitCode} else ExitCode.FAILED


def _may_wait(run: Run) -> bool:
    waits = run.folder / "waits"
    append_line(waits, "held")
    return len(waits.read_text().splitlines()) <= MAX_WAITS


def _then(run: Run, phase: str) -> str:
    phases = [stage.phase for stage in run.stages]
    rest = phases[phases.index(phase) + 1 :]
    return f"then: {', '.join(rest)}" if rest else "then: nothing, it is the last stage"


def main(argv: list[str] | None = None) -> int:
    folder = Path((argv or sys.argv[1:])[0])

    def body() -> ExitCode:
        run = Run.load(folder.resolve())
        with StopSignals() as signals:
            return advance(run, None if run.local else Slurm(), signals)

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
