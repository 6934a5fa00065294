"""The pipeline on a real SLURM of three nodes: what an operator does, and what goes wrong on clusters."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, tree, write_scene

from slurm.conftest import ALL_RENDERED, FRAMES_SHARP, PATIENCE_S, PICTURES, RENDERED, script_processes

pytestmark = pytest.mark.slurm

FAST = ("--engine", "none", "--no_temporal_avg")


@pytest.fixture(scope="session")
def demo_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's ray-traced scenes, small."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    size = ("--num_scenes", "3", "--num_frames", "16", "--width", "96", "--height", "64")
    command = [sys.executable, "scripts/make_demo_scenes.py", "--raw_root", str(folder), *size]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return folder


def test_the_whole_pipeline_gives_the_same_bytes_as_a_local_run(operator, demo_scenes: Path, tmp_path: Path):
    """Phases 1 to 4, the operator's confirmation, phases 5 and 6, with no other step; and a status that follows."""
    operator.raw.rmdir()
    operator.raw.symlink_to(demo_scenes)
    operator.brake.set(FRAMES_SHARP, 0)
    job = operator.sbatch("run_phases_1_4.sh")
    operator.wait_held(3)
    during = operator.status()
    assert [run["state"] for run in during["cluster"]["runs"]] == ["in the queue"], during["cluster"]
    assert set(operator.states("deblur").values()) == {"running"}
    operator.brake.release()
    operator.wait_idle()
    log = (operator.logs / f"run_phases_1_4_{job}.log").read_text()
    assert "deblur: 3 scenes in 3 tasks: job" in log and "gate: job" in log, log
    assert set(operator.states("depth").values()) == {"done"}, operator.logs_text()
    assert operator.status()["calibration"]["state"] == "unconfirmed"

    refused = operator.bash("run_phases_5_6.sh")
    assert refused.returncode == 1 and "max_coc is not confirmed" in refused.stderr
    operator.script("04_calibrate_coc", "--confirm")
    operator.brake.set(PICTURES, 0)  # until every node has one
    operator.sbatch("run_phases_5_6.sh", "--render_args", "--num_sets 2")
    operator.wait_held(6)  # deblur's three among them
    operator.brake.release()
    operator.wait_idle()
    report = json.loads((operator.out / "validation_report.json").read_text())
    assert {scene["passed"] for scene in report["scenes"].values()} == {True}, report
    final = operator.status()
    assert {row["render"]["state"] for row in final["scenes"].values()} == {"done"}
    assert [run["state"] for run in final["cluster"]["runs"]] == ["finished", "finished"]
    assert final["cluster"]["hours"]["render"]["gpu_hours"] > 0
    for run in operator.runs():
        hosts = {event["host"] for event in operator.records(run, run.stages[0].phase) if event["event"] == "start"}
        assert hosts == {"n1", "n2", "n3"}, "each node had a scene"

    local = operator.__class__(operator.cluster, _folder(tmp_path / "local"))
    local.raw.rmdir()
    local.raw.symlink_to(demo_scenes)
    for name, flags in (
        ("01_validate_dataset", ()),
        ("02_deblur", ()),
        ("03_depth", ()),
        ("04_calibrate_coc", ()),
        ("04_calibrate_coc", ("--confirm",)),
        ("05_render_and_labels", ("--num_sets", "2")),
    ):
        local.script(name, *flags)
    for scene in ("bear", "fence", "night"):
        assert tree(operator.out / scene) == tree(local.out / scene), scene


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_more_scenes_than_an_array_may_have(operator):
    """MaxArraySize is 4: five scenes need two arrays, and every scene is in exactly one task."""
    for number in range(5):
        write_scene(operator.raw, f"scene_{number}", 16, seed=number)
    operator.index()
    operator.sbatch("phase2_deblur.sh", *FAST)
    operator.wait_idle()
    assert set(operator.states("deblur").values()) == {"done"}, operator.logs_text()
    (run,) = operator.runs()
    (plan,) = run.plans("deblur")
    assert [(job["first"], job["count"]) for job in plan.jobs()] == [(0, 4), (4, 1)]
    assert len([event for event in operator.records(run, "deblur") if event["event"] == "start"]) == 5


def test_arrays_follow_each_other_under_a_limit_on_gpus(operator):
    """`%N` throttles each array by itself, so with a project's limit the second waits for the first."""
    for number in range(5):
        write_scene(operator.raw, f"scene_{number}", 16, seed=number)
    operator.index()
    operator.profile = operator.write_profile(max_gpus=2)
    operator.brake.set(FRAMES_SHARP, 0)  # so that nothing ends before it is looked at
    done = operator.bash("phase2_deblur.sh", *FAST)
    assert done.returncode == 0, done.stderr
    (run,) = operator.runs()
    first, second = (job["job"] for job in run.plans("deblur")[0].jobs())
    assert "ArrayTaskThrottle=2" in operator.cluster.command("scontrol", "show", "job", first)
    assert f"Dependency=afterany:{first}" in operator.cluster.command("scontrol", "show", "job", second)
    ((gate, _),) = operator.tasks("gate")
    for job in (second, gate):  # a dependency that can never be met must not wait for ever; the field's name varies
        assert "InvalidDependent=Yes" in operator.cluster.command("scontrol", "show", "job", job)


