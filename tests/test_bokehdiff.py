"""The engine bokehdiff on a small SDXL: weights in every layout, one step, tiles, K, memory, and phase 5 resumed."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_sdxl
import torch
from conftest import REPOSITORY, Project, texture, tree
from safetensors.torch import load_file, save_file

from pipeline.engines import load_engine
from pipeline.engines.base import BokehRenderer, BokehRequest
from pipeline.engines.bokehdiff import step, text
from pipeline.engines.bokehdiff.engine import Blur, BokehDiff, blur_of
from pipeline.engines.bokehdiff.load import NetworkFiles, pisa_of, read_parts, schedule_alpha
from pipeline.engines.bokehdiff.lora import adapted_layers, merge_lora
from pipeline.engines.bokehdiff.options import BASE, LORA, VAE, BokehDiffOptions, label_gain
from pipeline.engines.bokehdiff.pisa import Defocus, geometry
from pipeline.engines.bokehdiff.processor import install
from pipeline.engines.bokehdiff.vae import load_trained
from pipeline.errors import InputError, StoppedError, UsageError
from pipeline.optics import Lens, coc_to_radius_px
from pipeline.optics.labels import label_of
from pipeline.phases.base import retry_on_oom
from pipeline.storage.scene import Scene

SIZE = (48, 64)  # height, width


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sdxl.write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BOKEHFLOW_WEIGHTS", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "bokehdiff_cache"))


def bokehdiff(weights: Path, **options: Any) -> BokehDiff:
    given = {"weights": weights, "dtype": "fp32"} | options
    return load_engine("bokeh", "bokehdiff", {name: str(value) for name, value in given.items()}, "cpu", BokehRenderer)


def ramp(height: int = SIZE[0], width: int = SIZE[1]) -> np.ndarray:
    return np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))


def blur(gain_px: float = 40.0, **changes: Any) -> Blur:
    return Blur(**({"disparity": ramp(), "focus": 0.3, "gain_px": gain_px} | changes))


def nothing() -> None:
    pass


def changed(weights: Path, tmp_path: Path, change: Callable[[Path], None]) -> Path:
    """A copy of the weights with something done to it."""
    folder = tmp_path / "changed"
    shutil.copytree(weights, folder)
    change(folder)
    return folder


# Weights


LAYOUTS = {
    "diffusers": ("unet.", ("lora_A", "lora_B")),
    "bare": ("", ("lora_A", "lora_B")),
    "peft": ("base_model.model.", ("lora_A", "lora_B")),
    "peft with an adapter's name": ("base_model.model.unet.", ("lora_A.default", "lora_B.default")),
    "old": ("unet.", ("lora.down", "lora.up")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_same_weights(layout: str, tmp_path: Path):
    pairs = tiny_sdxl.lora(tiny_sdxl.unet())
    save_file(tiny_sdxl.lora_tensors(pairs, *LAYOUTS[layout]), tmp_path / LORA)
    net, plain = tiny_sdxl.unet(), tiny_sdxl.unet()
    assert merge_lora(net, tmp_path / LORA) == len(pairs)
    for name, layer in plain.named_modules():
        if name in pairs:
            a, b = pairs[name]
            change = torch.einsum("or,r...->o...", b.flatten(1), a)
            assert torch.allclose(net.get_submodule(name).weight, layer.weight + change, atol=1e-5), name
    untouched = ("conv_in", "conv_out", "time_embedding.linear_1", "add_embedding.linear_2")
    assert all(torch.equal(net.get_submodule(n).weight, plain.get_submodule(n).weight) for n in untouched)


def test_alpha_in_the_metadata_scales(tmp_path: Path):
    tensors = tiny_sdxl.lora_tensors(tiny_sdxl.lora(tiny_sdxl.unet()))
    name = "mid_block.attentions.0.proj_in"
    moved = []
    for alpha in (tiny_sdxl.RANK, 2 * tiny_sdxl.RANK):
        said = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": alpha})}
        save_file(tensors, tmp_path / LORA, metadata=said)
        net = tiny_sdxl.unet()
        merge_lora(net, tmp_path / LORA)
        moved.append(net.get_submodule(name).weight - tiny_sdxl.unet().get_submodule(name).weight)
    assert torch.allclose(moved[1], 2 * moved[0], atol=1e-5)


def test_sdxl_has_788_adapted_layers_of_794():
    from diffusers import UNet2DConditionModel

    sizes = {"block_out_channels": (320, 640, 1280), "layers_per_block": 2, "transformer_layers_per_block": (1, 2, 10)}
    heads = {"attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048, "norm_num_groups": 32}
    added = {"addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816}
    with torch.device("meta"):
        net = UNet2DConditionModel(**(tiny_sdxl.UNET | sizes | heads | added))
    assert sum(value.numel() for value in net.parameters()) == 2_567_463_684
    layers = [module for module in net.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
    assert (len(adapted_layers(net)), len(layers)) == (788, 794)
    install(net, pisa_of(BokehDiffOptions()))
    assert sum(type(one).__name__ == "PisaProcessor" for one in net.attn_processors.values()) == 2


def drop_a_layer(folder: Path) -> None:
    tensors = load_file(folder / "bokehdiff" / LORA)
    del tensors["unet.mid_block.resnets.1.time_emb_proj.lora_B.weight"]
    save_file(tensors, folder / "bokehdiff" / LORA)


def add_a_layer(folder: Path) -> None:
    tensors = load_file(folder / "bokehdiff" / LORA)
    for kind in "AB":
        tensors[f"unet.mid_block.extra.lora_{kind}.weight"] = torch.zeros(3, 3)
    save_file(tensors, folder / "bokehdiff" / LORA)


def widen_a_layer(folder: Path) -> None:
    tensors = load_file(folder / "bokehdiff" / LORA)
    tensors["unet.mid_block.attentions.0.proj_in.lora_A.weight"] = torch.zeros(3, 17)
    save_file(tensors, folder / "bokehdiff" / LORA)


def rewrite_config(folder: Path, part: str, **changes: Any) -> None:
    path = folder / BASE / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def only_some_vae(folder: Path) -> None:
    tensors = torch.load(folder / "bokehdiff" / VAE, weights_only=True)
    del tensors["encoder.mid_block.resnets.0.conv1.bias"]
    torch.save(tensors, folder / "bokehdiff" / VAE)


def whole_vae(folder: Path) -> None:
    torch.save(tiny_sdxl.vae().state_dict(), folder / "bokehdiff" / VAE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_a_layer, r"(\d+)/(\d+) layers matched, the first missing is mid_block.resnets.1.time_emb_proj"),
        (add_a_layer, "the first of 1 is mid_block.extra"),
        (widen_a_layer, "the first of another shape is mid_block.attentions.0.proj_in"),
        (only_some_vae, "1 missing: encoder.mid_block.resnets.0.conv1.bias"),
        (whole_vae, "is not vae.ckpt: the first of .* that do not belong"),
        (lambda folder: rewrite_config(folder, "unet", addition_embed_type=None), "is no SDXL: addition_embed_type"),
        (
            lambda folder: rewrite_config(folder, "unet", _class_name="FluxTransformer2DModel"),
            "is no SDXL: _class_name",
        ),
        (lambda folder: (folder / "bokehdiff" / VAE).unlink(), "python -m pipeline weights vae.ckpt --download"),
    ],
    ids=["one layer less", "one more", "another shape", "part of a part", "a whole VAE", "SD 1.5", "FLUX", "no file"],
)
def test_weights_that_do_not_fit(weights: Path, tmp_path: Path, change: Callable[[Path], None], message: str):
    with pytest.raises(UsageError, match=message):
        bokehdiff(changed(weights, tmp_path, change))


def test_all_layers_but_one_is_told_with_both_numbers(weights: Path, tmp_path: Path):
    total = len(adapted_layers(tiny_sdxl.unet()))
    with pytest.raises(UsageError, match=f" {total - 1}/{total} layers matched"):
        bokehdiff(changed(weights, tmp_path, drop_a_layer))


def test_a_lora_of_every_layer_needs_every_layer(weights: Path, tmp_path: Path):
    def add_embedding(folder: Path) -> None:
        tensors = load_file(folder / "bokehdiff" / LORA)
        width = tiny_sdxl.unet().conv_out.weight.shape
        tensors["unet.conv_out.lora_A.weight"] = torch.zeros(3, *width[1:])
        tensors["unet.conv_out.lora_B.weight"] = torch.zeros(width[0], 3, 1, 1)
        save_file(tensors, folder / "bokehdiff" / LORA)

    with pytest.raises(UsageError, match="the first missing is conv_in"):
        bokehdiff(changed(weights, tmp_path, add_embedding))


def test_old_names_in_the_vae_are_todays(tmp_path: Path):
    tensors = tiny_sdxl.trained_vae(tiny_sdxl.vae())
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def old(name: str) -> str:
        for new, before in names.items():
            name = name.replace(new, before)
        return name

    aged = {
        old(name): value[..., None, None] if old(name) != name and value.ndim == 2 else value
        for name, value in tensors.items()
    }
    assert set(aged) != set(tensors)
    states = []
    for number, stored in enumerate((tensors, aged)):
        torch.save(stored, tmp_path / f"{number}.ckpt")
        coder = tiny_sdxl.vae()
        load_trained(coder, tmp_path / f"{number}.ckpt")
        states.append(coder.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["encoder.conv_in.weight"], tiny_sdxl.vae().encoder.conv_in.weight)
    assert torch.equal(states[0]["decoder.conv_in.weight"], tiny_sdxl.vae().decoder.conv_in.weight)


def test_the_small_variant_lies_in_its_own_folder(weights: Path, tmp_path: Path):
    def move(folder: Path) -> None:
        (folder / "bokehdiff" / "small").mkdir()
        for name in (LORA, VAE):
            (folder / "bokehdiff" / name).rename(folder / "bokehdiff" / "small" / name)

    moved = changed(weights, tmp_path, move)
    assert set(bokehdiff(moved, variant="small").info.weights) == {BASE, f"small/{LORA}", f"small/{VAE}"}
    with pytest.raises(UsageError, match="missing"):
        bokehdiff(moved)


# One step


@pytest.mark.slow
def test_the_text_is_what_diffusers_pipeline_embeds(weights: Path):
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(weights / BASE)
    tokens, _, pooled, _ = pipe.encode_prompt(
        "an excellent photo with a large aperture", do_classifier_free_guidance=False
    )
    made = text.embed(weights / BASE)
    assert torch.equal(made.tokens, tokens) and torch.equal(made.pooled, pooled)
    assert tokens.shape == (1, 77, 32) and pooled.shape == (1, 10)


def test_the_text_is_embedded_once(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = text.constant_text(weights / BASE, "digest", tmp_path / "kept")
    assert first.tokens.shape == (1, 77, 32) and first.tokens.std() > 0.1

    def loaded(base: Path) -> None:
        raise AssertionError("a text encoder was loaded")

    monkeypatch.setattr(text, "embed", loaded)
    again = text.constant_text(weights / BASE, "digest", tmp_path / "kept")
    assert torch.equal(first.tokens, again.tokens) and torch.equal(first.pooled, again.pooled)
    with pytest.raises(AssertionError, match="was loaded"):
        text.constant_text(weights / BASE, "of another base", tmp_path / "kept")


def test_the_step_is_the_one_step_of_ddpm(weights: Path):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_pretrained(weights / BASE, subfolder="scheduler", clip_sample=False)
    scheduler.set_timesteps(timesteps=[499])
    generator = torch.Generator().manual_seed(0)
    latent, noise = (torch.randn(1, 4, 6, 6, generator=generator) for _ in range(2))
    stepped = scheduler.step(noise, 499, latent, generator=generator)
    ours = step.clean(latent, noise, schedule_alpha(weights / BASE))
    assert torch.allclose(ours, stepped.pred_original_sample, atol=1e-5)
    assert torch.allclose(ours, stepped.prev_sample, atol=1e-5), "nothing is left to do, and no noise is added"


def files(weights: Path) -> NetworkFiles:
    folder = weights / "bokehdiff"
    return NetworkFiles(base=weights / BASE, base_sha256="digest", lora=folder / LORA, vae=folder / VAE)


def by_hand(weights: Path, sharp: np.ndarray, asked: Blur, alpha: float) -> np.ndarray:
    """The picture from diffusers' parts, step by step, without tiles."""
    options = BokehDiffOptions(dtype="fp32")
    parts = read_parts(files(weights), options)
    net = tiny_sdxl.unet()
    merge_lora(net, weights / "bokehdiff" / LORA)
    install(net, pisa_of(options)).where = geometry(
        Defocus(disparity=torch.from_numpy(asked.disparity)[None], focus=asked.focus, gain_px=asked.gain_px),
        pisa_of(options),
    )
    with torch.no_grad():
        image = torch.from_numpy(sharp.copy()).permute(2, 0, 1)[None] / 127.5 - 1
        latent = parts.vae.encode(image).latent_dist.mean * 0.13025
        height, width = sharp.shape[:2]
        ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
        given = {"text_embeds": parts.text.pooled, "time_ids": ids}
        noise = net(latent, 499, parts.text.tokens, added_cond_kwargs=given).sample
        decoded = parts.vae.decode((latent - (1 - alpha) ** 0.5 * noise) / alpha**0.5 / 0.13025).sample
    return ((decoded[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255).round().byte().numpy()


def difference(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.abs(first.astype(int) - second).max())


def test_a_picture_is_what_diffusers_parts_draw(weights: Path):
    sharp, asked = texture(*SIZE), blur()
    made = bokehdiff(weights).render_blur(sharp, asked, nothing)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha = float(torch.cumprod(1 - betas, 0)[499])
    assert difference(made, by_hand(weights, sharp, asked, alpha)) <= 1
    assert made.std() > 5, "not a flat picture"
    assert difference(made, by_hand(weights, sharp, blur(4.0), alpha)) > 3, "another K would be noticed"
    assert difference(made, by_hand(weights, sharp, asked, alpha * 2)) > 3, "another step too"


def test_pictures_are_deterministic_and_options_change_them(weights: Path):
    sharp = texture(*SIZE)
    made = bokehdiff(weights).render_blur(sharp, blur(), nothing)
    assert np.array_equal(made, bokehdiff(weights).render_blur(sharp, blur(), nothing))
    for name, value in (("distance", "published"), ("gain", "published"), ("dtype", "bf16"), ("contrast", 3)):
        assert difference(made, bokehdiff(weights, **{name: value}).render_blur(sharp, blur(), nothing)) > 0, name
    assert np.array_equal(bokehdiff(weights).render_blur(sharp, blur(0.0), nothing), sharp), "K = 0 redraws nothing"


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 8 latents with strides up to 6, so that a small network sees several."""
    monkeypatch.setattr(step, "TILE", 8)
    monkeypatch.setattr(step, "_OVERLAP", 2)
    monkeypatch.setattr(step, "MAX_WHOLE", 2 * 8**2)


@pytest.mark.parametrize("size", [(50, 70), (16, 600), (33, 17)], ids=["odd", "a panorama", "tiny"])
def test_any_size_comes_back_as_it_was(weights: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    small_tiles(monkeypatch)
    sharp = texture(*size)
    made = bokehdiff(weights).render_blur(sharp, blur(disparity=ramp(*size)), nothing)
    assert made.shape == sharp.shape and made.std() > 3


def test_tiles_are_the_published_ones():
    assert step.tile_starts(64) == [0]
    assert step.tile_starts(112) == [0, 24, 48], "1 + (112 - 16) // 48 tiles, evenly spaced"
    assert step.tile_starts(240) == [0, 44, 88, 132, 176] and step.tile_starts(136) == [0, 36, 72]
    assert not step.is_tiled(64, 128) and step.is_tiled(64, 130)
    assert step.padded_px(1080, 1920, True) == (1088, 1920)
    assert step.padded_px(256, 4096, True) == (512, 4096) and step.padded_px(256, 4096, False) == (256, 4096)
    weight = step.tile_weights()
    assert weight[0, 0] == pytest.approx(np.exp(-8)) and weight.shape == (64, 64)
    latent = torch.rand(1, 4, 70, 130)
    whole = step.tiled_noise(latent, 3, lambda corners, tiles: 2 * tiles)
    assert torch.allclose(whole, 2 * latent, atol=1e-5), "weights sum to one"


def test_each_tile_knows_its_place_and_its_lens(weights: Path, monkeypatch: pytest.MonkeyPatch):
    small_tiles(monkeypatch)
    engine = bokehdiff(weights, tile_batch=3)
    parts = engine._network._ready()
    seen: list[list[float]] = []
    gates: list[float] = []

    class Recorder:
        def __call__(self, tiles: torch.Tensor, timestep: int, words: torch.Tensor, added_cond_kwargs: Any, **_: Any):
            assert timestep == 499 and tiles.shape[1:] == (4, 8, 8) and words.shape == (len(tiles), 77, 32)
            assert parts.pisa.where.gate.shape == (len(tiles), 16, 16)
            seen.extend(added_cond_kwargs["time_ids"].tolist())
            gates.extend(parts.pisa.where.gate.mean(dim=(1, 2)).tolist())
            return (torch.zeros_like(tiles),)

    monkeypatch.setattr(engine._network, "_parts", replace(parts, unet=Recorder()))
    size = (64, 192)
    engine.render_blur(texture(*size), blur(disparity=ramp(*size), focus=0.0, gain_px=90.0), nothing)
    starts = [number * 16 // 3 for number in range(4)]
    assert [ids[2:4] for ids in seen] == [[0.0, float(start)] for start in starts], "in latents, as published"
    assert all(ids[:2] == [64.0, 192.0] and ids[4:] == [64.0, 192.0] for ids in seen)
    assert gates == sorted(gates) and gates[-1] > 2 * gates[0], "further right is further from focus"


def test_how_memory_is_used_changes_no_picture(weights: Path, monkeypatch: pytest.MonkeyPatch):
    small_tiles(monkeypatch)
    size = (64, 160)
    sharp, asked = texture(*size), blur(disparity=ramp(*size))
    engine = bokehdiff(weights)
    made = engine.render_blur(sharp, asked, nothing)
    plain, failures = engine._network.render, 2

    def scarce(*args: Any) -> np.ndarray:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(*args)

    monkeypatch.setattr(engine._network, "render", scarce)
    told: list[str] = []
    again = retry_on_oom(engine, lambda: engine.render_blur(sharp, asked, nothing), told.append)
    assert difference(again, made) <= 1 and len(told) == 2 and engine._network.plan.tile_batch == 1
    assert engine.shrink() and not engine.shrink(), "on a CPU, the VAE in tiles is the last step"


# K


LENS = Lens(f_m=0.05, f_number=2.0, focus_m=2.0)


def request(max_coc_m: float = 2e-3, focus_m: float = 2.0) -> BokehRequest:
    depth = np.repeat(np.linspace(1.2, 9, SIZE[1], dtype=np.float16)[None], SIZE[0], axis=0)
    lens = replace(LENS, focus_m=focus_m)
    return BokehRequest(
        sharp=texture(*SIZE),
        focus_map=label_of(depth, lens, max_coc_m),
        depth_m=depth.astype(np.float32),
        lens=lens,
        max_coc_m=max_coc_m,
        px_per_mm=40.0,
        seed=0,
    )


@pytest.mark.parametrize("max_coc_m", [2e-3, 3e-4], ids=["within the label", "saturated"])
def test_k_is_the_lens_and_the_radius_is_the_labels(max_coc_m: float):
    asked = request(max_coc_m)
    found = blur_of(asked)
    radius = np.minimum(np.abs(found.disparity - found.focus) * found.gain_px, found.max_radius_px)
    label = (1 - asked.focus_map.astype(np.float32)) * coc_to_radius_px(max_coc_m, 40.0)
    assert np.abs(radius - label).max() < 2e-3 * label.max() and label.max() > 5
    assert found.disparity.max() == 1 and found.gain_px == pytest.approx(0.05**2 / 4 * 40_000 / 1.2, rel=1e-3)


def test_the_gain_of_published_labels(weights: Path):
    assert label_gain(0.5) == pytest.approx(5 / 12) and label_gain(1.7) == pytest.approx(5 / 6)
    sharp, asked = texture(*SIZE), blur(focus=0.4, max_radius_px=20.0)
    exact, published = (bokehdiff(weights, gain=gain).defocus_of(sharp, asked) for gain in ("exact", "published"))
    assert (exact.gain_px, exact.max_radius_px) == (40.0, 20.0)
    assert (published.gain_px, published.max_radius_px) == pytest.approx((20.0, 10.0)), "5/6 of 0.6"


def test_k_outside_what_was_trained_is_said_once(weights: Path, caplog: pytest.LogCaptureFixture):
    engine, sharp = bokehdiff(weights), texture(*SIZE)
    for gain_px in (30.0, 130.0, 150.0):
        engine.defocus_of(sharp, blur(gain_px))
    assert [record.args[0] for record in caplog.records if "was trained on" in record.message] == [130.0]


@pytest.mark.parametrize(
    ("disparity", "message"),
    [
        (ramp() * 2, r"must be in \[0, 1\], got 0 to 2"),
        (ramp(48, 32), "the disparity is"),
        (ramp() * np.nan, "must be in"),
    ],
)
def test_wrong_disparity(weights: Path, disparity: np.ndarray, message: str):
    with pytest.raises(InputError, match=message):
        bokehdiff(weights).render_blur(texture(*SIZE), blur(disparity=disparity), nothing)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gain": "double"}, "gain must be exact or published"),
        ({"contrast": "1"}, "contrast must be"),
        ({"variant": "large"}, "variant must be"),
    ],
)
def test_wrong_options(weights: Path, options: dict[str, str], message: str):
    with pytest.raises(UsageError, match=message):
        bokehdiff(weights, **options)


def test_a_frame_all_in_focus_is_returned(weights: Path):
    asked = replace(request(), focus_map=np.ones(SIZE, np.float16))
    assert np.array_equal(bokehdiff(weights).render(asked, nothing), asked.sharp)


# Phase 5


FLAGS = ("--engine", "bokehdiff", "--num_sets", "1", "--engine_opt", "dtype=fp32")


def test_a_scene_interrupted_and_resumed_is_the_same(
    scene_project: Project, weights: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BOKEHFLOW_WEIGHTS", str(weights))
    scene_project.run_upto(4)
    assert scene_project.run(4, "--confirm") == 0
    plain, left = BokehDiff.render, 5

    def interrupted(self: BokehDiff, *args: Any) -> np.ndarray:
        nonlocal left
        left -= 1
        if left < 0:
            raise StoppedError("SIGTERM")
        return plain(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(BokehDiff, "render", interrupted)
        assert scene_project.run(5, *FLAGS) == 75, scene_project.text
    scene = Scene(scene_project.out, "tiny")
    assert sum(scene.bokeh_path(0, frame).exists() for frame in range(18)) == 5
    assert scene_project.run(5, *FLAGS) == 0, scene_project.text
    resumed = tree(scene.dir)
    shutil.rmtree(scene.bokeh_dir)
    assert scene_project.run(5, *FLAGS, "--on_stale", "redo") == 0, scene_project.text
    assert tree(scene.dir) == resumed
    assert scene_project.run(6) == 0, scene_project.text
    record = json.loads((scene.bokeh_dir / ".done").read_text())
    assert record["licence"] == "CreativeML Open RAIL++-M; not stated"
    assert str(weights) not in json.dumps(record), "no path stands in a record"


def test_the_benchmark_runs_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    spec = importlib.util.spec_from_file_location("benchmark_sdxl", REPOSITORY / "benchmarks" / "sdxl.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    report = tmp_path / "report.json"
    assert benchmark.main(["--quick", "--repeat", "1", "--json", str(report)]) == 0
    assert [row["network_calls"] for row in json.loads(report.read_text())["rows"]] == [1]
    assert benchmark.main(["--count"]) == 0
    assert "adapted_layers 788" in capsys.readouterr().out
