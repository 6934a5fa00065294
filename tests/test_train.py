"""The trainer: exact resumes after real signals, the same steps with one process or two, and errors that name things."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from finished_scenes import shared_scenes
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import model
from model import train
from model.bokehflow import BokehFlow, BokehFlowConfig, variant
from model.bokehflow.bptt import clip_losses, lenses_of
from model.bokehflow.checkpoint import CONVENTIONS
from model.bokehflow.losses import BokehLoss, LossWeights
from model.bokehflow.task import BokehFlowTask, decays
from model.data.samples import ClipBatch, collate
from model.data.sampling import ClipSettings
from model.data.scene_manifest import find_scenes
from model.data.scenes import ClipDataset
from model.errors import CheckpointError, TrainingDivergedError
from model.recurrent import recurrence
from model.training.checkpoint import find_resume, prune
from model.training.gradients import Measured, backpropagate
from model.training.network_file import find_model, load_model, step_folders
from model.training.optim import Ema, learning_rate, make_adamw
from model.training.settings import OptimSettings, load_settings, settings_from
from model.training.trainer import Trainer
from pipeline.errors import InputError, UsageError

TINY = {
    "variant": "demo",
    "channels": 16,
    "stem_channels": 8,
    "heads": 1,
    "head_dim": 8,
    "depth_blocks": 1,
    "bokeh_blocks": 1,
    "dropout": 0.1,
}


@pytest.fixture(scope="module")
def scenes() -> Path:
    return shared_scenes()


@pytest.fixture(autouse=True)
def no_cached_weights(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def write_config(path: Path, scenes: Path, out_dir: Path, **run: object) -> Path:
    sections = {
        "model": TINY,
        "data": {"root": str(scenes), "clip_frames": 2, "crop_width": 24, "crop_height": 16},
        "optim": {"lr": 1e-3, "warmup_steps": 2},
        "run": {
            "out_dir": str(out_dir),
            "steps": 6,
            "batch_size": 2,
            "micro_batch_size": 1,
            "backprop_frames": 1,
            "device": "cpu",
            "log_every": 1,
            "validate_every": 4,
            "save_every": 2,
            "val_clips": 1,
            "val_frames": 2,
            **run,
        },
    }
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path.write_text("\n".join(lines))
    return path


def losses(out_dir: Path) -> list[dict]:
    rows = [json.loads(line) for line in (out_dir / "train.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "frames_per_s"} for row in rows]


def interrupt_after(monkeypatch, steps: int, number: int = signal.SIGUSR2) -> None:
    """A real signal to this process, while step `steps` is in progress."""
    step = Trainer._step

    def signalling(self, at, stream):
        if at + 1 == steps:
            os.kill(os.getpid(), number)
        return step(self, at, stream)

    monkeypatch.setattr(Trainer, "_step", signalling)


def tensors_equal(first: Path, second: Path) -> bool:
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- resume -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_run(scenes: Path, tmp_path_factory) -> Path:
    """Six steps without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    assert train.main(["--config", str(write_config(folder / "c.toml", scenes, folder / "run"))]) == 0
    return folder / "run"


@pytest.mark.parametrize(("stop_at", "number"), [(3, signal.SIGUSR2), (4, signal.SIGTERM)])
def test_an_interrupted_run_gives_the_same_losses_and_weights(
    scenes: Path, whole_run: Path, tmp_path: Path, monkeypatch, capsys, stop_at: int, number: int
):
    config = write_config(tmp_path / "c.toml", scenes, tmp_path / "run")
    with monkeypatch.context() as context:
        interrupt_after(context, stop_at, number)
        assert train.main(["--config", str(config)]) == 75
    assert step_folders(tmp_path / "run")[-1][0] == stop_at
    told = json.loads((tmp_path / "run/stopped.json").read_text())
    assert told == {"step": stop_at, "reason": signal.Signals(number).name}
    assert len([row for row in losses(tmp_path / "run") if row["kind"] == "train"]) == stop_at
    assert train.main(["--config", str(config)]) == 0
    assert f"resuming from {tmp_path}/run/checkpoints/step_00000{stop_at}" in capsys.readouterr().out
    assert not (tmp_path / "run/stopped.json").exists()
    assert losses(tmp_path / "run") == losses(whole_run)
    assert [row["step"] for row in losses(tmp_path / "run") if row["kind"] == "train"] == list(range(6))
    for name in ("model.safetensors", "resume/weights.safetensors", "resume/optimizer.safetensors"):
        assert tensors_equal(*(out / "checkpoints/step_000006" / name for out in (tmp_path / "run", whole_run))), name


