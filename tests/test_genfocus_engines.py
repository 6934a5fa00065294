"""The engines genfocus and bokehnet on a small FLUX: pictures against the reference, seeds, prompts, weights, memory."""

import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import genfocus_reference as reference
import numpy as np
import pytest
import tiny_flux
import torch
from conftest import REPOSITORY, texture
from genfocus_reference import PUBLISHED, Job, Model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.engines import load_engine
from pipeline.engines.base import BokehRenderer, BokehRequest, Deblurrer
from pipeline.engines.bokehnet import BokehNet, defocus_map
from pipeline.engines.genfocus import GenfocusDeblur, network, prompts
from pipeline.engines.genfocus.deblur import warn_of_old_file
from pipeline.engines.genfocus.lora import load_lora
from pipeline.engines.genfocus.options import FluxOptions, MemoryPlan
from pipeline.engines.info import recorded_options
from pipeline.errors import InputError, StoppedError, UsageError
from pipeline.optics import Lens
from pipeline.phases.base import engine_fields, retry_on_oom

SIZE = (48, 64)  # height, width
LENS = Lens(f_m=0.05, f_number=2.0, focus_m=2.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_flux.write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests and prompts of this run; shared by the module's tests, since the weights are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "genfocus_cache"))


def genfocus(weights: Path, **options: Any) -> GenfocusDeblur:
    given = {"weights": weights, "dtype": "fp32", "steps": 2} | options
    return load_engine("deblur", "genfocus", {name: str(value) for name, value in given.items()}, "cpu", Deblurrer)


def bokehnet(weights: Path, **options: Any) -> BokehNet:
    given = {"weights": weights, "dtype": "fp32", "steps": 2} | options
    return load_engine("bokeh", "bokehnet", {name: str(value) for name, value in given.items()}, "cpu", BokehRenderer)


def request(focus: np.ndarray | float = 0.3, seed: int = 0, frame: int = 0) -> BokehRequest:
    focus_map = np.broadcast_to(np.float16(focus), SIZE) if np.isscalar(focus) else focus.astype(np.float16)
    return BokehRequest(
        sharp=texture(*SIZE, seed=frame),
        focus_map=focus_map,
        depth_m=np.full(SIZE, 3.0, np.float32),
        lens=LENS,
        max_coc_m=2e-3,
        px_per_mm=40.0,
        seed=seed,
    )


def nothing() -> None:
    pass


def ramp() -> np.ndarray:
    return np.repeat(np.linspace(1, 0, SIZE[1], dtype=np.float16)[None], SIZE[0], axis=0)


# Against the reference


def reference_picture(weights: Path, name: str, job: dict[str, Any], prompt: str, **broken: Any) -> np.ndarray:
    adapter = load_lora(weights / name, tiny_flux.TRANSFORMER)
    model = Model.of(tiny_flux.transformer(), adapter.pairs, tiny_flux.TRANSFORMER)
    sha = genfocus(weights).info.weights["FLUX.1-dev"]
    embedded = prompts.embedded_prompt(prompt, weights / "FLUX.1-dev", sha, torch.float32, prompts.cache_folder())
    full = Job(text=embedded.tokens[0], pooled=embedded.pooled[0], steps=2, **job)
    return reference.picture(model, tiny_flux.vae(), full, replace(PUBLISHED, **broken))


def difference(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.abs(first.astype(int) - second).max())


def as_unit(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1) / 127.5 - 1


def deblur_job(frame: np.ndarray, **changes: Any) -> dict[str, Any]:
    return {"images": [as_unit(frame)], "deltas": [(0, 0)], "guidance": 3.5, "seed": 42} | changes


def test_deblur_is_what_the_reference_draws(weights: Path):
    frame = texture(*SIZE)
    made = genfocus(weights, author_seeds=True).deblur(frame, 7, nothing)

    def drawn(job: dict[str, Any], **broken: Any) -> np.ndarray:
        return reference_picture(weights, "deblurNet.safetensors", job, prompts.DEBLUR_PROMPT, **broken)

    assert difference(made, drawn(deblur_job(frame))) <= 1
    assert made.std() > 5, "not a flat picture"
    assert difference(made, drawn(deblur_job(frame, guidance=1.0))) > 3, "bokeh's guidance would be noticed"
    assert difference(made, drawn(deblur_job(frame), noise_first=False)) > 3, "another order of draws too"
    assert difference(made, drawn(deblur_job(frame), posterior_sample=False)) > 3, "the posterior's mode too"


def test_deblur_with_two_conditions(weights: Path):
    frame = texture(*SIZE)
    made = genfocus(weights, author_seeds=True, conditions=2).deblur(frame, 0, nothing)
    black = torch.full((3, *SIZE), -1.0)
    job = deblur_job(frame, images=[black, as_unit(frame)], deltas=[(0, 32), (0, 0)])

    def drawn(job: dict[str, Any], **broken: Any) -> np.ndarray:
        name = "deblurNet_with_pre_deblur.safetensors"
        return reference_picture(weights, name, job, prompts.DEBLUR_PROMPT, **broken)

    assert difference(made, drawn(job)) <= 1
    assert difference(made, drawn(job | {"deltas": [(0, 0), (0, 0)]})) > 3
    assert difference(made, drawn(job, conditions_see_each_other=True)) > 3


def test_bokeh_is_what_the_reference_draws(weights: Path):
    asked = request(ramp())
    made = bokehnet(weights, author_seeds=True).render(asked, nothing)
    # max_coc 2 mm at 40 px/mm is a radius of 40 px, 0.4 of the 100 px that the network takes for 1.
    guide = ((1 - torch.from_numpy(ramp().astype(np.float32))) * 0.4).expand(3, -1, -1)
    job = {
        "images": [as_unit(asked.sharp), guide],
        "deltas": [(0, 0), (0, 0)],
        "guidance": 1.0,
        "seed": 1234,
        "posterior_seed": 42,
    }

    def drawn(job: dict[str, Any]) -> np.ndarray:
        return reference_picture(weights, "bokehNet.safetensors", job, prompts.BOKEH_PROMPT)

    assert difference(made, drawn(job)) <= 1
    assert difference(made, drawn(job | {"guidance": 3.5})) > 3, "deblur's guidance too"


def test_images_enter_the_vae_in_their_trained_ranges(weights: Path, monkeypatch: pytest.MonkeyPatch):
    """By its inputs: group norms make a random VAE nearly blind to the range of what it encodes."""
    encoded, plain = [], network.encode

    def noting(vae: Any, image: torch.Tensor, noise: Any) -> torch.Tensor:
        encoded.append(image)
        return plain(vae, image, noise)

    monkeypatch.setattr(network, "encode", noting)
    asked = request(ramp())
    bokehnet(weights).render(asked, nothing)
    genfocus(weights, conditions=2).deblur(asked.sharp, 0, nothing)
    sharp, guide, black, blurred = encoded
    torch.testing.assert_close(sharp[0], as_unit(asked.sharp))
    expected = (1 - torch.from_numpy(ramp().astype(np.float32))) * 0.4
    torch.testing.assert_close(guide[0], expected.expand(3, -1, -1))
    assert guide.min() == 0 and guide.max() == pytest.approx(0.4), "a map stays in [0, 1]"
    assert torch.equal(blurred, sharp) and (black == -1).all()


# Seeds and guidance


def test_same_seed_same_picture_other_seed_another(weights: Path):
    frame = texture(*SIZE)
    engine = genfocus(weights)
    first = engine.deblur(frame, 5, nothing)
    assert np.array_equal(genfocus(weights).deblur(frame, 5, nothing), first)
    assert not np.array_equal(engine.deblur(frame, 6, nothing), first)
    assert not engine.info.deterministic
    published = genfocus(weights, author_seeds=True)
    assert np.array_equal(published.deblur(frame, 5, nothing), published.deblur(frame, 6, nothing))
    assert published.info.deterministic, "so that phase 2 refuses to average its draws"


def test_initial_latents_are_shared_by_frames_and_sets(weights: Path, monkeypatch: pytest.MonkeyPatch):
    drawn, plain = [], network.denoise

    def noting(field: Any, noise: torch.Tensor, *rest: Any) -> torch.Tensor:
        drawn.append(noise.clone())
        return plain(field, noise, *rest)

    monkeypatch.setattr(network, "denoise", noting)
    engine = bokehnet(weights)
    pictures = [
        engine.render(asked, nothing)
        for asked in (request(seed=1), request(seed=1, frame=3), request(0.9, seed=1), request(seed=2))
    ]
    assert all(torch.equal(noise, drawn[0]) for noise in drawn[:3]) and not torch.equal(drawn[3], drawn[0])
    assert len({picture.tobytes() for picture in pictures}) == 4, "what differs still matters"


def test_defocus_maps(weights: Path):
    physical, normalised = bokehnet(weights), bokehnet(weights, guidance="normalised")
    assert physical.guidance_factor(2e-3, 40.0) == pytest.approx(0.4), "40 px / 100"
    assert bokehnet(weights, guidance_px=50).guidance_factor(2e-3, 40.0) == pytest.approx(0.8)
    assert normalised.guidance_factor(2e-3, 40.0) == 1.0
    focus = np.array([[1.0, 0.5, 0.0]], np.float16)
    assert np.allclose(defocus_map(focus, 0.4), [[0, 0.2, 0.4]])
    assert np.allclose(defocus_map(focus, 3.0), [[0, 1, 1]]), "clamped"
    made = [engine.render(request(ramp()), nothing) for engine in (physical, normalised)]
    assert not np.array_equal(*made)


def test_all_in_focus_is_the_frame_itself(weights: Path):
    engine = bokehnet(weights)
    assert np.array_equal(engine.render(request(1.0), nothing), request().sharp)
    nearly = np.ones(SIZE)
    nearly[0, 0] = 0.5
    assert not np.array_equal(engine.render(request(nearly), nothing), request().sharp)


def test_stops_between_calls_of_the_network(weights: Path):
    calls = 0

    def stop_at_third() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise StoppedError("SIGTERM")

    with pytest.raises(StoppedError):
        genfocus(weights, steps=50).deblur(texture(*SIZE), 0, stop_at_third)


# Prompts


def test_prompts_are_embedded_once(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    frame, cache = texture(*SIZE), tmp_path / "prompts"
    first = genfocus(weights, prompt_cache=cache).deblur(frame, 0, nothing)
    assert len(list(cache.iterdir())) == 2, "both prompts at once"
    for path in cache.iterdir():
        with safe_open(path, framework="pt") as file:
            kept = file.metadata()
            assert file.get_tensor("tokens").shape == (1, 512, 24) and file.get_tensor("pooled").shape == (1, 20)
        assert kept["prompt"] in prompts.PROMPTS and len(kept["flux_sha256"]) == 64

    def loads(*_: Any) -> None:
        raise AssertionError("the text encoders were loaded")

    with monkeypatch.context() as patched:
        patched.setattr(prompts, "_embed", loads)
        assert np.array_equal(genfocus(weights, prompt_cache=cache).deblur(frame, 0, nothing), first)
        bokehnet(weights, prompt_cache=cache).render(request(), nothing)
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert np.array_equal(genfocus(weights, prompt_cache=cache).deblur(frame, 0, nothing), first), "made again"


def test_prompts_follow_flux(weights: Path, tmp_path: Path):
    """512 T5 tokens without a mask, CLIP's pooled output, straight from the encoders."""
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

    flux = weights / "FLUX.1-dev"
    for text in prompts.PROMPTS:
        made = prompts.embedded_prompt(text, flux, "x", torch.float32, tmp_path)
        t5_ids = T5Tokenizer.from_pretrained(flux / "tokenizer_2")(text, padding="max_length", max_length=512).input_ids
        assert sum(token != 0 for token in t5_ids) == len(text.split()) + 1, "words are known, one end"
        clip_ids = CLIPTokenizer.from_pretrained(flux / "tokenizer")(
            text, padding="max_length", max_length=77
        ).input_ids
        with torch.no_grad():
            tokens = T5EncoderModel.from_pretrained(flux / "text_encoder_2")(torch.tensor([t5_ids]))[0]
            pooled = CLIPTextModel.from_pretrained(flux / "text_encoder")(torch.tensor([clip_ids])).pooler_output
        torch.testing.assert_close(made.tokens, tokens)
        torch.testing.assert_close(made.pooled, pooled)


def test_a_cache_that_cannot_be_written_costs_only_time(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("not a folder")
    made = genfocus(weights, prompt_cache=tmp_path / "file" / "prompts").deblur(texture(*SIZE), 0, nothing)
    assert made.shape == (*SIZE, 3) and "cannot be kept" in caplog.text


# Weights and input


def copied(weights: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(weights, tmp_path / "copy"))


def test_missing_weights_are_listed(tmp_path: Path):
    with pytest.raises(UsageError, match="weights are missing or damaged") as caught:
        genfocus(tmp_path)
    assert "FLUX.1-dev" in str(caught.value) and "deblurNet.safetensors" in str(caught.value)
    with pytest.raises(UsageError, match=r"bokehNet\.safetensors"):
        bokehnet(tmp_path)
    with pytest.raises(UsageError, match="deblurNet_with_pre_deblur"):
        genfocus(tmp_path, conditions=2)


@pytest.mark.parametrize(
    "name", ["FLUX.1-dev/transformer/diffusion_pytorch_model.safetensors", "deblurNet.safetensors"]
)
def test_truncated_weights(weights: Path, tmp_path: Path, name: str):
    path = copied(weights, tmp_path) / name
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UsageError, match="not a whole safetensors file"):
        genfocus(tmp_path / "copy")


def test_weights_that_do_not_fit_their_config(weights: Path, tmp_path: Path):
    path = copied(weights, tmp_path) / "FLUX.1-dev/vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["decoder.conv_in.weight"] = torch.zeros(3, 3)
    del tensors["encoder.conv_in.bias"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UsageError, match="do not fit its config") as caught:
        genfocus(tmp_path / "copy")
    assert "encoder.conv_in.bias" in str(caught.value) and "(3, 3), needed" in str(caught.value)


@pytest.mark.parametrize("broken", ["tensor", "size", "vocabulary"])
def test_text_encoders_that_are_not_whole(weights: Path, tmp_path: Path, broken: str):
    """Their libraries would go on with random weights, or with unknown words, and embed another prompt."""
    from transformers import T5Tokenizer

    flux = copied(weights, tmp_path) / "FLUX.1-dev"
    path, named = flux / "text_encoder_2/model.safetensors", "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    tensors = load_file(path)
    if broken == "tensor":
        del tensors[named]
    elif broken == "size":
        tensors[named] = torch.zeros(3, 3)
    else:
        named = "its vocabulary is not whole"
        empty_t5 = T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)], extra_ids=0)
        empty_t5.save_pretrained(flux / "tokenizer_2")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=named):
        genfocus(tmp_path / "copy").deblur(texture(*SIZE), 0, nothing)


