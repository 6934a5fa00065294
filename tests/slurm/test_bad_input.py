"""What an operator gets wrong, and what a site refuses: one clear message, and nothing half-submitted left unsaid."""

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, write_scene

from pipeline.cluster.plan import Run
from pipeline.storage.scene import SceneEntry, SceneIndex
from slurm.cluster import ClusterSettings
from slurm.conftest import FRAMES_SHARP, Operator, running

pytestmark = pytest.mark.slurm

FAST = ("--engine", "none", "--no_temporal_avg")
CLIENTS = ("sbatch", "scontrol", "squeue", "sinfo", "sacct", "srun", "scancel")


def wrap(folder: Path, refuse_from: int = 0, words: str = "") -> tuple[dict[str, str], Path]:
    """SLURM's own commands behind scripts that count calls, and that refuse from the n-th sbatch on with a site's words.

    Returns:
        the environment that puts them first, and the file with a line per call.
    """
    folder.mkdir()
    calls = folder / "calls.txt"
    for name in CLIENTS:
        real = shutil.which(name)
        lines = ["#!/bin/bash", f'echo "{name}" >> {calls}']
        if name == "sbatch" and refuse_from:
            lines.append(f"if [ $(grep -c '^sbatch$' {calls}) -ge {refuse_from} ]; then")
            lines += [f'    echo "sbatch: error: {words}" >&2', "    exit 1", "fi"]
        lines.append(f'exec {real} "$@"')
        path = folder / name
        path.write_text("\n".join(lines) + "\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}, calls


def test_a_partition_that_does_not_exist(tiny: Operator):
    text = tiny.profile.read_text().replace('partition = "gpu"', 'partition = "gpus"')
    tiny.profile.write_text(text)
    done = tiny.bash("phase2_deblur.sh")
    assert done.returncode == 2 and not tiny.tasks()
    assert (
        "sends deblur to partition 'gpus', which this cluster does not have; its partitions: closed, cpu, gpu"
        in done.stderr
    )


def test_a_partition_that_takes_no_jobs(tiny: Operator):
    """sbatch itself refuses: its words, and that nothing is queued."""
    tiny.profile.write_text(tiny.profile.read_text().replace('partition = "gpu"', 'partition = "closed"'))
    done = tiny.bash("phase2_deblur.sh")
    assert done.returncode == 1 and not tiny.tasks()
    assert "sbatch refused elements 0-2" in done.stderr and "nothing was queued" in done.stderr, done.stderr
    assert "not available" in done.stderr
    left = [path.name for path in (tiny.logs / "runs").rglob("*") if path.suffix in (".pkl", ".sh")]
    assert left == [], "no litter"


def test_a_missing_account(tiny: Operator, tmp_path: Path):
    environment, _ = wrap(tmp_path / "bin", 1, "Invalid account or account/partition combination specified")
    done = tiny.bash("phase2_deblur.sh", environment=environment)
    assert done.returncode == 1
    assert "Invalid account" in done.stderr and "name yours with --account, or in the profile" in done.stderr


def test_a_refusal_in_the_middle_lists_what_is_queued(operator: Operator, tmp_path: Path):
    """The first array is accepted, the second hits a limit; then resume leaves the queued scenes alone."""
    for number in range(5):
        write_scene(operator.raw, f"scene_{number}", 16, seed=number)
    operator.index()
    environment, _ = wrap(tmp_path / "bin", 2, "QOSMaxSubmitJobPerUserLimit")
    done = operator.bash("phase2_deblur.sh", *FAST, environment=environment)
    assert done.returncode == 1
    assert "refused elements 4-4 of deblur_0.json: QOSMaxSubmitJobPerUserLimit" in done.stderr
    (run,) = operator.runs()
    (queued,) = run.plans("deblur")[0].jobs()
    assert f"already queued: job {queued['job']}; cancel with: scancel {queued['job']}" in done.stderr
    operator.wait_idle()
    states = operator.states("deblur")
    assert sorted(states.values()) == ["done"] * 4 + ["waiting"]
    packed = ("--scenes_per_task", "5", "--profile", str(operator.profile))
    operator.python("-m", "pipeline", "resume", *packed, *operator.roots)
    operator.wait_idle()
    assert set(operator.states("depth").values()) == {"done"}, operator.logs_text()


def test_a_cluster_without_gpus(tmp_path: Path):
    with running(ClusterSettings(nodes=1, gpus=0)) as cluster:
        operator = Operator(cluster, tmp_path)
        write_scene(operator.raw, "scene", 16)
        operator.index()
        done = operator.bash("phase2_deblur.sh")
        assert done.returncode == 2
        assert "asks partition 'gpu' for 1 GPU a task, and its nodes have none; choose another --profile" in done.stderr
        operator.profile.write_text(operator.profile.read_text().replace("gpus = 1\n", ""))
        assert operator.bash("phase2_deblur.sh", *FAST).returncode == 0, "a profile that asks for none runs"
        operator.wait_idle()
        assert operator.states("deblur") == {"scene": "done"}, operator.logs_text()


def test_a_stale_plan_says_so_in_the_log_and_the_gate(tiny: Operator):
    """The index no longer accepts what a queued task has: nothing is done to it, and the message names the scene."""
    blocker = tiny.cluster.command(
        "sbatch", "--parsable", "--output=/dev/null", "-N3", "--exclusive", "--wrap", "sleep infinity"
    ).strip()
    tiny.cluster.wait_until(lambda: "RUNNING" in dict(tiny.tasks("wrap")).values(), 60, "the blocker did not start")
    assert tiny.bash("phase2_deblur.sh", *FAST).returncode == 0
    assert set(tiny.states("deblur").values()) == {"queued"}
    index = SceneIndex.load(tiny.out / "scene_index.json")
    entries = {name: entry for name, entry in index.entries.items() if name != "scene_2"}
    SceneIndex(raw_root=index.raw_root, settings=index.settings, entries=entries).save(tiny.out / "scene_index.json")
    tiny.cluster.command("scancel", blocker)
    tiny.wait_idle()
    (run,) = tiny.runs()
    logs = "".join(path.read_text() for path in (run.folder / "deblur_0").glob("*.out"))
    assert "the plan is older than" in logs and "no longer accepts scene_2; plan again" in logs
    assert tiny.states("deblur") == {"scene_0": "done", "scene_1": "done"}


def test_no_environment_on_the_node(tiny: Operator, tmp_path: Path):
    """The job script says which environment it looked for; an array task says which Python is missing."""
    bare = tmp_path / "bokehflow"
    bare.mkdir()
    for name in ("pipeline", "jobs", "scripts"):
        (bare / name).symlink_to(REPOSITORY / name)
    argv = ["bash", "jobs/phase2_deblur.sh", *tiny.roots]
    environment = {"PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(bare)}
    done = subprocess.run(argv, cwd=bare, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "neither .venv nor conda's bokehflow" in done.stderr
    assert "bash scripts/00_setup_env.sh" in done.stderr

    elsewhere = subprocess.run(
        ["bash", str(REPOSITORY / "jobs" / "phase2_deblur.sh")],
        cwd=tmp_path,
        env={**environment, "SLURM_SUBMIT_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert elsewhere.returncode != 0 and "jobs/common.sh" in elsewhere.stderr

    code = (
        "import sys; from pipeline.cluster.__main__ import main; import pipeline.cluster.submit as s; "
        "s.sys = type('Sys', (), {'executable': '/nowhere/python'}); sys.exit(main(sys.argv[1:]))"
    )
    done = tiny.python("-c", code, "deblur", *tiny.roots, "--profile", str(tiny.profile), *FAST, check=False)
    assert done.returncode == 0, done.stderr
    tiny.cluster.wait_until(lambda: not tiny.tasks("deblur"), 60, "the tasks did not end")
    (run,) = tiny.runs()
    logs = "".join(path.read_text() for path in (run.folder / "deblur_0").glob("*.out"))
    assert "error: there is no /nowhere/python on" in logs and "all nodes see" in logs
    tiny.python("-m", "pipeline.cluster.gate", str(run.folder), check=False)
    outcome = Run.load(run.folder).outcome()
    assert outcome and outcome["state"] == "stopped"
    assert len(run.plans("deblur")) == 1, "not tried again by itself"


def test_5000_scenes_ask_and_write_a_bounded_number_of_times(operator: Operator, tmp_path: Path):
    """A dry run and what it costs: questions to the scheduler and files written do not grow with the scenes."""
    entries = {
        name: SceneEntry(scene_id=name, source=name, accepted=True, split="train", num_frames=80, width=848, height=480)
        for name in (f"clip_{number:04d}" for number in range(5000))
    }
    operator.out.mkdir()
    SceneIndex(raw_root=str(operator.raw), settings={}, entries=entries).save(operator.out / "scene_index.json")
    before = _files(operator.root)
    environment, calls = wrap(tmp_path / "bin")
    started = time.monotonic()
    done = operator.bash("phase2_deblur.sh", "--dry_run", "--scenes_per_task", "10", environment=environment)
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    assert "deblur: 5000 scenes in 500 tasks" in done.stdout and "array of elements 496-499" in done.stdout
    assert sorted(calls.read_text().split()) == ["scontrol", "sinfo"], "two questions, and no sbatch"
    calls.unlink()
    assert _files(operator.root) - before == {"bin", *(f"bin/{name}" for name in CLIENTS)}, "no file at all"
    assert not operator.tasks()
    print(f"dry run of 5000 scenes: {seconds:.1f} s")


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_submission_asks_a_bounded_number_of_questions(tiny: Operator, tmp_path: Path):
    """sinfo and squeue once, the array limit once, one sbatch an array and one for the gate."""
    environment, calls = wrap(tmp_path / "bin")
    tiny.brake.set(FRAMES_SHARP, 0)  # no gate before the calls are counted
    assert tiny.bash("phase2_deblur.sh", *FAST, environment=environment).returncode == 0
    counted = sorted(call for call in calls.read_text().split() if call != "srun")  # that is a task, already running
    assert counted == ["sbatch", "sbatch", "scontrol", "sinfo", "squeue"], counted
    tiny.brake.release()
    tiny.wait_idle()
    calls.write_text("")
    status = subprocess.run(
        ["python", "-m", "pipeline", "status", "--json", *tiny.roots],
        cwd=REPOSITORY,
        env={**tiny.environment, **environment, "PATH": f"{REPOSITORY}/.venv/bin{os.pathsep}{environment['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert status.returncode == 0 and json.loads(status.stdout)["cluster"]
    assert calls.read_text().split() == ["squeue"], "status asks once"


def test_status_does_not_hang_when_the_controller_is_gone(tiny: Operator, tmp_path: Path):
    """Another SLURM_CONF, whose controller does not exist: the sentinels are shown, and that the queue is unknown."""
    assert tiny.bash("phase2_deblur.sh", *FAST).returncode == 0
    tiny.wait_idle()
    conf = (tiny.cluster.root / "slurm.conf").read_text()
    dead = tmp_path / "slurm.conf"
    lines = ["SlurmctldPort=1" if line.startswith("SlurmctldPort") else line for line in conf.splitlines()]
    dead.write_text("\n".join([*lines, "TCPTimeout=1"]).replace("MessageTimeout=20", "MessageTimeout=2") + "\n")
    environment = {**os.environ, "SLURM_CONF": str(dead)}
    argv = [sys.executable, "-m", "pipeline", "status", *tiny.roots]
    done = subprocess.run(
        argv, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and "queue: unknown" in done.stdout and "deblur: 3 done" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--scene", "nobody"), "there is no scene 'nobody'"),
        (("--engine", "nothing"), "there is no deblur engine 'nothing'; allowed are:"),
        (("--engine_opt", "strenght=2"), "has no option 'strenght'"),
    ],
)
def test_wrong_names_stop_before_the_queue(tiny: Operator, flags: tuple[str, str], message: str):
    done = tiny.bash("phase2_deblur.sh", *flags)
    assert done.returncode == 2 and message in done.stderr
    assert not tiny.tasks() and not tiny.runs()