def test_damaged_checkpoints_are_skipped_with_a_message(scenes: Path, whole_run: Path, tmp_path: Path, capsys):
    shutil.copytree(whole_run, tmp_path / "run")
    newest = tmp_path / "run/checkpoints/step_000006"
    weights = newest / "resume" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    config = write_config(tmp_path / "c.toml", scenes, tmp_path / "run")
    assert train.main(["--config", str(config)]) == 0
    said = capsys.readouterr().out
    assert "skipped: " in said and "weights.safetensors is damaged" in said
    assert "step_000004" in said
    assert losses(tmp_path / "run") == losses(whole_run)
    assert tensors_equal(newest / "model.safetensors", whole_run / "checkpoints/step_000006/model.safetensors")


@pytest.mark.parametrize("damage", ["gone", "no json", "foreign", "fields"])
def test_every_kind_of_damage_is_noticed(whole_run: Path, tmp_path: Path, damage: str):
    from model.training.checkpoint import read_state

    folder = tmp_path / "step_000006"
    shutil.copytree(whole_run / "checkpoints/step_000006", folder)
    state = folder / "resume" / "state.json"
    assert read_state(folder).step == 6 and read_state(folder).samples == 12
    if damage == "gone":
        (folder / "resume" / "average.safetensors").unlink()
    elif damage == "no json":
        state.write_text("{")
    else:
        stored = json.loads(state.read_text())
        stored |= {"format": "other"} if damage == "foreign" else {"fields": {"run": {"seed": 9}}}
        state.write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match=r"whole checkpoint|has format 'other'|is damaged"):
        read_state(folder)


def test_a_finished_run_does_nothing_more(scenes: Path, whole_run: Path, tmp_path: Path):
    shutil.copytree(whole_run, tmp_path / "run")
    before = (tmp_path / "run/train.jsonl").read_bytes()
    config = write_config(tmp_path / "c.toml", scenes, tmp_path / "run")
    assert train.main(["--config", str(config)]) == 0
    assert (tmp_path / "run/train.jsonl").read_bytes() == before


def test_resuming_with_other_settings_names_the_first_difference(scenes: Path, whole_run: Path, tmp_path: Path, capsys):
    shutil.copytree(whole_run, tmp_path / "run")
    config = write_config(tmp_path / "c.toml", scenes, tmp_path / "run")
    assert train.main(["--config", str(config), "--set", "optim.lr=0.01", "--set", "run.seed=3"]) == 2
    assert "other settings: optim.lr is 0.01 now and was 0.001" in capsys.readouterr().err
    # what changes no loss may change: another folder of threads, logs or micro-batches is the same run
    assert train.main(["--config", str(config), "--set", "run.log_every=3", "--set", "data.workers=1"]) == 0


def test_changed_training_scenes_are_said(scenes: Path, whole_run: Path, tmp_path: Path, capsys):
    shutil.copytree(whole_run, tmp_path / "run")
    shutil.copytree(scenes, tmp_path / "output")
    shutil.copytree(next((tmp_path / "output").glob("scene[0-9]")), tmp_path / "output" / "extra")
    (tmp_path / "output" / "extra" / "split.txt").write_text("train\n")
    config = write_config(tmp_path / "c.toml", tmp_path / "output", tmp_path / "run")
    assert train.main(["--config", str(config)]) == 0
    assert "the training data are not those of the checkpoint" in capsys.readouterr().out


# --- what a run leaves ------------------------------------------------------------------------------------------------


