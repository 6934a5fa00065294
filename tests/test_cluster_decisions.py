"""What a submission and a gate decide: what is done, stale, queued, tried again; and what they never do by mistake."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from brake import Brake
from conftest import REPOSITORY, Project
from test_cluster import FAST, entry, local, make_plan, make_run, partition

from pipeline.cluster.failures import TaskStates, unfinished
from pipeline.cluster.gate import advance
from pipeline.cluster.plan import Run, Stage
from pipeline.cluster.preflight import _difference, check_flags
from pipeline.cluster.profile import load_profile
from pipeline.cluster.queue_view import active_scenes, place, queued_scenes
from pipeline.cluster.scheduler import Partition, QueuedTask, SchedulerUnreachableError, Slurm, outside_job
from pipeline.cluster.stage_status import make_plans, reason, stage_status
from pipeline.cluster.worker import Records
from pipeline.commands import phase_parser
from pipeline.errors import StaleError
from pipeline.phases.registry import phase_named
from pipeline.signals import StopSignals
from pipeline.storage.completion import as_stored
from pipeline.storage.scene import SceneIndex


def test_more_memory_is_what_a_node_has(tmp_path: Path):
    """48 GB that ran out become 60 on nodes of 60, and nothing is tried where a node has no more."""
    run = make_run(tmp_path, ("a",))
    run.save()
    Records(make_plan(run, ("a",)).records / "0.jsonl").note("end", cause="memory", exit=137)

    class Offers(Slurm):
        mem_gb = 60.0

        def partitions(self) -> dict[str, Partition]:
            return {"gpu": replace(partition("gpu"), mem_gb=self.mem_gb)}

    slurm = Offers()
    found = stage_status(run, "deblur", [entry("a")], slurm)
    (plan,) = make_plans(run, "deblur", found, {"a": entry("a")}, slurm)
    assert plan.resources.mem_gb == 60
    slurm.mem_gb = 48.0
    assert make_plans(run, "deblur", found, {"a": entry("a")}, slurm) == []
    assert reason(run, "deblur", found.left["a"]) == "out of memory, and no node has more"


def test_a_plan_that_was_never_submitted_is_no_try(tmp_path: Path):
    """A gate that dies between saving a plan and submitting it: the scenes are planned again, as on their first time."""
    run = make_run(tmp_path, ("a",))
    run.save()
    for number in range(6):
        make_plan(run, ("a",), number=number)
    (one,) = unfinished(run.plans("deblur"), run.scenes, TaskStates(None)).values()
    assert (one.cause, one.tries, one.retry) == ("lost", 0, True)


def queued_task(name: str, index: int | None, state: str = "RUNNING") -> QueuedTask:
    return QueuedTask(job=f"9_{index}", array="9", index=index, name=name, state=state, reason="")


def test_an_array_is_known_by_its_name(tmp_path: Path):
    """Also where sbatch's answer got lost before its id was noted: nothing is submitted twice."""
    run = make_run(tmp_path, ("a", "b", "c"))
    run.save()
    plan = make_plan(run, ("a",), ("b",), ("c",))
    tasks = [queued_task(plan.job_name(2), None), queued_task(plan.job_name(0), 1, "PENDING")]
    assert [place(task) for task in tasks] == [(run.run_id, "deblur_0", 2), (run.run_id, "deblur_0", 1)]
    assert place(queued_task(f"gate.{run.run_id}", None)) is None and place(queued_task("bash", None)) is None

    class Queue(Slurm):
        def queue(self) -> list[QueuedTask]:
            return tasks

    found = unfinished([plan], run.scenes, TaskStates(Queue()))
    assert {scene: one.cause for scene, one in found.items()} == {"a": "lost", "b": "queued", "c": "queued"}
    scenes = queued_scenes(run.logs, run.out_root, tasks)
    assert [(one.scene, one.state) for one in scenes] == [("c", "RUNNING"), ("b", "PENDING")]


def test_a_stopped_run_holds_only_what_is_queued(tmp_path: Path):
    run = make_run(tmp_path, ("a", "b"))
    run.save()
    tasks = [queued_task(make_plan(run, ("a",), ("b",)).job_name(0), 0)]
    assert set(active_scenes(run.logs, run.out_root, tasks, ("deblur",))) == {"a", "b"}
    run.finish("stopped", "sbatch refused the second array")
    assert set(active_scenes(run.logs, run.out_root, tasks, ("deblur",))) == {"a"}
    assert active_scenes(run.logs, run.out_root, tasks, ("render",)) == {}
    assert active_scenes(run.logs, tmp_path / "elsewhere", tasks, ("deblur",)) == {}, "scenes of another output root"


