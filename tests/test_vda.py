"""Video Depth Anything: the network, its input and its windows against the slow reference, and phase 3 from end to end.

The networks here are tiny and random; their file has the published form and goes through the published code path.
"""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import vda_reference as reference
from conftest import Project, load_script, texture, tree, write_scene
from media_clips import write_clip
from vda_reference import PUBLISHED as CONVENTIONS
from vda_reference import as_arrays, save_tiny, tiny_state

from pipeline.engines import load_engine
from pipeline.engines.base import Clip, DepthEstimator
from pipeline.engines.vda import VideoDepthAnything
from pipeline.engines.vda.architecture import PUBLISHED
from pipeline.engines.vda.network import VideoDepthNetwork, load_network, read_state
from pipeline.engines.vda.preprocess import network_size, normalise, resize_frame
from pipeline.engines.vda.temporal import sinusoids
from pipeline.engines.vda.windows import fresh_frames, stream_depth
from pipeline.errors import InputError, UsageError
from pipeline.media.depth_readers import ArrayStack, read_map
from pipeline.media.video_decoder import decode_video
from pipeline.storage.scene import Scene
from pipeline.weights import DamagedWeightsError

GRID = (3, 5)
NAME = "metric_video_depth_anything_vitl.pth"


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights of this machine and no cache of this user."""
    for name in ("BOKEHFLOW_WEIGHTS", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def network(tiny: Path) -> VideoDepthNetwork:
    return load_network(tiny, "vitl", "cpu").double()


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return torch.randn(
        2, 3, 14 * GRID[0], 14 * GRID[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def relative(ours: torch.Tensor, theirs: np.ndarray) -> float:
    assert tuple(ours.shape) == theirs.shape
    return float(np.abs(ours.detach().double().numpy() - theirs).max() / np.abs(theirs).max())


def test_published_networks_have_the_published_counts():
    """Entries and parameters as computed from the shapes of the published files (docs/engines.md)."""
    for name, entries, millions in (("vits", 351, 29.04), ("vitb", 351, 114.44), ("vitl", 519, 384.39)):
        with torch.device("meta"):
            made = VideoDepthNetwork(PUBLISHED[name])
        assert len(made.state_dict()) == entries
        assert sum(value.numel() for value in made.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    assert [PUBLISHED[name].heads for name in ("vits", "vitb", "vitl")] == [6, 12, 16]
    assert PUBLISHED["vits"].taps == PUBLISHED["vitb"].taps == (2, 5, 8, 11) and PUBLISHED["vitl"].taps == (
        4,
        11,
        17,
        23,
    )
    assert replace(PUBLISHED["vits"], depth=4).taps == (0, 1, 2, 3)


@torch.no_grad()
def test_encoder_equals_the_reference(network: VideoDepthNetwork, frames: torch.Tensor):
    state = as_arrays(tiny_state())
    levels = network.encode(frames)
    for number, frame in enumerate(frames.numpy()):
        for ours, theirs in zip(levels, reference.encode(state, frame), strict=True):
            assert relative(ours[number], theirs) < 1e-10
    square = torch.randn(1, 3, 56, 56, dtype=torch.float64)  # the trained grid itself, 4 x 4 here
    for ours, theirs in zip(network.encode(square), reference.encode(state, square[0].numpy()), strict=True):
        assert relative(ours[0], theirs) < 1e-10


@torch.no_grad()
def test_head_equals_the_reference(network: VideoDepthNetwork):
    random = torch.Generator().manual_seed(2)
    levels = [torch.randn(3, GRID[0] * GRID[1], reference.DIM, dtype=torch.float64, generator=random) for _ in range(4)]
    expected = reference.decode(as_arrays(tiny_state()), list(zip(*(x.numpy() for x in levels), strict=True)), GRID)
    assert relative(network.decode(levels, GRID), expected) < 1e-10
    assert relative(network.decode(levels, GRID, slice(1, 3)), expected[1:3]) < 1e-10
    for micro_batch in (1, 2, 5):
        assert relative(network.decode(levels, GRID, micro_batch=micro_batch), expected) < 1e-10


@torch.no_grad()
def test_temporal_module_equals_the_reference(network: VideoDepthNetwork):
    random = torch.Generator().manual_seed(3)
    state = as_arrays(tiny_state())
    for number, channels in enumerate((32, 64, 32, 32)):
        x = torch.randn(32, channels, 2, 3, dtype=torch.float64, generator=random)
        expected = reference.temporal(state, number, x.numpy())
        for parts in (1, 4, 32):
            assert relative(network.head.motion_modules[number](x, parts), expected) < 1e-10


@torch.no_grad()
def test_whole_network_equals_the_reference_and_each_convention_counts(
    network: VideoDepthNetwork, frames: torch.Tensor
):
    state = as_arrays(tiny_state())
    depth = network(frames)
    assert relative(depth, reference.network(state, frames.numpy())) < 1e-10
    assert depth.min() >= 0 and (depth > 0).float().mean() > 0.5
    for broken in (
        {"position_offset": 0.0},
        {"norm_every_tap": False},
        {"align_corners": False},
        {"position_encoding_on_values": False},
        {"exact_gelu": False},
        {"value_before_gate": False},
    ):
        other = reference.network(state, frames.numpy(), replace(CONVENTIONS, **broken))
        assert relative(depth, other) > 1e-6, f"{broken} would go unnoticed"


def test_sinusoids_are_the_published_table():
    for channels in (32, 64, 1024):
        assert np.abs(sinusoids(channels)[0].numpy() - reference.position_encoding(channels)).max() < 1e-6


@torch.no_grad()
def test_last_convolutions_run_in_full_precision_under_autocast(tiny: Path, frames: torch.Tensor):
    network = load_network(tiny, "vitl", "cpu")
    seen = {}
    for name in ("output_conv1", "output_conv2.0", "output_conv2.2"):
        layer = network.head.scratch.get_submodule(name)
        layer.register_forward_hook(lambda _, given, made, name=name: seen.update({name: made.dtype}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        depth = network(frames.float())
    assert seen == {
        "output_conv1": torch.bfloat16,
        "output_conv2.0": torch.float32,
        "output_conv2.2": torch.float32,
    }
    assert depth.dtype == torch.float32
    assert relative(depth, reference.network(as_arrays(tiny_state()), frames.numpy())) < 0.1


@torch.no_grad()
def test_unused_tensors_of_the_file_change_nothing_and_must_be_there(tmp_path: Path, frames: torch.Tensor):
    state = tiny_state()
    idle = [name for name in state if name.startswith("head.scratch.refinenet4.resConfUnit1") or "mask_token" in name]
    assert len(idle) == 5
    spoiled = {name: torch.full_like(value, torch.nan) if name in idle else value for name, value in state.items()}
    torch.save(spoiled, tmp_path / NAME)
    depth = load_network(tmp_path / NAME, "vitl", "cpu").double()(frames)
    assert relative(depth, reference.network(as_arrays(state), frames.numpy())) < 1e-10
    for name in idle:
        torch.save({key: value for key, value in state.items() if key != name}, tmp_path / NAME)
        with pytest.raises(DamagedWeightsError, match=f"1 missing: {name}"):
            read_state(tmp_path / NAME, "vitl")


@torch.no_grad()
def test_position_encodings_are_taken_from_the_file(tmp_path: Path, frames: torch.Tensor):
    state = tiny_state()
    tables = [name for name in state if name.endswith(".pe")]
    assert len(tables) == 8
    for name in tables:
        state[name] = state[name].flip(1)
    torch.save(state, tmp_path / NAME)
    depth = load_network(tmp_path / NAME, "vitl", "cpu").double()(frames)
    assert relative(depth, reference.network(as_arrays(state), frames.numpy())) < 1e-10
    assert relative(depth, reference.network(as_arrays(tiny_state()), frames.numpy())) > 1e-6


def test_a_file_that_does_not_fit_is_named_by_its_differences(tmp_path: Path):
    path, state = tmp_path / NAME, tiny_state()

    def judged(changed: dict[str, torch.Tensor], encoder: str = "vitl") -> str:
        torch.save(changed, path)
        with pytest.raises(DamagedWeightsError) as caught:
            read_state(path, encoder)
        return str(caught.value)

    assert "1 missing: pretrained.norm.bias" in judged({k: v for k, v in state.items() if k != "pretrained.norm.bias"})
    assert "1 too many: head.more" in judged(state | {"head.more": torch.ones(1)})
    wrong = judged(state | {"head.projects.0.bias": torch.ones(3)})
    assert f"of {len(state)} tensors needed, {len(state)} found" in wrong
    assert "1 of another shape: head.projects.0.bias is (3,), needed (8,)" in wrong
    without_head = {name: value for name, value in state.items() if name.startswith("pretrained.")}
    assert "head.scratch.layer1_rn.weight' is missing" in judged(without_head)
    half = {name: value for name, value in state.items() if "motion_modules" not in name}
    assert "112 missing" in judged(half), "the tensors of the temporal modules"
    with torch.device("meta"):
        small = VideoDepthNetwork(PUBLISHED["vits"]).state_dict()
    hollow = {
        name: torch.zeros(1).expand(value.shape) for name, value in small.items()
    }  # shapes of 116 MB in little room
    assert "they are those of vits" in judged(hollow), "whose licence is another"
    read_state(path, "vits")
    assert "head.scratch.layer1_rn.weight is (32, 48, 3, 3), needed (64, 48, 3, 3)" in judged(
        hollow | {"head.scratch.layer1_rn.weight": torch.zeros(32, 48, 3, 3)}, "vits"
    )


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ((1920, 1080), (924, 518)),
        ((1280, 720), (924, 518)),
        ((854, 480), (924, 518)),
        ((1920, 1088), (910, 518)),
        ((1080, 1920), (518, 924)),
        ((640, 480), (686, 518)),
        ((1024, 1024), (518, 518)),
        ((2048, 858), (938, 392)),
        ((1280, 536), (938, 392)),
        ((1710, 1000), (882, 518)),  # not longer than 1.78 : 1, so the short side stays
    ],
)
def test_network_size_is_the_published_one(frame: tuple[int, int], expected: tuple[int, int]):
    assert network_size(*frame) == expected


def test_network_size_of_odd_pictures_is_a_multiple_of_14():
    for frame in ((16, 16), (16, 4000), (3000, 16), (853, 479)):
        for input_size in (14, 28, 518):
            assert all(side >= 14 and side % 14 == 0 for side in network_size(*frame, input_size))


def prepare(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return normalise(resize_frame(frame, size)[None])[0].double().numpy()


def test_frames_are_resized_with_unclamped_cubics():
    frame = texture(40, 60)
    frame[:, 30:] = 255  # an edge, so that the cubic overshoots
    frame[:, 20:30] = 0
    for size in ((84, 56), (42, 28)):
        prepared = prepare(frame, size)
        values = frame.transpose(2, 0, 1).astype(np.float64) / 255
        resized = reference.bicubic(values, size[::-1], (size[1] / 40, size[0] / 60))
        mean, spread = (np.array(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        assert np.abs(prepared - (resized - mean) / spread).max() < 1e-4
        assert resized.max() > 1.02 and resized.min() < -0.02, "what a clamp would take away"
        assert np.abs(resized - reference.bilinear(values, size[::-1], align_corners=False)).max() > 0.02


def toy_window(inputs: np.ndarray) -> np.ndarray:
    """32 inputs -> 32 maps, each dependent on all inputs and on the slots they are in."""
    slots = np.arange(32)
    weights = np.cos(slots[:, None] * 1.7 + slots[None] * 0.9)
    return np.tensordot(weights, np.sin(inputs), 1) + 40


def toy_stream(inputs: list[np.ndarray]) -> tuple[np.ndarray, list[int], int]:
    """Through `stream_depth`: depth, the frames in the order in which they were asked for, and the largest block."""
    asked: list[int] = []

    def encode(new: range) -> list[torch.Tensor]:
        asked.extend(new)
        return [torch.from_numpy(np.stack([inputs[index] for index in new]))]

    blocks = list(
        stream_depth(encode, lambda x, wanted: torch.from_numpy(toy_window(x[0].numpy()))[wanted], len(inputs))
    )
    return torch.cat(blocks).numpy(), asked, max(len(block) for block in blocks)


def toy_inputs(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(count).normal(size=(count, 2, 3)))


def test_streamed_windows_equal_the_whole_video_for_every_length():
    for count in range(1, 101):
        inputs = toy_inputs(count)
        depth, asked, largest = toy_stream(inputs)
        assert asked == list(range(count)), "each frame once, in order"
        assert largest <= 30, "memory does not grow with the video"
        assert np.abs(depth - np.stack(reference.whole_video(inputs, toy_window))).max() < 1e-10, f"{count} frames"


def test_leaving_out_replaced_inputs_or_the_crossfade_changes_depth():
    inputs = toy_inputs(60)
    depth, _, _ = toy_stream(inputs)
    for broken in ({"replace_inputs": False}, {"crossfade": False}):
        assert np.abs(depth - np.stack(reference.whole_video(inputs, toy_window, **broken))).max() > 0.1, broken


def engine(folder: Path, **options: str) -> VideoDepthAnything:
    options = {"weights": str(folder), "input_size": "28"} | options
    made = load_engine("depth", "vda", options, "cpu", DepthEstimator)
    assert isinstance(made, VideoDepthAnything)
    return made


def clip_of(frames: list[np.ndarray], read: list[int] | None = None, start: int = 0) -> Clip:
    def frame(index: int) -> np.ndarray:
        if read is not None:
            read.append(index)
        return frames[index]

    return Clip(range(start, len(frames)), frame, None)


def test_engine_on_a_video_equals_the_reference(tiny: Path):
    frames = [cv2.resize(texture(40, 72, seed)[:, :64], (48, 32)) for seed in range(36)]
    read: list[int] = []
    depth = engine(tiny.parent).estimate(clip_of(frames, read, start=2), lambda: None)
    assert depth.shape == (34, 32, 48) and depth.dtype == np.float32
    assert sorted(read) == [2, *range(2, 36)], "each once, and the first once more for its size"
    state = as_arrays(tiny_state())
    inputs = [prepare(frame, network_size(48, 32, 28)) for frame in frames[2:]]
    maps = reference.whole_video(inputs, lambda window: reference.network(state, window))
    expected = np.stack([reference.bilinear(depth_map[None], (32, 48), True)[0] for depth_map in maps])
    assert np.abs(depth - expected).max() / expected.max() < 1e-4, "float32 against float64"


def test_micro_batches_and_less_memory_change_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    frames = [texture(32, 32, seed) for seed in range(33)]
    whole = engine(tiny.parent, input_size="56", micro_batch="32").estimate(clip_of(frames), lambda: None)
    tight = engine(tiny.parent, input_size="56", micro_batch="8")
    shrunk = [tight.shrink() for _ in range(4)]
    assert shrunk == [True, True, True, False]
    sizes = []
    really = VideoDepthNetwork.encode
    monkeypatch.setattr(VideoDepthNetwork, "encode", lambda self, x: sizes.append(len(x)) or really(self, x))
    depth = tight.estimate(clip_of(frames), lambda: None)
    assert np.abs(depth - whole).max() / whole.max() < 1e-4, "float32 rounding; in float64 the head's parts are exact"
    assert set(sizes) == {1} and len(sizes) == 33


def test_half_precision_is_near_and_its_depth_is_not_rounded_to_half(tiny: Path):
    frames = [texture(56, 84, seed) for seed in range(12)]
    full = engine(tiny.parent, input_size="56").estimate(clip_of(frames), lambda: None)
    half = engine(tiny.parent, input_size="56", precision="fp16").estimate(clip_of(frames), lambda: None)
    assert 0 < np.abs(half - full).max() / full.max() < 0.05
    assert (half != half.astype(np.float16)).mean() > 0.9


def test_frames_of_another_size_are_named(tiny: Path):
    frames = [texture(32, 48), texture(32, 48), texture(48, 32)]
    with pytest.raises(InputError, match="frame 2 is 32x48, the first is 48x32"):
        engine(tiny.parent).estimate(clip_of(frames), lambda: None)


class Stop(BaseException):
    pass


def test_a_stop_is_obeyed_inside_a_window(tiny: Path):
    calls = []

    def safe_point() -> None:
        calls.append(1)
        if len(calls) == 20:
            raise Stop

    with pytest.raises(Stop):
        engine(tiny.parent, micro_batch="4").estimate(clip_of([texture(32, 32)] * 33), safe_point)


def test_options_are_checked(tiny: Path):
    for option, message in (
        ({"encoder": "vitg"}, "encoder must be one of vits, vitb, vitl, got 'vitg'"),
        ({"precision": "int8"}, "precision must be one of auto, fp16, fp32"),
        ({"input_size": "500"}, "input_size must be a positive multiple of 14, got 500"),
        ({"micro_batch": "0"}, "micro_batch must be in"),
        ({"micro": "2"}, "options and defaults: encoder=vitl, input_size=518"),
    ):
        with pytest.raises(UsageError, match=message):
            engine(tiny.parent, **option)
    assert engine(tiny.parent).options.precision == "fp32", "what auto became on this device"


def test_licence_follows_the_encoder(tmp_path: Path):
    for encoder, licence in (("vits", "Apache-2.0"), ("vitl", "CC-BY-NC-4.0")):
        path = save_tiny(tmp_path, encoder)
        info = engine(tmp_path, encoder=encoder).info
        assert info.licence == licence and list(info.weights) == [path.name]


def run_vda(project: Project, weights: Path, *more: str) -> int:
    options = ["--engine_opt", f"weights={weights}", "--engine_opt", "input_size=28"]
    return project.run(3, "--engine", "vda", "--device", "cpu", *options, *more)


def test_phase_3_from_end_to_end(project: Project, tiny: Path, tmp_path: Path):
    write_scene(project.raw, "pan", 44, depth=False)
    project.run_upto(2)
    chunks = ("--chunk", "26", "--overlap", "6")
    assert run_vda(project, tiny.parent, *chunks) == 0, project.text
    scene = Scene(project.out, "pan")
    record = json.loads((scene.depth_dir / ".done").read_text())
    assert record["engine"] == "vda" and record["licence"] == "CC-BY-NC-4.0"
    described = record["fields"]["engine"]
    assert described["options"] == {"encoder": "vitl", "input_size": 28, "precision": "fp32"}
    assert list(described["weights"]) == [NAME] and len(described["weights"][NAME]) == 64
    assert str(tiny.parent) not in (scene.depth_dir / ".done").read_text()
    depth = [np.load(scene.depth_path(frame))["depth"] for frame in range(44)]
    assert all(values.shape == (48, 80) and np.isfinite(values).all() for values in depth)
    assert np.std(depth, dtype=np.float64) > 0.01
    whole = tree(scene.dir)
    scene.depth_path(22).unlink()
    assert run_vda(project, tiny.parent, *chunks) == 0
    assert tree(scene.dir) == whole, "resumed is as never interrupted"
    moved = tmp_path / "elsewhere" / "checkpoints" / NAME
    moved.parent.mkdir(parents=True)
    moved.write_bytes(tiny.read_bytes())
    assert run_vda(project, tmp_path / "elsewhere", "--engine_opt", "micro_batch=3", *chunks) == 0
    assert "1 skipped" in project.text, "neither the place of the weights nor the micro-batch is in the fingerprint"
    save_tiny(tmp_path / "other", seed=5)
    assert run_vda(project, tmp_path / "other", *chunks) == 3
    assert f"engine.weights.{NAME} changed" in project.text


def test_out_of_memory_tries_again_with_less(project: Project, tiny: Path, monkeypatch: pytest.MonkeyPatch):
    write_scene(project.raw, "pan", 18, depth=False)
    project.run_upto(2)
    assert run_vda(project, tiny.parent, "--engine_opt", "micro_batch=2") == 0
    before = [np.load(Scene(project.out, "pan").depth_path(frame))["depth"] for frame in range(18)]
    really = VideoDepthNetwork.encode

    def small_device(self: VideoDepthNetwork, x: torch.Tensor) -> list[torch.Tensor]:
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return really(self, x)

    monkeypatch.setattr(VideoDepthNetwork, "encode", small_device)
    for frame in range(18):
        Scene(project.out, "pan").depth_path(frame).unlink()
    assert run_vda(project, tiny.parent) == 0, project.text
    assert project.text.count("trying again with less") == 2, "8 -> 4 -> 2 frames at once"
    after = [np.load(Scene(project.out, "pan").depth_path(frame))["depth"] for frame in range(18)]
    assert np.array_equal(before, after)
    monkeypatch.setattr(VideoDepthNetwork, "encode", lambda self, x: small_device(self, torch.cat([x] * 3)))
    for frame in range(18):
        Scene(project.out, "pan").depth_path(frame).unlink()
    assert run_vda(project, tiny.parent) == 3
    assert "out of memory" in project.text


def test_missing_and_wrong_weights_and_no_cuda_are_one_error(project: Project, tiny: Path, tmp_path: Path):
    write_scene(project.raw, "pan", 18, depth=False)
    project.run_upto(2)

    def refused(*more: str, folder: Path = tiny.parent) -> str:
        assert run_vda(project, folder, *more) == 2
        assert "Traceback" not in project.text
        return project.text

    text = refused(folder=tmp_path / "nowhere")
    assert "weights are missing or damaged" in text and f"checkpoints/{NAME}" in text and "CC-BY-NC-4.0" in text
    assert "python -m pipeline weights" in text
    broken = tmp_path / "broken" / NAME
    broken.parent.mkdir()
    broken.write_bytes(tiny.read_bytes()[:-500])
    assert "damaged" in refused(folder=broken.parent) and "cut short" in project.text
    torch.save({"pretrained.cls_token": torch.ones(1, 1, 64)}, broken)
    assert "do not fit" in refused(folder=broken.parent)
    if not torch.cuda.is_available():
        assert "sees no CUDA device" in refused("--device", "cuda")


@pytest.mark.gpu
def test_cuda_equals_the_reference(tiny: Path):
    """Half precision rounds the features, not the last layers; single precision uses TF32 in convolutions."""
    frames = [texture(56, 84, seed) for seed in range(40)]
    options = {"weights": str(tiny.parent), "input_size": "56"}
    expected = load_engine("depth", "vda", options, "cpu", DepthEstimator).estimate(clip_of(frames), lambda: None)
    for precision, tolerance in (("fp32", 5e-3), ("fp16", 3e-2)):
        made = load_engine("depth", "vda", options | {"precision": precision}, "cuda", DepthEstimator)
        depth = made.estimate(clip_of(frames), lambda: None)
        assert np.abs(depth - expected).max() / expected.max() < tolerance, precision
    assert load_engine("depth", "vda", options, "cuda", DepthEstimator).options.precision == "fp16"


# --- any length as one video -------------------------------------------------------------------------------------------


def test_a_video_entered_in_the_middle_gives_the_same():
    for count in (1, 31, 32, 33, 45, 90, 130):
        inputs = toy_inputs(count)
        whole, _, _ = toy_stream(inputs)
        for first in {0, 1, 9, 10, 31, 32, 33, 53, 54, 64, 65, 87, count - 1}:
            if first >= count:
                continue
            asked: list[int] = []

            def encode(new: range, inputs: list = inputs, asked: list = asked) -> list[torch.Tensor]:
                asked.extend(new)
                return [torch.from_numpy(np.stack([inputs[index] for index in new]))]

            blocks = stream_depth(encode, lambda x, w: torch.from_numpy(toy_window(x[0].numpy()))[w], count, first)
            assert np.array_equal(torch.cat(list(blocks)).numpy(), whole[first:]), (count, first)
            assert asked == [index for new in fresh_frames(count, first) for index in new] == sorted(set(asked))
            assert first < 76 or len(asked) < count, "what nothing needs is not looked at"


def test_the_network_sees_frames_as_they_were_shot(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    """Phase 2 makes 848x480 of 854x480; the authors' program shows the network 924x518 of both that and 1080p."""
    assert network_size(848, 480) == (910, 518) and network_size(1920, 1088) == (910, 518)
    assert network_size(854, 480) == network_size(1920, 1080) == (924, 518)
    sizes = []
    really = VideoDepthNetwork.encode
    monkeypatch.setattr(VideoDepthNetwork, "encode", lambda self, x: sizes.append(x.shape[2:]) or really(self, x))
    frames = [cv2.resize(texture(40, 72), (848, 480))] * 2
    clip = Clip(range(2), lambda index: frames[index], None, (854, 480))
    depth = engine(tiny.parent, input_size="210").estimate(clip, lambda: None)
    assert depth.shape == (2, 480, 848) and set(sizes) == {(210, 378)}
    assert network_size(848, 480, 210) == (364, 210), "the size that phase 2's rounding would have given"