def test_what_a_run_leaves(whole_run: Path):
    assert [step for step, _ in step_folders(whole_run)] in ([4, 6], [2, 4, 6])  # the last two and the best
    best = json.loads((whole_run / "best.json").read_text())
    validations = [row for row in losses(whole_run) if row["kind"] == "validation"]
    assert [row["step"] for row in validations] == [3, 5]
    assert best["psnr_db"] == max(row["psnr_db"] for row in validations)
    assert find_model(whole_run).parent.name == f"step_{best['step']:06d}"
    assert len(list((whole_run / "pictures").glob("*.png"))) == 2
    assert list((whole_run / "tensorboard").glob("events*"))
    assert json.loads((whole_run / "settings.json").read_text())["run"]["steps"] == 6
    row = losses(whole_run)[0]
    assert {
        "l1",
        "ssim",
        "depth",
        "temporal",
        "loss",
        "grad_norm",
        "lr",
        "clipped_share",
        "lens_values_outside",
    } <= set(row)


def test_the_log_says_which_backend_ran(scenes: Path, tmp_path: Path):
    recurrence._choose.cache_clear()  # it is said once per process
    config = write_config(tmp_path / "c.toml", scenes, tmp_path / "run", steps=1)
    assert train.main(["--config", str(config)]) == 0
    said = (tmp_path / "run/train.log").read_text()
    assert said.count("gated delta recurrence: backend torch (the device is cpu)") == 1


def test_a_perceptual_term_that_came_or_went_is_another_run(scenes: Path, whole_run: Path, tmp_path: Path, capsys):
    """With no setting changed: the file of weights is there now."""
    shutil.copytree(whole_run, tmp_path / "run")
    config = write_config(tmp_path / "c.toml", scenes, tmp_path / "run")
    state = json.loads((tmp_path / "run/checkpoints/step_000006/resume/state.json").read_text())
    assert state["fields"]["loss"]["perceptual"] == 0 and state["fields"]["run"]["precision"] == "float32"
    trainer = Trainer(load_settings(config), signals=_quiet())
    assert isinstance(trainer.task, BokehFlowTask)
    trainer.task.loss.vgg = torch.nn.Identity()
    fields = trainer._resolved_fields()
    with pytest.raises(UsageError, match=r"loss.perceptual is 0.1 now and was 0.0"):
        find_resume(tmp_path / "run", fields, print)


def test_a_checkpoint_says_what_its_numbers_mean(whole_run: Path):
    path = find_model(whole_run / "checkpoints/step_000006")
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    assert BokehFlowConfig.from_dict(json.loads(metadata["config"])) == settings_from({"model": TINY}).model
    assert json.loads(metadata["conventions"]) == CONVENTIONS and "FULL frame" in CONVENTIONS["px_per_mm"]
    loaded = load_model(whole_run / "checkpoints/step_000006")
    assert loaded.step == 6 and loaded.training["optim"]["lr"] == 1e-3 and not loaded.net.training
    assert loaded.training["trained_on"] == {"kind": "scenes", "scenes": 1}
    average = load_file(whole_run / "checkpoints/step_000006/resume/average.safetensors")
    assert all(torch.equal(parameter, average[name]) for name, parameter in loaded.net.named_parameters())


