"""Gates, arrays and submissions that are hit in the middle: nothing runs twice, and nothing is left unsaid."""

import errno
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY

from pipeline.cluster.plan import Run
from slurm.cluster import ClusterSettings
from slurm.conftest import PICTURES, RENDERED, Operator, running, script_processes

pytestmark = pytest.mark.slurm

FAST = ("--engine", "none", "--no_temporal_avg")


def starts(operator: Operator, run: Run, phase: str = "deblur") -> dict[str, list[int]]:
    """Restart counts of the attempts, by plan and element."""
    found: dict[str, list[int]] = {}
    for path in sorted(run.folder.glob(f"{phase}_*/*.jsonl")):
        events = [json.loads(line) for line in path.read_text().splitlines()]
        found[f"{path.parent.name}/{path.stem}"] = [event["restart"] for event in events if event["event"] == "start"]
    return found


def block(operator: Operator) -> str:
    """Take all nodes, so that what is submitted stays pending."""
    argv = ("sbatch", "--parsable", "--output=/dev/null", "-N3", "--exclusive", "--wrap", "sleep infinity")
    job = operator.cluster.command(*argv).strip()
    operator.cluster.wait_until(lambda: (job, "RUNNING") in operator.tasks("wrap"), 60, "the blocker did not start")
    return job


def test_a_gate_that_runs_again_while_its_array_waits_submits_nothing(tiny: Operator):
    """Requeued after it has submitted, or run by hand besides: the queue tells, even where the noted job ids are lost."""
    blocker = block(tiny)
    assert tiny.bash("phase2_deblur.sh", *FAST).returncode == 0
    (run,) = tiny.runs()
    (run.folder / "deblur_0.jobs").unlink()
    before = sorted(tiny.tasks("deblur"))
    assert len(before) == 3
    shown = tiny.python("-m", "pipeline.cluster.gate", str(run.folder)).stdout
    assert "looks again in 600 s" in shown and sorted(tiny.tasks("deblur")) == before
    assert len(run.plans("deblur")) == 1
    second = next(job for job, _ in sorted(tiny.tasks("gate"))[::-1])
    tiny.cluster.command("scancel", second, blocker)
    tiny.wait_idle()
    assert set(tiny.states("deblur").values()) == {"done"}, tiny.logs_text()
    assert starts(tiny, run) == {f"deblur_0/{number}": [0] for number in range(3)}


def test_a_gate_that_died_between_a_plan_and_its_submission(tiny: Operator):
    """The plan is on disk and nothing is queued: the next gate plans the same scenes again."""
    code = (
        "import sys, pipeline.cluster.gate as g; from pipeline.cluster.__main__ import main; "
        "g.submit_plan = lambda *_: __import__('os')._exit(9); sys.exit(main(sys.argv[1:]))"
    )
    argv = ("-c", code, "deblur", *tiny.roots, "--profile", str(tiny.profile), *FAST)
    assert tiny.python(*argv, check=False).returncode == 9
    (run,) = tiny.runs()
    assert len(run.plans("deblur")) == 1 and not tiny.tasks()
    tiny.python("-m", "pipeline.cluster.gate", str(run.folder))
    tiny.wait_idle()
    assert set(tiny.states("deblur").values()) == {"done"}, tiny.logs_text()
    assert starts(tiny, run) == {f"deblur_1/{number}": [0] for number in range(3)}
    assert run.outcome() == {**(run.outcome() or {}), "state": "finished"}


def test_a_quota_that_fills_up_after_sbatch_accepted_tells_the_job(tiny: Operator):
    """Its files could not be written, and submitit's answer is lost: the queue still knows which job it is."""
    code = (
        "import errno, os, sys; from submitit.core.utils import JobPaths; from pipeline.cluster.__main__ import main\n"
        "def full(*_, **__): raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), 'deblur_0')\n"
        "JobPaths.move_temporary_file = full; sys.exit(main(sys.argv[1:]))"
    )
    blocker = block(tiny)
    done = tiny.python("-c", code, "deblur", *tiny.roots, "--profile", str(tiny.profile), *FAST, check=False)
    (job,) = {job.partition("_")[0] for job, _ in tiny.tasks("deblur")}
    assert done.returncode == 1
    assert f"broke off: deblur_0: {os.strerror(errno.EDQUOT)}; already queued: job {job}" in done.stderr, done.stderr
    assert f"cancel with: scancel {job}" in done.stderr
    assert "broke off" in tiny.runs()[0].outcome()["message"]
    tiny.cluster.command("scancel", job, blocker)