def test_a_lora_for_another_model(weights: Path, tmp_path: Path):
    folder = copied(weights, tmp_path)
    other = tiny_flux.lora(tiny_flux.TRANSFORMER | {"num_attention_heads": 3})
    save_file(tiny_flux.lora_tensors(other), folder / "bokehNet.safetensors")
    with pytest.raises(UsageError, match="a LoRA for another model"):
        bokehnet(folder)


def test_flux_without_guidance_is_refused(weights: Path, tmp_path: Path):
    path = copied(weights, tmp_path) / "FLUX.1-dev/transformer/config.json"
    path.write_text(path.read_text().replace('"guidance_embeds": true', '"guidance_embeds": false'))
    with pytest.raises(UsageError, match=r"must be FLUX\.1-dev"):
        genfocus(tmp_path / "copy")


def test_a_deblurnet_file_from_before_the_renaming_is_recognised(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = copied(weights, tmp_path)
    warn_of_old_file(folder / "deblurNet.safetensors")
    assert not caplog.records
    december_2025 = 1_765_000_000
    for title in ("deblurNet.safetensors", "deblurNet_with_pre_deblur.safetensors"):
        os.utime(folder / title, (december_2025, december_2025))
    genfocus(folder, conditions=2, steps=1).deblur(texture(*SIZE), 0, nothing)
    assert not caplog.records, "the file for two conditions was never renamed"
    genfocus(folder, steps=1).deblur(texture(*SIZE), 0, nothing)
    assert "expected 2 conditions" in caplog.text and "--deblur_conditions 2" in caplog.text


def test_frames_of_the_wrong_size_or_type_are_refused(weights: Path):
    engine = genfocus(weights)
    with pytest.raises(InputError, match="multiples of 16"):
        engine.deblur(texture(40, 64), 0, nothing)
    with pytest.raises(InputError, match="uint8"):
        engine.deblur(texture(*SIZE).astype(np.float32), 0, nothing)
    with pytest.raises(InputError, match="focus map"):
        bokehnet(weights).render(replace(request(), focus_map=np.ones((4, 4), np.float16)), nothing)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be"),
        ({"tiling": "on"}, "tiling must be auto or off"),
        ({"dtype": "fp16"}, "dtype must be bf16 or fp32"),
        ({"offload": "disk"}, "offload must be none or model or sequential"),
        ({"tile_batch": 0}, "tile_batch must be"),
        ({"conditions": 3}, "conditions must be 1 or 2"),
    ],
)
def test_wrong_options(weights: Path, options: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        genfocus(weights, **options)


def test_wrong_guidance(weights: Path):
    with pytest.raises(UsageError, match="guidance must be physical or normalised"):
        bokehnet(weights, guidance="strong")
    with pytest.raises(UsageError, match="guidance_px must be"):
        bokehnet(weights, guidance_px=0)


def test_default_options_and_those_that_are_recorded(weights: Path):
    assert (GenfocusDeblur.Options().steps, BokehNet.Options().steps) == (8, 30)
    engine = genfocus(weights, tile_batch=4, offload="model", compile=True)
    assert recorded_options(engine.options) == {
        "steps": 2,
        "tiling": "auto",
        "dtype": "fp32",
        "author_seeds": False,
        "conditions": 1,
    }
    assert engine_fields(engine) == engine_fields(genfocus(weights)), "memory and places change no output"
    assert set(engine.info.weights) == {"FLUX.1-dev", "deblurNet.safetensors"}
    assert "FLUX.1 [dev] Non-Commercial License" in engine.info.licence


def test_heavy_libraries_wait_until_they_are_needed():
    """Choosing another engine imports this one's module; it must not pay for diffusers and transformers."""
    code = (
        "import sys; from pipeline.engines import engine_class; engine_class('deblur', 'genfocus'); "
        "print([name for name in ('diffusers', 'transformers', 'accelerate', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_asked_for_and_absent(weights: Path):
    with pytest.raises(UsageError, match="no CUDA device"):
        load_engine("deblur", "genfocus", {"weights": str(weights)}, "cuda", Deblurrer)


# Memory


def states(plan: MemoryPlan) -> list[str]:
    seen = []
    while plan.shrink():
        seen.append(str(plan))
    return seen


def test_memory_plan_on_a_gpu():
    assert states(MemoryPlan(FluxOptions(tile_batch=4, tiling="off"), "cuda")) == [
        "tile_batch 2, offload none, tiling off, VAE whole",
        "tile_batch 1, offload none, tiling off, VAE whole",
        "tile_batch 1, offload model, tiling off, VAE whole",
        "tile_batch 1, offload model, tiling auto, VAE whole",
        "tile_batch 1, offload model, tiling auto, VAE in tiles",
        "tile_batch 1, offload sequential, tiling auto, VAE in tiles",
    ]


def test_memory_plan_on_the_cpu():
    assert states(MemoryPlan(FluxOptions(offload="sequential"), "cpu")) == [
        "tile_batch 1, offload none, tiling auto, VAE in tiles"
    ]


def test_out_of_memory_takes_the_next_step_and_then_gives_up(weights: Path, monkeypatch: pytest.MonkeyPatch):
    frame, plain, failures = texture(*SIZE), network.denoise, 2

    def scarce(*args: Any) -> torch.Tensor:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(*args)

    monkeypatch.setattr(network, "denoise", scarce)
    engine, said = genfocus(weights, tile_batch=2), []
    retry_on_oom(engine, lambda: engine.deblur(frame, 0, nothing), said.append)
    assert len(said) == 2 and engine._network.plan.tile_batch == 1 and engine._network.plan.vae_tiling
    failures = 1
    with pytest.raises(torch.OutOfMemoryError):
        retry_on_oom(engine, lambda: engine.deblur(frame, 0, nothing), said.append)


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_changes_no_picture(weights: Path, offload: str):
    """On the CPU the same code moves nothing far; on a GPU it is what the memory plan switches to between two frames."""
    frame, engine = texture(*SIZE), genfocus(weights)
    before = engine.deblur(frame, 0, nothing)
    engine._network.plan.offload = offload
    assert np.array_equal(engine.deblur(frame, 0, nothing), before)
    assert engine._network._placed.offload == offload


def test_large_frames_are_tiled_and_costs_are_logged(weights: Path, caplog: pytest.LogCaptureFixture):
    frame = texture(512, 528)
    with caplog.at_level(logging.INFO):
        tiled = genfocus(weights, steps=1).deblur(frame, 0, nothing)
        batched = genfocus(weights, steps=1, tile_batch=2).deblur(frame, 0, nothing)
    assert "528x512 tiled, 1 steps" in caplog.text and " s, peak " in caplog.text
    assert difference(tiled, batched) <= 1


def test_bf16_comes_near(weights: Path):
    frame = texture(*SIZE)
    exact = genfocus(weights).deblur(frame, 0, nothing).astype(float)
    half = genfocus(weights, dtype="bf16").deblur(frame, 0, nothing)
    assert np.abs(half - exact).mean() < 0.2 * exact.std()


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"compile": True}, {"offload": "model"}, {"offload": "sequential"}])
def test_cuda_draws_what_the_cpu_draws(weights: Path, options: dict[str, Any]):
    frame = texture(512, 528)
    given = {"weights": weights, "dtype": "fp32", "steps": 2} | options
    engine = load_engine("deblur", "genfocus", {name: str(value) for name, value in given.items()}, "cuda", Deblurrer)
    assert difference(engine.deblur(frame, 0, nothing), genfocus(weights).deblur(frame, 0, nothing)) <= 3