def test_checkpoints_of_other_networks_and_projects(whole_run: Path, tmp_path: Path, scenes: Path, capsys):
    source = find_model(whole_run)
    with safe_open(source, "pt") as opened:
        metadata = opened.metadata()
    weights = load_file(source)
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    with pytest.raises(CheckpointError, match="no checkpoint of this project: its format is None"):
        load_model(path)
    wider = json.dumps({**json.loads(metadata["config"]), "channels": 24})
    save_file(weights, path, {**metadata, "config": wider})
    with pytest.raises(CheckpointError, match="not those of its config"):
        load_model(path)
    save_file(weights, path, {**metadata, "config": '{"wheels": 4}'})
    with pytest.raises(CheckpointError, match="unknown settings wheels"):
        load_model(path)
    path.write_bytes(source.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_model(path)
    config = write_config(tmp_path / "c.toml", scenes, tmp_path / "run", init_from=str(source))
    assert train.main(["--config", str(config), "--set", "model.channels=24"]) == 2
    assert "a network of another config" in capsys.readouterr().err


def test_init_from_starts_with_the_given_weights(whole_run: Path, tmp_path: Path, scenes: Path):
    config = write_config(tmp_path / "c.toml", scenes, tmp_path / "run", init_from=str(whole_run))
    trainer = Trainer(load_settings(config), signals=_quiet())
    expected = load_file(find_model(whole_run))
    assert all(torch.equal(parameter, expected[name]) for name, parameter in trainer.net.named_parameters())


def _quiet():
    from pipeline.signals import StopSignals

    return StopSignals()


def test_pruning_keeps_the_last_and_the_best_and_clears_leftovers(tmp_path: Path):
    for step in (2, 4, 6, 8):
        (tmp_path / "checkpoints" / f"step_{step:06d}").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".step_000009.1.partial").mkdir()
    prune(tmp_path, 2, 8, 4)
    assert [step for step, _ in step_folders(tmp_path)] == [4, 6, 8]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_pruning_never_keeps_damaged_checkpoints_instead_of_whole_ones(tmp_path: Path):
    """A run that skipped the damaged 20 and 30 and went on from 10 to 12 keeps what it can resume from."""
    for step in (10, 12, 20, 30):
        (tmp_path / "checkpoints" / f"step_{step:06d}").mkdir(parents=True)
    prune(tmp_path, 2, 12, None)
    assert [step for step, _ in step_folders(tmp_path)] == [10, 12]


@pytest.mark.parametrize(
    ("parameter", "what"),
    [("correction.last.bias", "holds NaN or Inf"), ("depth_head.last.bias", "cannot be rendered")],
)
def test_nan_weights_are_an_error_at_validation_not_a_best_score(
    scenes: Path, tmp_path: Path, monkeypatch, capsys, parameter: str, what: str
):
    """It diverges in the very step before a validation: no 120 dB, no best checkpoint, an error that names the clip."""
    step = Trainer._step

    def diverging(self, at, stream):
        found = step(self, at, stream)
        self.ema.weights[parameter].fill_(float("nan"))
        return found

    monkeypatch.setattr(Trainer, "_step", diverging)
    config = write_config(tmp_path / "c.toml", scenes, tmp_path / "run", validate_every=1)
    assert train.main(["--config", str(config)]) == 1
    error = capsys.readouterr().err
    assert "step 1, validation: " in error and "frame 0" in error and what in error and "lower optim.lr" in error
    assert not (tmp_path / "run/best.json").exists() and not step_folders(tmp_path / "run")


# --- learning ---------------------------------------------------------------------------------------------------------


def one_batch(scenes: Path, clip: ClipSettings, count: int) -> ClipBatch:
    dataset = ClipDataset(find_scenes(scenes, "train"), clip)
    return collate([dataset[number] for number in range(count)])


def followed(
    net: BokehFlow, loss: BokehLoss, batch: ClipBatch, *, step: int = 0, weight: float = 1.0, backprop_frames: int = 1
) -> Measured:
    """All losses of a batch, backwards."""
    return backpropagate(clip_losses(net, loss, batch, step=step, backprop_frames=backprop_frames), weight)


def test_the_demo_network_overfits_one_batch(scenes: Path):
    torch.manual_seed(0)
    net = BokehFlow(variant("demo")).train()
    optimizer = make_adamw(net.named_parameters(), OptimSettings(lr=3e-3), decays)
    loss = BokehLoss(LossWeights())
    batch = one_batch(scenes, ClipSettings(clip_frames=2, crop_width=32, crop_height=24), 2)
    totals = []
    for step in range(24):
        optimizer.zero_grad()
        found = followed(net, loss, batch, step=step, backprop_frames=2).values
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        assert all(abs(value) < float("inf") for value in found.values())
        assert set(found) >= {"l1", "ssim", "depth", "temporal"}
        totals.append(found["loss"])
    assert totals[-1] < 0.5 * totals[0], totals


