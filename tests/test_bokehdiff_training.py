"""Training BokehDiff on a small SDXL: pairs, optimisers, exact resume, and that the engine draws what was trained."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_sdxl
import torch
from conftest import texture
from PIL import Image
from safetensors.torch import load_file

from model import evaluate, train
from model.bokehdiff import published, task, tiny
from model.bokehdiff.config import BokehDiffConfig
from model.bokehdiff.cutouts import main as make_cutouts
from model.bokehdiff.export import export
from model.bokehdiff.losses import BokehDiffLoss, BokehDiffLossWeights, edge_loss
from model.bokehdiff.measure import artist
from model.bokehdiff.network import BokehDiffNet, find_base
from model.bokehdiff.pairs import Pairs, PairSettings
from model.bokehdiff.sources import Mixed, pair_of
from model.bokehdiff.summary import adapter_size, count, networks
from model.bokehdiff.task import BokehDiffTask
from model.training.network_file import load_model
from model.training.settings import load_settings
from model.training.trainer import Trainer
from pipeline.engines import load_engine
from pipeline.engines.base import BokehRenderer
from pipeline.engines.bokehdiff.engine import Blur, BokehDiff
from pipeline.engines.bokehdiff.lora import adapted_layers
from pipeline.engines.bokehdiff.options import BASE
from pipeline.engines.bokehdiff.pisa import training_contrast
from pipeline.engines.bokehdiff.vae import trained_shapes
from pipeline.errors import InputError, UsageError
from pipeline.optics import Lens, defocus_px
from pipeline.signals import StopSignals

STEPS, GAN_STEP = 4, 2
SETTINGS = PairSettings(crop=32, samples=9, strength_px=4.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sdxl.write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fg/ and bg/ out of three textures."""
    root = tmp_path_factory.mktemp("data")
    (root / "pictures").mkdir()
    for number in range(3):
        Image.fromarray(texture(40 + 8 * number, 56)).save(root / "pictures" / f"{number}.png")
    assert make_cutouts([str(root / "pictures"), "--out", str(root / "made"), "--count", "3"]) == 0
    return root / "made"


@pytest.fixture(autouse=True, scope="module")
def own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BOKEHFLOW_WEIGHTS", "HF_HOME", "HF_HUB_CACHE"):
            patch.delenv(name, raising=False)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "bokehdiff_cache"))
        yield


def given(weights: Path, data: Path, out: Path, **more: object) -> list[str]:
    """--set flags of a small run."""
    values: dict[str, object] = {
        "model.base": str(weights / BASE), "model.rank": 3, "data.pairs": str(data), "data.crop": 32, "data.samples": 9,
        "data.workers": 1, "loss.lpips": 0.0, "loss.trunk": "random", "loss.gan_step": GAN_STEP, "optim.lr": 0.02,
        "run.out_dir": str(out), "run.steps": STEPS, "run.log_every": 1, "run.save_every": 1, "run.keep_last": 9,
        "run.validate_every": STEPS, "run.val_pairs": 1, "run.device": "cpu", "run.threads": 1,
    }  # fmt: skip
    values |= more
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def config(folder: Path) -> Path:
    path = folder / "c.toml"
    path.write_text('[task]\nname = "bokehdiff"\n')
    return path