def _untouched(before: dict, after: dict) -> bool:
    return before.items() <= after.items()


def test_a_killed_task_costs_the_frame_in_hand(operator, renderable):
    """The script is killed without a word, as the kernel does when memory runs out: once more, with more memory."""
    operator.take_over(renderable / "one")
    operator.brake.set(PICTURES, 5)
    operator.sbatch("phase5_render.sh", "--num_sets", "4")
    (victim,) = operator.wait_held()
    assert script_processes("05_render_and_labels.py", operator.root) == [victim]
    os.kill(victim, signal.SIGKILL)
    before = operator.finished(RENDERED)
    operator.brake.release()
    operator.wait_idle()
    assert operator.states("render") == {"long": "done"}, operator.logs_text()
    assert len(before) == 5, "it was hit in the middle"
    assert _untouched(before, operator.finished(RENDERED))
    (run,) = operator.runs()
    assert [plan.memory_factor for plan in run.plans("render")] == [1.0, 2.0]


def test_a_killed_slurmd_costs_the_frame_in_hand(operator, renderable):
    """A node dies. SLURM puts the task back under its old id, and the lease is taken over at once."""
    operator.take_over(renderable / "one")
    operator.brake.set(PICTURES, 5)
    operator.sbatch("phase5_render.sh", "--num_sets", "4")
    operator.wait_held()
    task = operator.wait_for("render")
    node = operator.cluster.command("squeue", "-h", "-j", task, "-o", "%N").strip()
    operator.cluster.kill_node(node)
    before = operator.finished(RENDERED)
    operator.brake.release()
    try:
        operator.wait_idle()
    finally:
        operator.cluster.start_node(node)
        operator.cluster.wait_until(lambda: operator.cluster.idle_nodes() == 3, 60, f"{node} did not come back")
    assert operator.states("render") == {"long": "done"}, operator.logs_text()
    assert len(before) == 5 and _untouched(before, operator.finished(RENDERED))
    (run,) = operator.runs()
    starts = [event for event in operator.records(run, "render") if event["event"] == "start"]
    assert [event["restart"] for event in starts] == [0, 1]
    assert len({event["host"] for event in starts}) == 2, "another node took it"


def test_a_time_limit_is_hit_and_the_scene_resumes(operator, renderable):
    """The scheduler warns, the worker stops between frames and requeues itself; no frame is made twice."""
    operator.take_over(renderable / "one")
    operator.profile = operator.write_profile(hours=1 / 60, signal_s=58)  # a minute, and warned at once
    operator.brake.set(PICTURES, 5)
    operator.sbatch("phase5_render.sh", "--num_sets", "4")
    operator.wait_for_files(RENDERED, 5)
    (run,) = operator.runs()

    def stopped() -> bool:
        return any(event.get("cause") == "requeued" for event in operator.records(run, "render"))

    operator.cluster.wait_until(stopped, PATIENCE_S, f"it was not requeued\n{operator.logs_text()}")
    before = operator.finished(RENDERED)
    operator.brake.release()
    assert len(before) < ALL_RENDERED, "the limit was hit in the middle"
    operator.wait_idle()
    assert operator.states("render") == {"long": "done"}, operator.logs_text()
    assert _untouched(before, operator.finished(RENDERED))
    log = next((run.folder / "render_0").glob("*.out")).read_text()
    assert "attempt 0 of" in log and "attempt 1 of" in log, "one log, both attempts"


def test_an_over_memory_task_gets_more_once(operator):
    """SLURM kills a step over its memory; the gate tries once with twice as much.

    SLURM looks once a second and forgives what is over sooner, so the task takes its memory and holds it until killed.
    """
    write_scene(operator.raw, "scene", 16)
    operator.index()
    operator.profile = operator.write_profile(mem_gb=1)
    operator.brake.set(FRAMES_SHARP, 1, memory_mb=1024)
    operator.sbatch("phase2_deblur.sh")
    operator.cluster.wait_until(
        lambda: "step" in operator.events("deblur"), PATIENCE_S, f"it was not killed\n{operator.logs_text()}"
    )
    operator.brake.release()
    operator.wait_idle()
    (run,) = operator.runs()
    assert [plan.resources.mem_gb for plan in run.plans("deblur")] == [1, 2], operator.logs_text()
    assert operator.states("deblur") == {"scene": "done"}, operator.logs_text()