def test_truncated_backpropagation_cuts_gradients_and_carries_the_state(scenes: Path):
    """Against a loop written out: frames one at a time, detached between; and the whole clip at once."""
    config = settings_from({"model": {**TINY, "dropout": 0.0}}).model
    batch = one_batch(scenes, ClipSettings(clip_frames=3, crop_width=24, crop_height=16), 1)
    weights = LossWeights(temporal=0.0)
    loss, lens = BokehLoss(weights), lenses_of(batch)
    for cut in (True, False):
        torch.manual_seed(1)
        net = BokehFlow(config).train()
        followed(net, loss, batch, backprop_frames=1 if cut else 3)
        found = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
        net.zero_grad()
        state, total = None, 0.0
        for t in range(3):
            out, state = net(batch.frames[:, t], lens, state)
            one = slice(t, t + 1)
            terms = loss(out.bokeh[:, None], batch.bokeh[:, one], out.depth_m[:, None], batch.depth_m[:, one])
            total = total + terms.total / 3
            if cut:
                state = state.detach()
        total.backward()
        for name, p in net.named_parameters():
            if p.grad is not None:
                assert torch.allclose(found[name], p.grad, rtol=1e-3, atol=1e-6), name


def test_micro_batches_add_up_to_the_batch(scenes: Path):
    config = settings_from({"model": {**TINY, "dropout": 0.0}}).model
    dataset = ClipDataset(find_scenes(scenes, "train"), ClipSettings(clip_frames=2, crop_width=24, crop_height=16))
    clips = [dataset[number] for number in range(2)]
    gradients, totals = [], []
    for groups in ([clips], [clips[:1], clips[1:]]):
        torch.manual_seed(1)
        net, loss = BokehFlow(config).train(), BokehLoss(LossWeights())
        total = 0.0
        for group in groups:
            total += followed(net, loss, collate(group), weight=1 / len(groups), backprop_frames=2).values["loss"]
        totals.append(total)
        gradients.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-3, atol=1e-6), name


def test_learning_rate_rises_and_falls():
    settings = OptimSettings(lr=1.0, min_lr_share=0.1, warmup_steps=4)
    assert [learning_rate(step, 20, settings) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert learning_rate(12, 20, settings) == pytest.approx(0.55)
    assert learning_rate(20, 20, settings) == pytest.approx(0.1)


def test_a_step_clips_schedules_and_averages(scenes: Path, tmp_path: Path, monkeypatch):
    """The prototype never clipped (defect 4). What reaches AdamW has norm 1 and the rate of the step; the average follows."""
    config = write_config(tmp_path / "c.toml", scenes, tmp_path / "run", steps=3)
    trainer = Trainer(load_settings(config, ["optim.clip_norm=1e-3"]), signals=_quiet())
    received, lives = [], [{name: p.detach().clone() for name, p in trainer.net.named_parameters()}]
    (scheduled,) = trainer.task.optimizers
    adamw = scheduled.optimizer.step

    def watched(*args, **kwargs):
        norms = [p.grad.norm() for p in trainer.net.parameters() if p.grad is not None]
        received.append((float(torch.stack(norms).norm()), [g["lr"] for g in scheduled.optimizer.param_groups]))
        adamw(*args, **kwargs)
        lives.append({name: p.detach().clone() for name, p in trainer.net.named_parameters()})

    monkeypatch.setattr(scheduled.optimizer, "step", watched)
    trainer.run()
    logged = [row for row in losses(tmp_path / "run") if row["kind"] == "train"]
    optim = trainer.settings.optim
    assert len(received) == len(logged) == 3
    for step, ((norm, rates), row) in enumerate(zip(received, logged, strict=True)):
        assert row["grad_norm"] > 2e-3 and norm == pytest.approx(1e-3, rel=1e-3)
        rate = learning_rate(step, 3, optim)
        assert rates == pytest.approx([rate, rate, rate * optim.scalar_lr_scale]) and row["lr"] == rate
    assert len({rates[0] for _, rates in received}) > 1
    average = load_file(tmp_path / "run/checkpoints/step_000003/resume/average.safetensors")
    for name, expected in lives[0].items():
        for step in range(3):
            expected = torch.lerp(expected, lives[step + 1][name], 1 - min(optim.ema_decay, (2 + step) / (11 + step)))
        assert torch.allclose(average[name], expected, rtol=1e-5, atol=1e-7), name


def test_norms_biases_and_gates_do_not_decay():
    net = BokehFlow(variant("demo"))
    decaying = {name for name, p in net.named_parameters() if decays(name, p)}
    assert {"stem.layers.0.weight", "depth_blocks.0.feed.0.weight", "fusions.0.values.0.weight"} <= decaying
    for part in ("norm", "bias", "gate", "initial", "keep", "floor", "logit"):
        assert not any(part in name for name in decaying), part
    groups = make_adamw(net.named_parameters(), OptimSettings(weight_decay=0.3, scalar_lr_scale=7), decays).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0, 0.0]
    assert [group["lr_scale"] for group in groups] == [1, 1, 7]
    floor = net.bokeh_blocks[0].scans.decay.floor
    assert any(p is floor for p in groups[2]["params"]) and {p.ndim for p in groups[2]["params"]} == {0}
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))