@pytest.mark.parametrize(
    "count", [100, pytest.param(300, marks=pytest.mark.slow), pytest.param(600, marks=pytest.mark.slow)]
)
def test_a_scene_of_any_length_is_one_video(project: Project, tiny: Path, network: VideoDepthNetwork, count: int):
    """Phase 3 from files to files against the whole-video scheme with all frames in memory; then resumed in the middle."""
    small = [texture(32, 48 + 2, seed) for seed in range(7)]
    frames = [small[number % 7][:, number % 3 : number % 3 + 48] for number in range(count)]
    write_scene(project.raw, "long", frames, depth=False)
    assert project.run(1) == 0 and project.run(2, "--engine", "none", "--no_temporal_avg") == 0
    assert run_vda(project, tiny.parent) == 0, project.text
    scene = Scene(project.out, "long")
    with torch.inference_mode():
        inputs = [prepare(frame, network_size(48, 32, 28)) for frame in frames]
        maps = reference.whole_video(inputs, lambda window: network(torch.from_numpy(window)).numpy())
    for number in range(count):
        expected = reference.bilinear(maps[number][None], (32, 48), True)[0]
        stored = np.load(scene.depth_path(number))["depth"].astype(np.float64)
        known = expected > 0.05  # where the random network says 0 m depth is unknown, and the median stands in
        assert known.mean() > 0.9
        error = np.abs(stored[known] - expected[known]) / expected[known]
        assert error.max() < 5e-3, f"frame {number}: float16 and float32 rounding"
    before = tree(scene.dir)
    for number in (count // 2, count // 2 + 1):
        scene.depth_path(number).unlink()
    assert run_vda(project, tiny.parent) == 0 and tree(scene.dir) == before, "resumed is as never interrupted"
    record = json.loads((scene.depth_dir / ".done").read_text())
    assert record["fields"]["settings"] == {"chunk": "whole scene"}


# --- one video, outside the phases -------------------------------------------------------------------------------------


def test_one_video_with_the_options_of_the_original(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Every second frame, five at most, at half size: npz, EXR and a colour video; the npz is delivered depth."""
    source = write_clip(tmp_path / "clip.mkv", [texture(64, 96, seed) for seed in range(14)], rate=20)
    flags = ["--max_len", "5", "--target_fps", "10", "--max_res", "48", "--save_exr", "--device", "cpu"]
    options = ["--engine_opt", f"weights={tiny.parent}", "--engine_opt", "input_size=28"]
    assert load_script("video_depth")([str(source), "-o", str(tmp_path / "out"), *flags, *options]) == 0
    said = capsys.readouterr().out
    depths = np.load(tmp_path / "out" / "clip_depths.npz")["depths"]
    assert depths.shape == (5, 32, 48) and depths.dtype == np.float32 and "clip_depths.npz" in said
    taken = [frame.picture for frame in decode_video(source)][:10:2]
    small = [cv2.resize(picture, (48, 32), interpolation=cv2.INTER_AREA) for picture in taken]
    expected = engine(tiny.parent).estimate(clip_of(small), lambda: None)
    assert np.abs(depths / expected - 1).max() < 1e-5
    exr = sorted((tmp_path / "out" / "clip_exr").iterdir())
    assert len(exr) == 5 and np.array_equal(read_map(exr[3]), depths[3])
    shown = list(decode_video(tmp_path / "out" / "clip_depth.mp4"))
    assert [float(frame.time_s) for frame in shown] == [0, 0.1, 0.2, 0.3, 0.4]
    assert ArrayStack(tmp_path / "out" / "clip_depths.npz").count() == 5
    for wrong in (["--max_len", "0"], ["--target_fps", "0"], ["--max_res", "7"]):
        assert load_script("video_depth")([str(source), *wrong, *options]) == 2
