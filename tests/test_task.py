"""The seam of the trainer, with a family that exists only here: see tests/families/duel."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import model
from model import evaluate, report, train
from model.errors import CheckpointError
from model.training.checkpoint import find_resume, load_resume
from model.training.families import family_names, task_class
from model.training.network_file import find_model, load_model, step_folders
from model.training.optim import Ema
from model.training.settings import load_settings, settings_from
from model.training.task import Score, ramp
from model.training.trainer import Trainer
from pipeline.errors import UsageError
from pipeline.signals import StopSignals

FAMILIES = Path(__file__).parent / "families"
STEPS = 10


@pytest.fixture(autouse=True)
def duel(monkeypatch):
    """A folder beside model/'s own is all that a family takes."""
    monkeypatch.setattr(model, "__path__", [*model.__path__, str(FAMILIES)])


def write_config(path: Path, out_dir: Path, **run: object) -> Path:
    values = {"steps": STEPS, "batch_size": 4, "micro_batch_size": 2, "log_every": 1, "validate_every": 4, **run}
    values |= {"out_dir": str(out_dir), "save_every": 1, "device": "cpu", "threads": 1}
    lines = ["[task]", 'name = "duel"', "[optim]", "lr = 0.05", "warmup_steps = 2", "weight_decay = 0.5", "[run]"]
    path.write_text("\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in values.items())]))
    return path


def logged(out_dir: Path) -> list[dict]:
    rows = [json.loads(line) for line in (out_dir / "train.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "frames_per_s"} for row in rows]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> Path:
    """Ten steps without a stop, and every checkpoint kept."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "__path__", [*model.__path__, str(FAMILIES)])
        assert train.main(["--config", str(write_config(folder / "c.toml", folder / "run", keep_last=20))]) == 0
    return folder / "run"


def weights(run: Path, step: int, name: str = "resume/weights.safetensors") -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoints/step_{step:06d}" / name)


def assert_same_run(run: Path, whole: Path) -> None:
    assert logged(run) == logged(whole)
    for name in ("model", "resume/weights", "resume/average", "resume/optimizer"):
        ours, theirs = (weights(folder, STEPS, f"{name}.safetensors") for folder in (run, whole))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours), name
    assert (run / "best.json").read_bytes() == (whole / "best.json").read_bytes()


# --- what a family brings ---------------------------------------------------------------------------------------------


def test_a_family_is_found_by_its_folder(monkeypatch):
    assert "bokehflow" in family_names() and "duel" in family_names() and "training" not in family_names()
    assert task_class("duel").name == "duel"
    monkeypatch.setattr(model, "__path__", model.__path__[:-1])
    assert "duel" not in family_names()
    with pytest.raises(
        UsageError, match=r"there is no network family 'duel'; task.name must be one of: bokehdiff, bokehflow"
    ):
        task_class("duel")


def test_a_config_has_the_sections_of_its_family(tmp_path: Path):
    assert settings_from({}).task == "bokehflow"
    settings = load_settings(write_config(tmp_path / "c.toml", tmp_path / "run"), ["optim.critic_lr_scale=3"])
    assert settings.task == "duel" and settings.optim.critic_lr_scale == 3.0
    assert list(settings.fields()) == ["model", "loss", "optim", "run"]
    assert settings_from({"task": {"name": "duel"}}).out_dir == Path("runs/duel")
    with pytest.raises(UsageError, match="unknown section 'data'; sections are model, loss, optim, run, and task"):
        settings_from({"task": {"name": "duel"}, "data": {}})
    with pytest.raises(UsageError, match=r"unknown setting optim.critic_lr_scale"):
        settings_from({"optim": {"critic_lr_scale": 3}})


def test_stages_freeze_and_late_losses_start(whole_run: Path):
    """The critic moves from step 2 on, `down` until step 6, and `style`, whose only loss starts at 3, from then on."""
    at = {step: weights(whole_run, step) for step in range(1, STEPS + 1)}

    def moved(name: str) -> list[int]:
        return [step for step in range(1, STEPS) if not torch.equal(at[step][name], at[step + 1][name])]

    assert moved("critic.weight") == list(range(2, STEPS))
    assert moved("adapted.down.weight") == list(range(1, 6))
    assert moved("adapted.up.weight") == list(range(1, STEPS))
    assert moved("adapted.style") == list(range(3, STEPS)), "no gradient, and no decay either"
    rows = {row["step"]: row for row in logged(whole_run) if row["kind"] == "train"}
    assert [step for step, row in rows.items() if "adversarial" in row] == list(range(3, STEPS))
    assert rows[5]["lr_critic"] == 2 * rows[5]["lr_adapter"] and rows[5]["grad_norm_critic"] > 0
    assert rows[1]["grad_norm_critic"] == 0, "frozen"
    assert [ramp(step, 3, 2) for step in range(2, 7)] == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    assert ramp(2, 3) == 0 and ramp(3, 3) == 1


def test_a_loss_leaves_no_gradient_at_the_other_optimiser(tmp_path: Path):
    """The adapter's adversarial loss passes through the critic; the critic's gradient must be its own loss's alone."""
    trainer = Trainer(load_settings(write_config(tmp_path / "c.toml", tmp_path / "run")), StopSignals())
    critic = trainer.net["critic"]
    received = []
    trainer.task.optimizers[1].optimizer.step = lambda: received.append(critic.bias.grad.clone())
    trainer.run()
    # its own loss is a difference of two means, in which the bias cancels out; the adversarial one alone would give -1
    assert len(received) == STEPS - 2 and all(float(gradient.abs()) < 1e-6 for gradient in received)


def test_a_checkpoint_of_an_adapter_holds_no_base(whole_run: Path):
    """Nor does the published file hold the critic, and its names are the adapter's."""
    kept = {"adapted.down.weight", "adapted.up.weight", "adapted.style", "critic.weight", "critic.bias"}
    for name in ("weights", "average"):
        assert set(weights(whole_run, STEPS, f"resume/{name}.safetensors")) == kept
    states = weights(whole_run, STEPS, "resume/optimizer.safetensors")
    assert {"critic.bias/momentum_buffer", "adapted.style/exp_avg_sq"} <= set(states)
    path = find_model(whole_run / f"checkpoints/step_{STEPS:06d}")
    assert set(load_file(path)) == {"down.weight", "up.weight", "style"}
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["family"] == "duel" and json.loads(metadata["config"]) == {"base_seed": 1, "rank": 2}
    loaded = load_model(path)
    average = weights(whole_run, STEPS, "resume/average.safetensors")
    assert loaded.family == "duel" and torch.equal(loaded.net.up.weight, average["adapted.up.weight"])
    assert torch.equal(
        loaded.net.base.weight, task_class("duel").load_network(loaded.config, load_file(path)).base.weight
    )


def test_validation_has_a_score_of_its_own(whole_run: Path):
    found = {row["step"] + 1: row["gap"] for row in logged(whole_run) if row["kind"] == "validation"}
    best = json.loads((whole_run / "best.json").read_text())
    assert list(found) == [4, 8, 10] and best == {"step": best["step"], "gap": min(found.values())}
    assert found[best["step"]] == best["gap"] and find_model(whole_run).parent.name == f"step_{best['step']:06d}"
    assert found[4] != found[8] and f"best validation {best['gap']:.4g}." in (whole_run / "train.log").read_text()
    assert Score(name="x", unit="dB").text(31.234) == "31.23 dB"
    assert Score(name="x").better(2, 1) and not Score(name="x", larger_is_better=False).better(2, 1)


def test_averages_are_lent_and_given_back_to_the_last_bit():
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout()).train()
    net[1].eval()
    ema = Ema(net, 0.9, lambda name: name != "0.bias")
    before = {name: p.clone() for name, p in net.named_parameters()}
    with torch.no_grad():
        net[0].weight.mul_(1.7)
    live = net[0].weight.clone()
    with pytest.raises(RuntimeError, match="stop"), ema.lent_to(net):
        assert torch.equal(net[0].weight, before["0.weight"]) and not net.training
        raise RuntimeError("stop")
    assert torch.equal(net[0].weight, live) and torch.equal(net[0].bias, before["0.bias"])
    assert net.training and not net[1].training


# --- stops ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [2, 7])
def test_a_stop_in_any_stage_changes_nothing(whole_run: Path, tmp_path: Path, monkeypatch, stop_at: int):
    config = write_config(tmp_path / "c.toml", tmp_path / "run")
    step = Trainer._step

    def signalling(self, at, stream):
        if at + 1 == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, at, stream)

    with monkeypatch.context() as context:
        context.setattr(Trainer, "_step", signalling)
        assert train.main(["--config", str(config)]) == 75
    assert step_folders(tmp_path / "run")[-1][0] == stop_at
    assert train.main(["--config", str(config)]) == 0
    assert_same_run(tmp_path / "run", whole_run)


_KILLED = """
import os, signal, sys
import model
from model import train
from model.training.trainer import Trainer

model.__path__.append(sys.argv[2])
update = Trainer._update

def killing(self, step, samples):
    found = update(self, step, samples)
    if step == 5:  # both optimisers have stepped, nothing is saved
        os.kill(os.getpid(), signal.SIGKILL)
    return found

Trainer._update = killing
train.main(["--config", sys.argv[1]])
"""


def test_a_kill_in_the_middle_of_a_step_changes_nothing(whole_run: Path, tmp_path: Path):
    config = write_config(tmp_path / "c.toml", tmp_path / "run")
    command = [sys.executable, "-c", _KILLED, str(config), str(FAMILIES)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run(command, env=environment, cwd=tmp_path, check=False).returncode == -signal.SIGKILL
    assert step_folders(tmp_path / "run")[-1][0] == 5
    assert train.main(["--config", str(config)]) == 0
    assert_same_run(tmp_path / "run", whole_run)


def test_a_run_of_another_family_is_not_resumed(whole_run: Path, tmp_path: Path, capsys):
    """Nor is a checkpoint that keeps other parameters than the task."""
    with pytest.raises(UsageError, match=r"task.name is 'bokehflow' now and was 'duel'"):
        find_resume(whole_run, {}, print, "bokehflow")
    config = write_config(tmp_path / "c.toml", tmp_path / "run", init_from=str(whole_run))
    assert train.main(["--config", str(config), "--set", "model.rank=3"]) == 2
    assert "is another adapter" in capsys.readouterr().err
    trainer = Trainer(load_settings(config), StopSignals())
    assert torch.equal(trainer.net["adapted"].style, load_model(whole_run).net.style)
    trainer.net["extra"] = torch.nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match=r"extra.bias is missing in .*weights.safetensors"):
        load_resume(whole_run / "checkpoints/step_000004", trainer.task, trainer.ema)


# --- commands ---------------------------------------------------------------------------------------------------------


def test_evaluate_asks_the_family(whole_run: Path, tmp_path: Path, capsys):
    args = ["--samples", "3", "--split", "test", "--out", str(tmp_path), str(whole_run)]
    assert evaluate.main(args) == 0
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "evaluation_test.json").read_text())
    assert found["family"] == "duel" and found["frames"] == 3 and "base alone" in said
    assert found["scores"]["duel"]["gap"] < found["scores"]["base alone"]["gap"], "it learned something"
    with pytest.raises(SystemExit):
        evaluate.main([str(whole_run), "--stateless"])  # BokehFlow's
    assert "unrecognized arguments: --stateless" in capsys.readouterr().err
    assert report.main([str(whole_run), "--out_root", str(tmp_path)]) == 2
    assert "duel is not shown on the report page" in capsys.readouterr().err


def test_a_network_of_another_family_is_refused_by_name(whole_run: Path, tmp_path: Path):
    from model.bokehflow.checkpoint import load_bokehflow

    with pytest.raises(CheckpointError, match="is a duel network; this needs one of bokehflow"):
        load_bokehflow(whole_run)
    source = find_model(whole_run)
    with safe_open(source, "pt") as opened:
        metadata = opened.metadata()
    save_file(load_file(source), tmp_path / "model.safetensors", {**metadata, "family": "trio"})
    with pytest.raises(CheckpointError, match="there is no network family 'trio'"):
        load_model(tmp_path / "model.safetensors")
    assert evaluate.main([str(tmp_path / "model.safetensors"), "--device", "cpu"]) == 1