@pytest.mark.parametrize(
    ("words", "silent"),
    [
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", True),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", True),
        ("slurm_load_jobs error: Invalid job id specified", False),
    ],
)
def test_no_answer_is_not_taken_for_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, silent: bool
):
    """Whoever took a busy controller's silence for "not queued" would submit everything a second time."""
    script = tmp_path / "scontrol"
    script.write_text(f'#!/bin/sh\necho "{words}" >&2\nexit 1\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    if silent:
        with pytest.raises(SchedulerUnreachableError):
            Slurm().job_facts("7")
    else:
        assert Slurm().job_facts("7") == {}


def test_a_job_does_not_hand_its_own_settings_on(monkeypatch: pytest.MonkeyPatch):
    """SBATCH_ and SLURM_ variables of the submitting job would win over what the new job's file says."""
    for name in (
        "SBATCH_GPUS",
        "SLURM_CPUS_PER_TASK",
        "SRUN_CPUS_PER_TASK",
        "SBATCH_ACCOUNT",
        "SBATCH_QOS",
        "SLURM_CONF",
    ):
        monkeypatch.setenv(name, "given")
    profile = replace(load_profile("generic"), qos="mine")
    with outside_job(profile):
        left = {name for name in os.environ if name.startswith(("SBATCH_", "SLURM_", "SRUN_"))}
    assert left == {"SLURM_CONF", "SBATCH_ACCOUNT"}, "the profile names a QOS, and no account"
    assert os.environ["SBATCH_GPUS"] == "given"


def test_the_watcher_is_light():
    """It waits beside the work, and its memory counts against the task's."""
    code = "import sys, pipeline.cluster.worker; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


# What is done with other settings


def run_of(project: Project, on_stale: str) -> Run:
    made = make_run(project.root, ("tiny",), on_stale=on_stale)
    made.save()
    return made


def judged(run: Run, phase: str) -> tuple[str, str]:
    """(list or cause that the only scene is in, words)."""
    (one,) = SceneIndex.load(run.out_root / "scene_index.json").accepted.values()
    found = stage_status(run, phase, [one], None)
    if found.left:
        return found.left["tiny"].cause, found.left["tiny"].detail
    return ("done" if found.done else "waiting"), ""


def test_redo_is_done_when_a_task_has_looked(scene_project: Project):
    """An older .done proves nothing, nor does a task that was lost; and a scene that was redone is not planned again."""
    scene_project.run_upto(2)
    assert judged(run_of(scene_project, "stop"), "deblur") == ("done", "")
    run = run_of(scene_project, "redo")
    assert judged(run, "deblur") == ("waiting", "")
    first = make_plan(run, ("tiny",))
    Records(first.records / "0.jsonl").note("start")
    assert judged(run, "deblur")[0] == "lost", "it died before it came to this scene, perhaps"
    second = make_plan(run, ("tiny",), number=1)
    Records(second.records / "0.jsonl").note("start")
    Records(second.records / "0.jsonl").note("end", cause="done", exit=0)
    assert judged(run, "deblur") == ("done", "")


def test_stale_scenes_are_named_and_never_redone_unasked(scene_project: Project):
    scene_project.run_upto(3)
    path = scene_project.out / "scene_index.json"
    index = SceneIndex.load(path)
    entries = {name: replace(one, depth_hash="other") for name, one in index.entries.items()}
    replace(index, entries=entries).save(path)
    cause, detail = judged(run_of(scene_project, "stop"), "depth")
    assert cause == "stale" and "another delivered depth" in detail
    assert judged(run_of(scene_project, "keep"), "depth") == ("done", "")
    assert judged(run_of(scene_project, "redo"), "depth") == ("waiting", "")
    with pytest.raises(StaleError, match=r"depth of 1 scenes is stale, the first is tiny: .*--on_stale: redo"):
        local(scene_project, "depth")
    assert len(list((scene_project.logs / "runs").glob("*"))) == 3, "no run was begun"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "engine 'none' -> 'wiener'"),
        (("--engine", "none"), "temporal 'none' -> 'flow'"),
    ],
)
def test_what_is_done_with_other_settings_is_not_passed_over(
    scene_project: Project, flags: tuple[str, ...], words: str
):
    """The script would stop and name the difference; so does the submission, which sends no task to finished scenes."""
    assert scene_project.run(1) == 0 and scene_project.run(2, *FAST.split()) == 0
    with pytest.raises(StaleError, match=f"deblur of tiny is done with other settings: {words}; nothing was submitted"):
        local(scene_project, "deblur", *flags)
    assert not list((scene_project.logs / "runs").glob("*"))
    assert local(scene_project, "deblur", *flags, "--on_stale", "keep") == 0
    assert local(scene_project, "deblur", *FAST.split()) == 0


@pytest.mark.parametrize(
    ("done", "asked", "words"),
    [
        ("", "--f_number 2", "f_number 'not given' -> 2.0"),
        ("", "--focus 1.5 --num_sets 4", "focus_m 'not given' -> 1.5"),
        ("--focal_mm 35", "--focal_mm 50", "focal_mm 35.0 -> 50.0"),
        ("--f_number 2", "", "f_number 2.0 -> 'not given'"),
        ("--f_number 2 --focus 3", "--focus 3 --f_number 2", None),
        ("", "--num_sets 4", None),
    ],
)
def test_own_lens_is_compared_with_records_that_lack_one(done: str, asked: str, words: str | None):
    phase = phase_named("render")
    settings = phase.settings(phase_parser(phase).parse_args(done.split()))
    record = {"engine": {"name": "lens", "options": {}}, "settings": as_stored(settings.recorded())}
    assert _difference(check_flags(phase, tuple(asked.split())), record) == words


def test_a_gate_out_of_time_says_what_to_run(
    scene_project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """It is warned while a stage runs in it: not requeued, since the stage would begin again and be no faster."""
    scene_project.run_upto(3)
    run = replace(run_of(scene_project, "stop"), stages=(Stage.of(phase_named("calibrate"), ()),))
    brake = Brake(scene_project.root / "brake")
    brake.set("coc_stats.json", 0)
    for name, value in brake.environment.items():
        monkeypatch.setenv(name, value)

    def warn_at_the_brake() -> None:
        brake.wait()
        os.kill(os.getpid(), signal.SIGUSR2)
        brake.release()

    with StopSignals() as signals:
        threading.Thread(target=warn_at_the_brake).start()
        assert advance(run, Slurm(), signals) == 1
    shown = capsys.readouterr().err
    assert "calibrate was stopped by SIGUSR2; a gate may take 1 h, [phase.cpu] of the profile" in shown
    assert "By hand: python scripts/04_calibrate_coc.py --raw_root" in shown
    assert (run.outcome() or {})["state"] == "stopped"
