"""What happens between arrays: look at the sentinels, retry by cause, go on to the next stage, or stop and say why.

    python -m pipeline.cluster.gate logs/runs/RUN       what the gate job runs; safe to run by hand, again and again

A gate keeps nothing in memory: it reads what is done from the dataset, what was tried from the plans, and why it failed
from the tasks' records and the scheduler. So it can itself be killed, requeued or run twice.
"""

import contextlib
import shlex
import subprocess
import sys
import time
from pathlib import Path

from pipeline import cli
from pipeline.cluster.plan import Plan, Run
from pipeline.cluster.profile import CPU, REPOSITORY, array_phases
from pipeline.cluster.scheduler import SchedulerUnreachableError, Slurm
from pipeline.cluster.stage_status import StageStatus, make_plans, reason, stage_status
from pipeline.cluster.submit import GATE_RETRY_S, Submitted, submit_gate, submit_plan
from pipeline.errors import ExitCode, PipelineError
from pipeline.hints import operator_command, use_roots
from pipeline.phases.registry import phase_named
from pipeline.signals import StopSignals
from pipeline.storage.appending import append_line
from pipeline.storage.lease import Lease
from pipeline.storage.scene import SceneEntry, SceneIndex, index_path

MAX_WAITS = 72  # delayed gates in a row: half a day for another run's scenes
SILENCES, SILENCE_S = 10, 60.0  # a controller that restarts is back within minutes


def advance(run: Run, slurm: Slurm | None, signals: StopSignals) -> ExitCode:
    """Take a run as far as it goes without waiting for a cluster: the next arrays and their gate, or the end.

    On this machine (`run.local`) it waits for each array itself and goes through all stages.

    Raises:
        SchedulerError: a submission was refused; says what is queued.
    """
    # Two gates of one run (a requeued one and its ghost, or a person's) must not both submit.
    with Lease(run.folder / "gate.lease"):
        run.reopen()
        try:
            return _advance(run, slurm, signals)
        except (PipelineError, OSError) as error:
            with contextlib.suppress(OSError):
                run.finish("stopped", str(error))
            raise


def _advance(run: Run, slurm: Slurm | None, signals: StopSignals) -> ExitCode:
    entries = _entries(run)
    eligible = list(entries.values())
    failed = False
    for stage in run.stages:
        signals.safe_point()
        if stage.phase not in array_phases():
            code = _run_here(run, stage.phase)
            if signals.received and slurm is not None:
                return _stop(run, f"{stage.phase} was stopped by {signals.received}; {_by_hand(run, stage.phase)}")
            signals.safe_point()
            if code:
                return _stop(run, f"{stage.phase} ended with exit code {code}; see above", code)
            continue
        # On SLURM this is left after one round: the arrays' own gate looks again. Here it goes on until nothing is retried.
        while True:
            found = stage_status(run, stage.phase, eligible, slurm)
            plans = make_plans(run, stage.phase, found, entries, slurm)
            if not plans:
                break
            submitted = _submit(run, plans, slurm)
            if slurm is not None:
                gate = submit_gate(run, submitted.jobs)
                print(f"gate: job {gate}, when they end\n{_then(run, stage.phase)}", flush=True)
                return ExitCode.DONE
            _wait(submitted, signals)
        # Scenes that another run has in progress are neither done nor failed; a delayed gate looks again, so that this run
        # does not stop short of --min_yield for somebody else's sake.
        held = found.of_cause("held", "queued")
        if held and slurm is not None and _may_wait(run):
            gate = submit_gate(run, [], delay_s=GATE_RETRY_S)
            names = ", ".join(one.scene for one in held[:5]) + (", ..." if len(held) > 5 else "")
            where = f"{len(held)} scenes are in progress elsewhere ({names})"
            print(f"{stage.phase}: {where}; gate {gate} looks again in {GATE_RETRY_S} s")
            return ExitCode.DONE
        # Nothing is queued and nothing will be retried: what is not done now stays undone in this run.
        _tell(run, stage.phase, found, len(eligible))
        failed = failed or bool(found.left)
        if len(found.done) < run.min_yield * len(run.scenes) and phase_named(stage.phase).needs_yield:
            share = f"{len(found.done)} of {len(run.scenes)} scenes"
            return _stop(
                run,
                f"{stage.phase} finished {share}, less than --min_yield {run.min_yield:g}; mend what is named above, "
                f"then: {operator_command('resume')}",
                ExitCode.SOME_SCENES_FAILED,
            )
        eligible = [entries[scene] for scene in found.done]  # the next stage reads what this one wrote
    run.finish("finished", "some scenes failed" if failed else "all scenes are done")
    print(f"run {run.run_id} is finished; see: {operator_command('status')}", flush=True)
    return ExitCode.SOME_SCENES_FAILED if failed else ExitCode.DONE


def _entries(run: Run) -> dict[str, SceneEntry]:
    accepted = SceneIndex.load(index_path(run.out_root)).accepted
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


def _tell(run: Run, phase: str, found: StageStatus, eligible: int) -> None:
    print(f"{phase}: {len(found.done)} of {eligible} scenes done", flush=True)
    for one in found.left.values():
        where = f", task {one.task}" if one.task else ""
        print(f"  {one.scene}: {reason(run, phase, one)} ({one.cause}, tried {one.tries} x{where})", flush=True)


def _by_hand(run: Run, phase: str) -> str:
    limit = f"{run.profile.resources(CPU).hours:g} h, [phase.{CPU}] of the profile"
    return f"a gate may take {limit}. By hand: {shlex.join(['python', *run.command(phase)])}"


def _stop(run: Run, message: str, code: int = ExitCode.FAILED) -> ExitCode:
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
        use_roots(*run.roots)
        with StopSignals() as signals:
            for _ in range(SILENCES):
                try:
                    return advance(run, None if run.local else Slurm(), signals)
                except SchedulerUnreachableError as error:
                    print(f"{error}; asking again in {SILENCE_S:.0f} s", file=sys.stderr, flush=True)
                deadline = time.monotonic() + SILENCE_S
                while time.monotonic() < deadline:
                    signals.safe_point()
                    time.sleep(0.5)
            return advance(run, None if run.local else Slurm(), signals)

    return cli.main(body)


if __name__ == "__main__":
    sys.exit(main())