def test_one_poisoned_scene_and_the_others_finish(operator):
    """A scene without depth: exit 3, named with its own reason, not tried again; the others go on to the calibration."""
    for number in range(3):
        write_scene(operator.raw, f"scene_{number}", 16, depth=number != 1, seed=number)
    operator.sbatch("run_phases_1_4.sh", "--min_yield", "0.6")
    operator.wait_idle()
    assert operator.states("depth") == {"scene_0": "done", "scene_1": "failed", "scene_2": "done"}, operator.logs_text()
    assert operator.status()["calibration"]["state"] == "unconfirmed", "calibrated on what there is"
    (run,) = operator.runs()
    assert len(run.plans("depth")) == 1, "not tried again"
    assert run.outcome()["message"] == "some scenes failed"
    gates = "".join(path.read_text() for path in (run.folder / "gate").glob("*.out"))
    assert "scene_1: there is no delivered depth" in gates or ("scene_1" in gates and "depth" in gates)

    operator.sbatch("phase3_depth.sh")  # alone it is all there is: less than --min_yield, so the run stops and says so
    operator.wait_idle()
    outcome = operator.runs()[-1].outcome()
    assert outcome["state"] == "stopped" and "2 of 3 scenes, less than --min_yield 0.9" in outcome["message"]


def test_two_submissions_at_once(tiny):
    """The second says who has the scenes, and submits nothing; every scene is worked on once."""
    tiny.brake.set(FRAMES_SHARP, 0)  # the first is at work for as long as the second looks
    jobs = [tiny.sbatch("run_phases_1_4.sh") for _ in range(2)]
    tiny.cluster.wait_until(lambda: not tiny.tasks("run_phases"), PATIENCE_S, "the submissions did not end")
    tiny.brake.release()
    tiny.wait_idle()
    assert set(tiny.states("depth").values()) == {"done"}, tiny.logs_text()
    logs = [(tiny.logs / f"run_phases_1_4_{job}.log").read_text() for job in jobs]
    assert sum("3 of 3 scenes are in progress already, by run" in log for log in logs) == 1, logs
    (run,) = tiny.runs()
    assert len([event for event in tiny.records(run, "deblur") if event["event"] == "start"]) == 3


def test_a_cancelled_task_stays_cancelled_and_resume_brings_it_back(operator, renderable):
    operator.take_over(renderable / "one")
    operator.brake.set(PICTURES, 5)
    operator.sbatch("phase5_render.sh", "--num_sets", "4")
    operator.wait_held()
    operator.cluster.command("scancel", operator.wait_for("render"))
    operator.wait_idle()
    operator.brake.release()
    before = operator.finished(RENDERED)
    assert operator.states("render") == {"long": "partial"}, operator.logs_text()
    (run,) = operator.runs()
    gate = next((run.folder / "gate").glob("*.out")).read_text()
    assert "its task was cancelled" in gate, gate
    shown = operator.python("-m", "pipeline", "resume", "--dry_run", *operator.roots)
    assert "long: render is partial" in shown.stdout and "#SBATCH --array" not in shown.stdout.split("array of")[0]
    assert not operator.tasks() and len(operator.runs()) == 1, "a dry run submits nothing"
    operator.python("-m", "pipeline", "resume", *operator.roots)
    operator.wait_idle()
    assert operator.states("render") == {"long": "done"}
    assert _untouched(before, operator.finished(RENDERED))
    assert operator.runs()[-1].stage("render").args == ("--num_sets", "4"), "with the flags it had"
    again = operator.python("-m", "pipeline", "resume", *operator.roots)
    assert "nothing to resume" in again.stdout and len(operator.runs()) == 2


def test_one_scene_in_one_job(operator):
    """jobs/test_bear.sh: phases 1 to 6 of one scene, its own calibration confirmed unseen."""
    write_scene(operator.raw, "bear", 16)
    write_scene(operator.raw, "other", 16, seed=1)
    where = ["--partition", "gpu", "--mem", "2G", "--cpus-per-task", "2", "--output", str(operator.logs / "%x_%j.log")]
    argv = ["sbatch", *where, "jobs/test_bear.sh", *operator.roots, "--render_args", "--num_sets 2"]
    subprocess.run(argv, cwd=REPOSITORY, env=operator.environment, check=True, capture_output=True)
    operator.wait_idle()
    report = json.loads((operator.out / "validation_report.json").read_text())
    assert list(report["scenes"]) == ["bear"] and report["scenes"]["bear"]["passed"], operator.logs_text()


def test_the_scenarios_run_without_accounting(operator):
    """The scenarios above run where `sacct` cannot answer, as on some sites."""
    done = subprocess.run(["sacct"], env=operator.environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "accounting" in done.stderr.lower()