@pytest.fixture(scope="module")
def run(weights: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a stop, every checkpoint kept."""
    folder = tmp_path_factory.mktemp("run")
    flags = [part for text in given(weights, data, folder / "run") for part in ("--set", text)]
    assert train.main(["--config", str(config(folder)), *flags]) == 0
    return folder / "run"


def small_task(weights: Path, data: Path, tmp_path: Path, **more: object) -> BokehDiffTask:
    settings = load_settings(config(tmp_path), given(weights, data, tmp_path / "run", **more))
    return BokehDiffTask(settings, torch.device("cpu"))


# Pairs


def test_a_pair_follows_from_its_number(data: Path):
    first, again, other = Pairs(data, SETTINGS)[3], Pairs(data, SETTINGS)[3], Pairs(data, SETTINGS)[4]
    assert torch.equal(first.bokeh, again.bokeh) and first.name == again.name and first.name != other.name
    assert first.sharp.shape == first.bokeh.shape == (3, 32, 32) and first.disparity.shape == (32, 32)
    kept = Pairs(data, replace(SETTINGS, pool=2))
    assert kept[5] is kept[1]


def test_held_out_files_are_never_drawn(data: Path):
    trained, held = Pairs(data, SETTINGS), Pairs(data, replace(SETTINGS, held_out=True))
    for kind in ("cutouts", "backgrounds"):
        assert getattr(trained, kind) and getattr(held, kind)
        assert not set(getattr(trained, kind)) & set(getattr(held, kind))


def test_what_is_in_focus_stays_sharp_and_the_rest_does_not(data: Path):
    pairs = Pairs(data, replace(SETTINGS, strength_px=20.0, samples=64, light_share=0.0))
    seen = 0
    for number in range(12):
        sample = pairs[number]
        radius = (sample.disparity - sample.focus).abs() * sample.gain_px
        front = radius == 0
        if front.sum() < 100 or radius.max() < 8:
            continue
        inner = torch.nn.functional.max_pool2d(1.0 - front[None].float(), 5, 1, 2)[0] == 0
        off = (sample.bokeh - sample.sharp).abs().mean(0)
        if inner.any():
            assert off[inner].mean() < 0.003 and off[radius > 6].mean() > 0.02
            seen += 1
    assert seen, "focus was on a foreground at least once"


def test_published_labels_fall_short(data: Path):
    exact, short = (Pairs(data, replace(SETTINGS, gain=gain)) for gain in ("exact", "published"))
    for number in range(4):
        reach = max(exact[number].focus, 1 - exact[number].focus)
        share = short[number].gain_px / exact[number].gain_px / reach
        assert 2 / 3 <= share <= 1 and torch.equal(short[number].bokeh, exact[number].bokeh)


def test_several_slanted_foregrounds(data: Path):
    pairs = Pairs(data, replace(SETTINGS, foregrounds=3, slanted=True))
    assert any(len(pairs[n].disparity.unique()) > 40 for n in range(6)), "planes that never cross, or it would raise"


def test_folders_that_cannot_be_used(data: Path, tmp_path: Path):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    for path in (folder / "bg").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match=r"bg must hold two or more all-in-focus pictures .*, found 0"):
        Pairs(folder, SETTINGS)
    shutil.copytree(data / "bg", folder / "bg", dirs_exist_ok=True)
    Image.fromarray(texture(20, 20)).save(folder / "fg" / "cutout_0001.png")
    with pytest.raises(InputError, match=r"cutout_0001.png has no alpha \(its mode is RGB\); a cut-out must be RGBA"):
        Pairs(folder, SETTINGS)
    Image.fromarray(np.dstack([texture(20, 20), np.full((20, 20), 255, np.uint8)])).save(folder / "fg/cutout_0001.png")
    with pytest.raises(InputError, match="cuts nothing out: its alpha is 255 everywhere"):
        Pairs(folder, SETTINGS)


def test_a_frame_of_a_scene_has_the_labels_radius():
    lens = Lens(f_m=0.05, f_number=2.0, focus_m=2.0)
    depth = torch.linspace(1, 9, 16 * 16).view(1, 16, 16)
    sample = pair_of("x", torch.zeros(3, 16, 16), torch.zeros(3, 16, 16), depth, lens, 20.0, 31.0)
    radius = (sample.disparity - sample.focus).abs() * sample.gain_px
    assert torch.allclose(radius, defocus_px(depth[0], lens, 20.0).abs(), rtol=1e-4, atol=1e-4)
    assert sample.disparity.max() == 1 and sample.max_radius_px == 31.0


def test_sources_are_mixed_by_their_shares(data: Path):
    class Constant:
        def __init__(self, name: str) -> None:
            self.name = name

        def __len__(self) -> int:
            return 5

        def __getitem__(self, number: int, /) -> str:
            return f"{self.name} {number}"

    mixed = Mixed([Constant("a"), Constant("b")], [3.0, 1.0], seed=0)  # type: ignore[list-item]
    drawn = [str(mixed[n]) for n in range(400)]
    assert 60 < sum(text.startswith("b") for text in drawn) < 140
    assert drawn == [str(mixed[n]) for n in range(400)] and drawn[7].endswith(" 7")


# Losses and optimisers


def test_the_edge_term_by_hand():
    made, bokeh, sharp = (torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(n)) for n in range(3))
    expected = 0.0
    for scale in (1, 2, 3):
        a, b, c = (
            x[0].numpy().reshape(3, 12 // scale, scale, 12 // scale, scale).mean((2, 4)) for x in (made, bokeh, sharp)
        )
        for axis in (1, 2):
            ours, true, before = (np.diff(x, axis=axis) for x in (a, b, c))
            expected += (np.abs(ours - true) * (1 + np.maximum(np.abs(true), np.abs(before)))).mean() / 2 / scale
    assert float(edge_loss(made, bokeh, sharp)) == pytest.approx(expected, rel=1e-5)
    assert float(edge_loss(bokeh, bokeh, sharp)) == 0


def test_missing_weights_of_a_loss_are_an_error_or_a_notice(tmp_path: Path):
    folder = str(tmp_path)
    assert "ST-LPIPS is off" in BokehDiffLoss(BokehDiffLossWeights(gan=0.0, weights=folder)).notice
    with pytest.raises(UsageError, match=r"loss.lpips is 5\.0 and its weights are missing"):
        BokehDiffLoss(BokehDiffLossWeights(lpips=5.0, gan=0.0, weights=folder))
    with pytest.raises(UsageError, match=r"loss\.trunk = st_lpips needs weights"):
        BokehDiffLoss(BokehDiffLossWeights(weights=folder))
    with pytest.raises(UsageError, match="holds no ConvNeXt"):
        BokehDiffLoss(BokehDiffLossWeights(lpips=0.0, trunk="convnext", trunk_folder=folder))


def test_a_convnext_is_a_trunk(tmp_path: Path):
    from transformers import ConvNextConfig, ConvNextModel

    ConvNextModel(ConvNextConfig(hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 1, 1])).save_pretrained(tmp_path)
    loss = BokehDiffLoss(BokehDiffLossWeights(lpips=0.0, trunk="convnext", trunk_folder=str(tmp_path)))
    assert loss.trunk is not None and loss.trunk.channels == 8
    assert loss.trunk(torch.zeros(1, 3, 64, 64)).shape == (1, 8, 2, 2)


def test_the_discriminator_trains_from_the_start_and_the_generator_listens_later(run: Path):
    rows = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "train"]
    assert [step for step, row in enumerate(rows) if "gan" in row] == list(range(GAN_STEP, STEPS))
    assert all(row["discriminator"] > 0 and row["grad_norm_discriminator"] > 0 for row in rows)
    assert all(row["lr_discriminator"] == 2 * row["lr_adapter"] == 20 * row["lr_vae"] for row in rows)
    assert [row["contrast"] for row in rows] == [training_contrast(step) for step in range(STEPS)] == [3, 5, 7, 9]


def test_gradients_of_the_vae_are_cleared_every_step(weights: Path, data: Path, tmp_path: Path, monkeypatch):
    """The same pair twice with weights that stand still: a gradient that was kept would come back doubled."""
    monkeypatch.setattr(task, "training_contrast", lambda step: 3.0)
    flags = given(weights, data, tmp_path / "run", **{"data.pool": 1, "loss.gan": 0.0, "run.steps": 2})
    trainer = Trainer(load_settings(config(tmp_path), flags), StopSignals())
    seen: list[torch.Tensor] = []
    coder = dict(trainer.net.named_parameters())["bokehdiff.vae.encoder.conv_in.weight"]
    for item in trainer.task.optimizers:
        record = (lambda: seen.append(coder.grad.clone())) if item.name == "vae" else (lambda: None)
        item.optimizer.step = record  # type: ignore[method-assign,assignment]
    trainer.run()
    assert len(seen) == 2 and seen[0].abs().max() > 0 and torch.equal(*seen)


def test_a_checkpointed_pass_has_the_hardness_of_its_step(weights: Path, data: Path, tmp_path: Path):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        made = small_task(weights, data, tmp_path, **{"run.checkpointing": checkpointing, "loss.gan": 0.0})
        batch = next(iter(made.batches(Trainer(made.settings, StopSignals())._plan, 0, 1)))
        [loss] = made.losses(batch, 5)
        loss.total.backward()
        net = made.net["bokehdiff"]
        assert net.processor.pisa.contrast == training_contrast(5) == 13 and loss.values["contrast"] == 13
        gradients.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-6) for name in gradients[0])


@pytest.mark.slow
def test_a_small_sdxl_overfits_one_pair(weights: Path, data: Path, tmp_path: Path):
    """The photograph is one that an adapter of this rank can draw."""
    torch.manual_seed(0)
    teacher, made = (
        small_task(weights, data, tmp_path, **{"loss.gan": 0.0, "optim.warmup_steps": 0, "run.steps": 100})
        for _ in range(2)
    )
    net = teacher.net["bokehdiff"]
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    batch = next(iter(made.batches(Trainer(made.settings, StopSignals())._plan, 0, 1)))
    pisa = made.settings.model.conventions(13.0)
    with torch.no_grad():
        drawn = net(batch.sharp * 2 - 1, batch.defocus, pisa)
    batch = replace(batch, bokeh=drawn / 2 + 0.5)
    found = []
    for _ in range(40):
        for item in made.optimizers:
            item.optimizer.zero_grad()
            for group in item.optimizer.param_groups:
                group["lr"] = 5e-3
        [loss] = made.losses(batch, 5)
        loss.total.backward()
        for item in made.optimizers:
            item.optimizer.step()
        found.append(loss.values["mse"])
    assert found[-1] < 0.2 * found[0], found


# Checkpoints


def test_a_resumed_run_is_the_run_without_a_stop(run: Path, weights: Path, data: Path, tmp_path: Path):
    """Adapter, VAE and discriminator, from a checkpoint just before the discriminator is listened to."""
    resumed = tmp_path / "run"
    shutil.copytree(run, resumed)
    for step in range(GAN_STEP + 1, STEPS + 1):
        shutil.rmtree(resumed / "checkpoints" / f"step_{step:06d}")
    flags = [part for text in given(weights, data, resumed) for part in ("--set", text)]
    assert train.main(["--config", str(config(tmp_path)), *flags]) == 0
    for name in ("model", "resume/weights", "resume/average", "resume/optimizer"):
        path = f"checkpoints/step_{STEPS:06d}/{name}.safetensors"
        ours, theirs = load_file(resumed / path), load_file(run / path)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours), name
    kept = load_file(run / f"checkpoints/step_{STEPS:06d}/resume/weights.safetensors")
    assert not any("base_layer" in key or "decoder" in key for key in kept), "no base in a checkpoint"
    assert any(key.startswith("discriminator.") for key in kept)


def test_a_checkpoint_publishes_what_the_engine_reads(run: Path, weights: Path):
    found = load_file(run / f"checkpoints/step_{STEPS:06d}/model.safetensors")
    layers = [f"unet.{name}.lora_{kind}.weight" for name in adapted_layers(tiny_sdxl.unet()) for kind in "AB"]
    assert set(found) == {*layers, *(f"vae.{name}" for name in trained_shapes(tiny_sdxl.vae()))}


def engine_of(folder: Path) -> BokehDiff:
    options = {"weights": str(folder), "dtype": "fp32"}
    return load_engine("bokeh", "bokehdiff", options, "cpu", BokehRenderer)  # type: ignore[return-value]


def test_the_engine_draws_what_was_trained(run: Path, weights: Path, tmp_path: Path):
    net = load_model(run).net
    assert isinstance(net, BokehDiffNet)
    export(net, tmp_path)
    (tmp_path / BASE).symlink_to(weights / BASE)
    sharp = texture(48, 64)
    asked = Blur(disparity=np.tile(np.linspace(0, 1, 64, dtype=np.float32), (48, 1)), focus=0.3, gain_px=40.0)
    engine = engine_of(tmp_path)
    drawn = engine.render_blur(sharp, asked, lambda: None)
    trained = artist(net, 1e7, "cpu").render(sharp, engine.defocus_of(sharp, asked), lambda: None)
    plain = BokehDiffNet(BokehDiffConfig(rank=3), find_base(str(weights / BASE))).eval()
    before = artist(plain, 1e7, "cpu").render(sharp, engine.defocus_of(sharp, asked), lambda: None)

    def difference(first: np.ndarray, second: np.ndarray) -> int:
        return int(np.abs(first.astype(int) - second).max())

    assert difference(drawn, trained) <= 1 and difference(drawn, before) > 3


def test_a_checkpoint_knows_its_base(run: Path, weights: Path, tmp_path: Path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    other = tmp_path / BASE
    shutil.copytree(weights / BASE, other)
    tiny_sdxl.unet(seed=7).save_pretrained(other / "unet")
    path = copied / f"checkpoints/step_{STEPS:06d}/model.safetensors"
    loaded = load_model(path)
    with pytest.raises(UsageError, match="it was trained on another SDXL"):
        BokehDiffTask.load_network({**loaded.config, "base": str(other)}, load_file(path))


def test_evaluation_stands_beside_the_unchanged_picture(run: Path, data: Path, tmp_path: Path):
    assert (
        evaluate.main([str(run), "--data_root", str(data), "--pairs", "2", "--out", str(tmp_path), "--device", "cpu"])
        == 0
    )
    scores = json.loads((tmp_path / "evaluation_test.json").read_text())["scores"]
    assert {"bokehdiff", "unchanged frame"} < set(scores) and any(name.startswith("gaussian") for name in scores)
    assert (tmp_path / "evaluation_test.png").is_file()


# The tiny base, and the original's flags


def test_the_tiny_base_returns_the_picture(tmp_path: Path):
    """As far as means of 4 x 4 pixels tell it; whole, through the files, the checks and the tiles of the engine."""
    base = find_base(str(tiny.write_tiny(tmp_path / "tiny" / BASE)))
    net = BokehDiffNet(BokehDiffConfig(adapt="full"), base).eval()
    export(net, tmp_path / "weights")
    y, x = np.mgrid[:64, :96]
    smooth = np.stack([x * 2, y * 3, 255 - x - y], -1).astype(np.uint8)
    asked = Blur(disparity=np.full((64, 96), 0.5, np.float32), focus=0.5, gain_px=20.0)
    drawn = engine_of(tmp_path / "weights").render_blur(smooth, asked, lambda: None)
    inner = np.s_[8:-8, 8:-8]
    assert np.abs(drawn[inner].astype(int) - smooth[inner]).mean() < 10
    with pytest.raises(UsageError, match="exists already"):
        export(net, tmp_path / "weights")


def test_flags_of_the_original_become_a_config(data: Path, weights: Path, tmp_path: Path, capsys):
    path = tmp_path / "run.toml"
    flags = ["--config", str(path), "--train_data_dir", str(data), "--resolution", "64", "--max_train_steps", "7", "--edge",
             "--lpips", "--lambda_lpips", "2", "--opt_vae", "--cv_type", "random", "--gan_step", "3", "--learning_rate", "1e-4",
             "--checkpointing_steps", "5", "--pretrained_model_name_or_path", str(weights / BASE)]  # fmt: skip
    assert published.main(flags) == 0
    settings = load_settings(path)
    assert (
        settings.run.steps == 7 and settings.data.crop == 64 and settings.optim.lr == 1e-4 and settings.loss.lpips == 2
    )
    assert (
        settings.loss.edge == 1
        and settings.loss.gan_step == 3
        and settings.model.opt_vae
        and settings.run.save_every == 5
    )
    assert published.main([*flags, "--conventions", "published"]) == 0
    assert load_settings(path).model.occlusion == "published" and load_settings(path).data.gain == "published"
    for wrong, message in (
        (["--snr_gamma", "5"], "--snr_gamma"),
        (["--lr_scheduler", "linear"], "--lr_scheduler must be cosine"),
        (["--cv_type", "convnext"], "--cv_type convnext needs --cv_folder"),
    ):
        capsys.readouterr()
        try:
            code = published.main([*flags, *wrong])
        except SystemExit as stop:
            code = stop.code
        assert code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.crop": 40}, "data.crop must be a multiple of 16"),
        ({"data.pairs": ""}, "must name one of: pairs, scenes, photographs"),
        ({"model.adapt": "half"}, "adapt must be lora or full"),
        ({"loss.mse": 0.0}, "loss.mse must be > 0"),
        ({"loss.trunk": "vgg"}, "loss.trunk must be one of"),
        ({"run.val_contrast": 1.0}, "run.val_contrast must be finite and > 1"),
    ],
)
def test_settings_that_are_refused(weights: Path, data: Path, tmp_path: Path, change: dict[str, object], message: str):
    with pytest.raises(UsageError, match=message):
        load_settings(config(tmp_path), given(weights, data, tmp_path, **change))


def test_a_base_that_is_no_sdxl(weights: Path, data: Path, tmp_path: Path):
    folder = tmp_path / "other"
    shutil.copytree(weights / BASE, folder)
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"addition_embed_type": None}))
    with pytest.raises(UsageError, match="is no SDXL: addition_embed_type"):
        small_task(weights, data, tmp_path, **{"model.base": str(folder)})


def test_the_summary_has_the_sizes_of_the_published_files():
    """98 MB of LoRA and 42 MB of VAE in float32."""
    unet, vae = networks(None)
    assert count(unet) == 2_567_463_684
    assert adapter_size(unet, 8) * 4 == pytest.approx(98e6, rel=0.01)
    trained = sum(torch.Size(shape).numel() for shape in trained_shapes(vae).values())
    assert trained * 4 == pytest.approx(42e6, rel=0.01)