def test_the_average_is_the_formula():
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(net.weight, 1.0)
    ema, expected = Ema(net, 0.9), 1.0
    for step in range(120):
        torch.nn.init.constant_(net.weight, float(step))
        ema.update(net, step)
        decay = min(0.9, (2 + step) / (11 + step))
        expected = decay * expected + (1 - decay) * step
    assert ema.weights["weight"].item() == pytest.approx(expected, rel=1e-5)
    ema.copy_to(net)
    assert net.weight.item() == pytest.approx(expected, rel=1e-5)


# --- what stops a run -------------------------------------------------------------------------------------------------


def test_a_batch_with_nan_is_named(scenes: Path):
    batch = one_batch(scenes, ClipSettings(clip_frames=1, crop_width=24, crop_height=16), 2)
    net, loss = BokehFlow(settings_from({"model": TINY}).model), BokehLoss(LossWeights())
    for name in ("frames", "bokeh", "depth_m"):
        values = getattr(batch, name).clone()
        values[1, 0, 0, 3, 3] = float("nan")
        with pytest.raises(InputError) as caught:
            followed(net, loss, replace(batch, **{name: values}))
        assert batch.names[1] in str(caught.value) and batch.names[0] not in str(caught.value)
        assert name in str(caught.value)


def test_a_network_that_diverged_stops_with_step_term_and_samples(scenes: Path):
    batch = one_batch(scenes, ClipSettings(clip_frames=1, crop_width=24, crop_height=16), 2)
    loss = BokehLoss(LossWeights())
    for parameter, what in (
        ("correction.last.bias", "the loss term 'l1' is nan"),
        ("depth_head.last.bias", "rendered"),
    ):
        net = BokehFlow(settings_from({"model": TINY}).model).train()
        with torch.no_grad():
            net.get_parameter(parameter).fill_(float("nan"))
        with pytest.raises(TrainingDivergedError) as caught:
            followed(net, loss, batch, step=41)
        message = str(caught.value)
        assert "step 41" in message and what in message and all(name in message for name in batch.names)


def test_an_infinite_gradient_stops_the_run(scenes: Path, tmp_path: Path, capsys):
    config = write_config(tmp_path / "c.toml", scenes, tmp_path / "run")
    settings = load_settings(config)
    trainer = Trainer(settings, _quiet())
    trainer.net.depth_norm.bias.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))
    with pytest.raises(
        TrainingDivergedError,
        match=r"depth_norm.bias is not a finite number; samples of this process: scene[^;.]*; scene",
    ):
        trainer.run()