def test_elements_are_requeued_alone_and_cancelled_ones_are_not(operator: Operator, renderable: Path):
    """Two elements of one array: one is warned and goes back, the other is cancelled and stays away."""
    operator.take_over(renderable / "pair")
    operator.brake.set(PICTURES, 5)
    assert operator.bash("phase5_render.sh", "--num_sets", "4").returncode == 0
    operator.wait_held(2)
    (run,) = operator.runs()
    array = run.plans("render")[0].jobs()[0]["job"]
    operator.cluster.command("scancel", "--signal=USR2", f"{array}_0")
    operator.cluster.command("scancel", f"{array}_1")
    operator.wait_ended("render", 2)
    operator.brake.release()
    operator.wait_idle()
    assert starts(operator, run, "render") == {"render_0/0": [0, 1], "render_0/1": [0]}, operator.logs_text()
    assert operator.states("render") == {"long_0": "done", "long_1": "partial"}
    ends = [event.get("cause") for event in operator.records(run, "render") if event["event"] == "end"]
    assert "cancelled" in ends and len(run.plans("render")) == 1


def test_redo_makes_every_scene_again_once(tiny: Operator, tmp_path: Path):
    """Also where a task is lost on the way: its second try leaves alone what the first one redid."""
    done = "*/frames_sharp/.done"
    tiny.script("02_deblur", *FAST)
    flags = ("--engine", "none", "--scenes_per_task", "3")
    refused = tiny.bash("phase2_deblur.sh", *flags)
    assert refused.returncode == 1 and "temporal 'none' -> 'flow'" in refused.stderr, "not passed over as done"
    old = {path: path.stat().st_mtime_ns for path in tiny.out.glob(done)}
    tiny.brake.set("frames_sharp/.done", 1)
    assert tiny.bash("phase2_deblur.sh", *flags, "--on_stale", "redo").returncode == 0

    def redone() -> dict[Path, int]:
        return {path: now for path in tiny.out.glob(done) if (now := path.stat().st_mtime_ns) != old[path]}

    (victim,) = tiny.wait_held()
    assert script_processes("02_deblur.py", tiny.root) == [victim]
    os.kill(victim, signal.SIGKILL)
    first = redone()
    tiny.brake.release()
    tiny.wait_idle()
    (run,) = tiny.runs()
    assert starts(tiny, run) == {"deblur_0/0": [0], "deblur_1/0": [0]} and len(first) == 1
    assert len(redone()) == 3 and first.items() <= redone().items(), tiny.logs_text()
    assert run.outcome()["state"] == "finished"


def test_one_job_for_all_phases_is_requeued_and_stays_cancelled(operator: Operator, renderable: Path):
    """jobs/test_bear.sh is no array: the warning requeues it by its own id; scancel ends it for good."""
    operator.raw.rmdir()
    operator.raw.symlink_to(renderable / "one" / "data")
    log = operator.logs / "test_bear.log"
    where = ["--parsable", "--partition", "gpu", "--mem", "2G", "--cpus-per-task", "2", "--output", str(log)]
    argv = ["sbatch", *where, "jobs/test_bear.sh", "--scene", "long", *operator.roots, "--deblur_args", " ".join(FAST)]
    operator.brake.set(PICTURES, 5)  # and once more after five others
    done = subprocess.run(argv, cwd=REPOSITORY, env=operator.environment, check=True, capture_output=True, text=True)
    job = done.stdout.strip()
    operator.wait_held()
    operator.cluster.command("scancel", "--batch", "--signal=USR2", job)
    operator.cluster.wait_until(lambda: "back in the queue" in log.read_text(), 60, operator.logs_text())
    before = operator.finished(RENDERED)

    def again() -> bool:
        operator.release()
        return "restart 1" in log.read_text()

    operator.cluster.wait_until(again, 120, operator.logs_text())
    operator.wait_held(2)
    assert len(operator.finished(RENDERED)) > len(before)
    operator.cluster.command("scancel", job)
    operator.cluster.wait_until(lambda: not operator.tasks(), 60, "it came back")
    assert "restart 2" not in log.read_text()


def test_a_preempted_task_goes_on(tmp_path: Path, renderable: Path):
    """A partition that others take precedence over: SIGTERM without a warning, and SLURM puts the task back itself."""
    partitions = (
        ("gpu", "Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=10"),
        ("cpu", "PriorityTier=1"),
        ("urgent", "PriorityTier=9"),
    )
    settings = ClusterSettings(
        nodes=1, partitions=partitions, more="PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE"
    )
    with running(settings) as cluster:
        operator = Operator(cluster, tmp_path)
        operator.take_over(renderable / "one")
        operator.brake.set(PICTURES, 5)
        assert operator.bash("phase5_render.sh", "--num_sets", "4").returncode == 0
        operator.wait_held()
        urgent = ("sbatch", "--parsable", "--output=/dev/null", "-p", "urgent", "--exclusive", "--wrap", "sleep 5")
        cluster.command(*urgent)
        (run,) = operator.runs()

        def stopped() -> bool:
            return any(event["event"] == "end" for event in operator.records(run, "render"))

        cluster.wait_until(stopped, 90, operator.logs_text())
        before = operator.finished(RENDERED)
        operator.brake.release()
        operator.wait_idle()
        assert operator.states("render") == {"long": "done"}, operator.logs_text()
        assert before.items() <= operator.finished(RENDERED).items()
        assert starts(operator, run, "render") == {"render_0/0": [0, 1]}
        assert run.outcome()["state"] == "finished"
