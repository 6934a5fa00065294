"""jobs/train.sh on the real scheduler: two nodes, one process each, gloo; killed in the middle, out of time, and resumed."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY
from finished_scenes import shared_scenes
from safetensors.torch import load_file
from test_train import write_config

from model.training.network_file import find_model, step_folders
from slurm.conftest import PATIENCE_S, Operator

pytestmark = pytest.mark.slurm

STEPS = 12
CHECKPOINTS = "checkpoints/step_*"  # every second step; written by the first process


@pytest.fixture(scope="session")
def scenes() -> Path:
    return shared_scenes()


class Training(Operator):
    """An operator who trains."""

    def write(self, name: str, scenes: Path, **run: object) -> tuple[Path, Path]:
        """(config, the run's folder)."""
        out_dir = self.root / name
        more = {"steps": STEPS, "validate_every": STEPS, "save_every": 2, **run}
        return write_config(self.root / f"{name}.toml", scenes, out_dir, **more), out_dir

    def train(self, config: Path, *flags: str) -> str:
        """sbatch over two nodes; returns the job's id."""
        where = ["--nodes", "2", "--gpus-per-node", "1", "--mem", "3G", "--cpus-per-task", "2", *flags]
        argv = ["sbatch", "--parsable", *where, "--output", str(self.logs / "%x_%j.log"), "jobs/train.sh"]
        argv += ["--config", str(config)]
        done = subprocess.run(argv, cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def losses(self, out_dir: Path) -> dict[int, float]:
        """Training losses by step; a step that was done again after a resume counts once, the last time."""
        lines = [json.loads(line) for path in out_dir.glob("*.jsonl") for line in path.read_text().splitlines()]
        return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


@pytest.fixture
def training(operator: Operator) -> Training:
    return Training(operator.cluster, operator.root)


def _trainers(out_dir: Path) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "model.train" in words and out_dir.name in words and "torchrun" not in words:
            found.append(int(folder.name))
    return found


def test_two_nodes_train_and_a_kill_or_the_time_limit_changes_nothing(training: Training, scenes: Path):
    config, whole = training.write("whole", scenes)
    job = training.train(config)
    training.wait_idle()
    log = (training.logs / f"train_{job}.log").read_text()
    assert len(training.losses(whole)) == STEPS, log
    expected = load_file(find_model(whole))

    # The scheduler's warning: saved, requeued under the same id, finished.
    config, warned = training.write("warned", scenes)
    training.brake.set(CHECKPOINTS, 1)
    job = training.train(config)
    training.wait_held()
    training.cluster.command("scancel", "--batch", "--signal=USR2", job)
    path = training.logs / f"train_{job}.log"
    training.cluster.wait_until(lambda: "back into the queue" in path.read_text(), PATIENCE_S, training.logs_text())
    training.brake.release()
    training.wait_idle()
    log = path.read_text()
    assert "back into the queue" in log and "restart 1" in log, log
    assert training.losses(warned) == training.losses(whole), log

    # A process killed without a word: the job fails; submitted again it goes on from the newest whole checkpoint.
    config, killed = training.write("killed", scenes)
    training.brake.set(CHECKPOINTS, 2)
    training.train(config)
    training.wait_held(len(training.brake.held()) + 1)
    for process in _trainers(training.root / "killed.toml"):
        os.kill(process, signal.SIGKILL)
    training.brake.release()
    training.wait_idle()
    assert max(dict(step_folders(killed)), default=0) < STEPS, "it was hit in the middle"
    training.train(config)
    training.wait_idle()
    assert training.losses(killed) == training.losses(whole), training.logs_text()
    for out_dir in (warned, killed):
        found = load_file(find_model(out_dir))
        assert all((found[name] == value).all() for name, value in expected.items())