def test_a_scene_deleted_during_training_is_a_clear_error(scenes: Path, tmp_path: Path, monkeypatch, capsys):
    shutil.copytree(scenes, tmp_path / "output")
    config = write_config(tmp_path / "c.toml", tmp_path / "output", tmp_path / "run", steps=40)
    step = Trainer._step

    def deleting(self, at, stream):
        if at == 1:
            shutil.rmtree(tmp_path / "output" / find_scenes(tmp_path / "output", "train").scenes[0].scene_id)
        return step(self, at, stream)

    monkeypatch.setattr(Trainer, "_step", deleting)
    assert train.main(["--config", str(config)]) == 1
    error = capsys.readouterr().err
    assert "error: sample " in error and "frame_000" in error and "does not decode" in error


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=-1", "optim.lr must be finite and > 0, got -1"),
        ("optim.rate=1", "unknown setting optim.rate; [optim] has lr, "),
        ("nothing.x=1", "unknown section 'nothing'; sections are model, data, loss, optim, run"),
        ("task.name=bokehflux", "no network family 'bokehflux'; task.name must be one of: bokehdiff, bokehflow"),
        ("task.kind=bokehflow", "unknown setting task.kind; [task] has name"),
        ("task.name=3", "task.name must be of type str, got 3"),
        ("run.steps=many", "run.steps must be of type int, got 'many'"),
        ("run.steps=true", "run.steps must be of type int, got True"),
        ("run.micro_batch_size=4", "a multiple of micro_batch_size"),
        ("run.device=cuda", "sees no CUDA device here"),
        ("run.device=cuda:1", "CUDA"),
        ("run.precision=fp8", "run.precision must be one of auto, float32, bf16"),
        ("model.variant=huge", "variant must be one of"),
        ("model.wheels=4", "unknown settings wheels"),
        ("model.channels=wide", "model.channels must be of type int, got 'wide'"),
        ("data.crop_width=10", "at least 11x11 px"),
        ("data.crop_width=96", "smaller than the 96x16 crop"),
        ("data.clip_frames=60", "clips need 60"),
        ("data.root=nowhere", "no folder of generated scenes nowhere"),
        ("data.kind=realbokeh", 'set model.coc_model = "thin_lens"'),
        ("data.kind=films", "data.kind must be one of scenes, realbokeh"),
        ("model.coc_model=thin_lens", "never mix"),
        ("loss.perceptual=0.1", "there are no VGG-16 weights"),
        ("loss.depth=-1", "loss weight depth must be finite"),
        ("optim.lr", "--set takes SECTION.KEY=VALUE"),
    ],
)
def test_impossible_settings_are_refused(scenes: Path, tmp_path: Path, capsys, override: str, message: str):
    if "cuda" in override and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    config = write_config(tmp_path / "c.toml", scenes, tmp_path / "run")
    assert train.main(["--config", str(config), "--set", override]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_malformed_configs_are_refused(tmp_path: Path, capsys):
    assert train.main(["--config", str(tmp_path / "absent.toml")]) == 2
    (tmp_path / "bad.toml").write_text("[model\n")
    assert train.main(["--config", str(tmp_path / "bad.toml")]) == 2
    error = capsys.readouterr().err
    assert "cannot be read: No such file" in error and "is not TOML" in error
    (tmp_path / "flat.toml").write_text('model = "nano"\n')
    assert train.main(["--config", str(tmp_path / "flat.toml")]) == 2
    assert "model must be a section, [model], with variant = ..., got 'nano'" in capsys.readouterr().err
    (tmp_path / "latin.toml").write_bytes("# Unschärfe\n[model]\n".encode("latin-1"))
    assert train.main(["--config", str(tmp_path / "latin.toml")]) == 2
    assert "is not TOML, in UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((REPOSITORY / "model" / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_name_their_folder(path: Path):
    settings = load_settings(path, ["run.seed=5"])
    assert settings.run.seed == 5
    if hasattr(settings.loss, "perceptual_weights"):
        settings = load_settings(path, ["loss.perceptual_weights=a/b.pth"])
        assert settings.loss.perceptual_weights == "a/b.pth"
    home = "demo/runs" if path.stem == "demo" else "runs"  # what `make demo` makes lies together
    assert settings.run.out_dir == f"{home}/{path.stem}"
    assert settings.run.batch_size % settings.run.micro_batch_size == 0


def test_photographs_can_be_learned_from(tmp_path: Path, scenes: Path):
    from test_model_data import write_pair

    write_pair(tmp_path / "real")
    write_pair(tmp_path / "real", "8", split="val")
    config = write_config(tmp_path / "c.toml", tmp_path / "real", tmp_path / "run")
    more = ["data.kind=realbokeh", "data.clip_frames=1", "model.coc_model=thin_lens", "run.steps=2"]
    settings = load_settings(config, more)
    Trainer(settings, _quiet()).run()
    rows = [row for row in losses(settings.out_dir) if row["kind"] == "train"]
    assert len(rows) == 2 and "depth" not in rows[0] and "temporal" not in rows[0] and rows[1]["loss"] > 0


# --- several processes ------------------------------------------------------------------------------------------------

_TWO = """
import json, sys
from pathlib import Path
import torch
import model
from model.training.settings import load_settings
from model.training.trainer import Trainer
from pipeline.signals import StopSignals

if __name__ == "__main__":
    trainer = Trainer(load_settings(Path(sys.argv[1]), sys.argv[3:]), StopSignals())
    trainer.run()
    total = torch.cat([p.detach().flatten() for p in trainer.net.parameters()])
    Path(sys.argv[1]).with_name(f"rank{trainer._accelerator.process_index}.json").write_text(
        json.dumps([bool(total.isfinite().all()), float(total.double().sum()), float(total.double().square().sum())])
    )
    model.__path__.append(sys.argv[2])
    Trainer(load_settings(Path(sys.argv[1]).with_name("duel.toml")), StopSignals()).run()
    trainer.close()
"""


def test_two_processes_take_the_same_steps_stay_in_step_and_resume(scenes: Path, tmp_path: Path, monkeypatch):
    """BokehFlow; and a family whose parameters are frozen, or without a gradient anywhere, for a while: they stand still."""
    import test_task

    (tmp_path / "two.py").write_text(_TWO)
    config = write_config(tmp_path / "c.toml", scenes, tmp_path / "two")
    more = ["model.dropout=0.0", "run.threads=1"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    command = [*command, "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}

    def launch(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    test_task.write_config(tmp_path / "duel.toml", tmp_path / "duel_two")
    launch(str(tmp_path / "two.py"), str(config), str(test_task.FAMILIES), *more)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0] == ranks[1] and ranks[0][0] is True
    alone = load_settings(config, [*more, f"run.out_dir={tmp_path}/one"])
    Trainer(alone, _quiet()).run()
    for together, single in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        for name in set(single) & {"loss", "l1", "ssim", "depth", "grad_norm", "psnr_db"}:
            assert together[name] == pytest.approx(single[name], rel=2e-3), (single["step"], name)
    monkeypatch.setattr(model, "__path__", [*model.__path__, str(test_task.FAMILIES)])
    Trainer(load_settings(tmp_path / "duel.toml", [f"run.out_dir={tmp_path}/duel_one"]), _quiet()).run()
    found, alone_found = (
        load_file(find_model(tmp_path / name / "checkpoints/step_000010")) for name in ("duel_two", "duel_one")
    )
    for name, expected in alone_found.items():
        assert torch.allclose(found[name], expected, rtol=1e-4, atol=1e-5), name
    shutil.rmtree(tmp_path / "two/checkpoints/step_000006")
    flags = [text for value in more for text in ("--set", value)]
    said = launch("-m", "model.train", "--config", str(config), *flags)
    assert "step_000004" in said and said.count("resuming from") == 1
    assert (tmp_path / "two/checkpoints/step_000006/model.safetensors").is_file()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_a_gpu_in_bf16_resumes(scenes: Path, tmp_path: Path, monkeypatch, capsys):
    config = write_config(tmp_path / "c.toml", scenes, tmp_path / "run", device="cuda")
    with monkeypatch.context() as context:
        interrupt_after(context, 3)
        assert train.main(["--config", str(config)]) == 75
    assert train.main(["--config", str(config)]) == 0
    assert "1 x cuda, bf16 autocast" in capsys.readouterr().out
    rows = [row for row in losses(tmp_path / "run") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(6)) and all(row["loss"] > 0 for row in rows)
