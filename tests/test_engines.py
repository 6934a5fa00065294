"""The embedded engines, temporal depth engines through phase 3, and noisy deblurrers through phase 2."""

import json
import types
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from conftest import Project, moving_frames, texture, tree, write_scene

from pipeline.engines import engine_class, load_engine
from pipeline.engines.base import BokehRenderer, BokehRequest, Clip, Deblurrer, DepthEstimator
from pipeline.engines.info import EngineInfo
from pipeline.engines.wiener import noise_sigma
from pipeline.errors import ExitCode
from pipeline.optics import Lens
from pipeline.phases.deblur import DeblurPhase, DeblurSettings, psnr_db
from pipeline.phases.depth import DepthPhase, DepthSettings
from pipeline.phases.runner import run_scenes
from pipeline.run_settings import RunSettings
from pipeline.storage.scene import Scene


def degraded(clean: np.ndarray, sigma_px: float, noise: float, seed: int = 0) -> np.ndarray:
    blurred = cv2.GaussianBlur(clean, (0, 0), sigma_px).astype(np.float32)
    return np.clip(blurred + np.random.default_rng(seed).normal(0, noise, clean.shape), 0, 255).astype(np.uint8)


def wiener(**options: str) -> Deblurrer:
    return load_engine("deblur", "wiener", options, "cpu", Deblurrer)


def picture() -> np.ndarray:
    base = texture(160, 240, seed=3)
    base[40:120:8, 30:200] = 20
    base[40:120, 60:180:12] = 230
    return base


def test_wiener_comes_closer_to_the_truth():
    clean = picture()
    blurred = degraded(clean, 0.8, 1.0)
    sharp = wiener(sigma_px="0.8").deblur(blurred, 0, lambda: None)
    assert psnr_db(sharp, clean) > psnr_db(blurred, clean) + 2


def test_wiener_does_not_blow_up_noise():
    flat = np.full((96, 96, 3), 128, np.uint8)
    noisy = degraded(flat, 0.5, 12.0)
    sharp = wiener().deblur(noisy, 0, lambda: None)
    assert sharp.std() < 1.2 * noisy.std()


def test_wiener_keeps_brightness_and_flat_pictures():
    flat = np.full((48, 64, 3), (200, 30, 90), np.uint8)
    assert np.array_equal(wiener().deblur(flat, 0, lambda: None), flat)
    clean = (picture() * 0.5 + 60).astype(np.uint8)  # away from black and white, where clipping moves the mean
    assert abs(wiener().deblur(clean, 0, lambda: None).mean() - clean.mean()) < 0.3


def test_noise_estimate():
    for level in (2.0, 6.0, 15.0):
        flat = np.full((200, 200, 3), 128, np.uint8)
        noisy = np.clip(flat + np.random.default_rng(0).normal(0, level, (200, 200, 1)), 0, 255).astype(np.uint8)
        assert noise_sigma(noisy) == pytest.approx(level, rel=0.1)


def test_wiener_on_tiny_pictures():
    for size in ((1, 1), (3, 5), (16, 16)):
        frame = texture(32, 32)[: size[0], : size[1]]
        assert wiener().deblur(frame, 0, lambda: None).shape == frame.shape


def test_lens_engine_blurs_as_the_map_says():
    sharp = picture()
    depth = np.full(sharp.shape[:2], 4.0, np.float32)
    engine = load_engine("bokeh", "lens", {}, "cpu", BokehRenderer)
    lens = Lens(f_m=0.05, f_number=2.0, focus_m=2.0)

    def render(label: float) -> np.ndarray:
        focus = np.full(depth.shape, label, np.float16)
        request = BokehRequest(
            sharp=sharp, focus_map=focus, depth_m=depth, lens=lens, max_coc_m=1e-3, px_per_mm=10.0, seed=0
        )
        return engine.render(request, lambda: None)

    assert np.array_equal(render(1.0), sharp), "in focus is untouched"
    detail = [np.abs(np.diff(render(label).astype(float), axis=1)).mean() for label in (1.0, 0.7, 0.4, 0.0)]
    assert detail == sorted(detail, reverse=True) and detail[0] > 2 * detail[-1]


def test_engines_satisfy_their_protocols():
    for role, name, kind in (
        ("deblur", "wiener", Deblurrer),
        ("deblur", "none", Deblurrer),
        ("depth", "given", DepthEstimator),
        ("bokeh", "lens", BokehRenderer),
    ):
        engine = load_engine(role, name, {}, "cpu", kind)
        assert isinstance(engine, kind) and engine.info is engine_class(role, name).info
        assert not engine.shrink()


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    pass


class DriftingDepth:
    """A temporal engine that sees chunks and is wrong by another factor in each, as real ones are."""

    info = EngineInfo(name="drifting", role="depth", version=1, licence="a test", deterministic=True)
    temporal = True
    Options = NoOptions

    def __init__(self) -> None:
        self.options = NoOptions()
        self.chunks: list[range] = []

    def shrink(self) -> bool:
        return False

    def estimate(self, clip: Clip, safe_point) -> np.ndarray:
        self.chunks.append(clip.indices)
        factor = 1 + 0.1 * (clip.indices.start // 10 % 2)
        frames = [clip.frames(index) for index in clip.indices]
        return np.stack([factor * (1 + frame[..., 0].astype(np.float32) / 64) for frame in frames])


def run_depth_engine(project: Project, engine: DriftingDepth, settings: DepthSettings) -> ExitCode:
    run = RunSettings(raw_root=project.raw, out_root=project.out, logs=project.logs)
    return run_scenes(DepthPhase(settings, engine, run), run)


def test_long_scene_through_a_temporal_engine(project: Project):
    write_scene(project.raw, "long", 40, depth=False)
    project.run_upto(2)
    engine = DriftingDepth()
    assert run_depth_engine(project, engine, DepthSettings(chunk=14, overlap=4)) == ExitCode.DONE
    assert [len(chunk) for chunk in engine.chunks] == [14, 14, 14, 10]
    scene = Scene(project.out, "long")
    medians = [float(np.median(np.load(scene.depth_path(frame))["depth"])) for frame in range(40)]
    jumps = np.abs(np.diff(medians)) / np.array(medians[:-1])
    assert jumps.max() < 0.05, "factors that differ by 10 % are blended over 4 frames"
    whole = tree(scene.dir)
    for frame in (11, 12):
        scene.depth_path(frame).unlink()
    resumed = DriftingDepth()
    assert run_depth_engine(project, resumed, DepthSettings(chunk=14, overlap=4)) == ExitCode.DONE
    assert tree(scene.dir) == whole and len(resumed.chunks) == 2, "only the chunks that hold them"


def test_engine_with_the_wrong_shape_is_named(project: Project):
    write_scene(project.raw, "tiny", 18, depth=False)
    project.run_upto(2)
    engine = DriftingDepth()
    engine.estimate = types.MethodType(lambda self, clip, stop: np.ones((2, 2), np.float32), engine)
    assert run_depth_engine(project, engine, DepthSettings()) == ExitCode.SOME_SCENES_FAILED


def test_median_jumps_and_odd_scales_are_warned_about(project: Project):
    folder = write_scene(project.raw, "tiny")
    for number, path in enumerate(sorted((folder / "depth").iterdir())):
        np.savez(path, depth=np.full((48, 72), 60.0 if number < 9 else 80.0, np.float32))
    project.run_upto(3)
    assert "median depth jumps by more than 15 % at 1 frames: 9" in project.text
    assert "outside 0.5 to 50 m" in project.text


class NoisyDeblur:
    """A stochastic engine: the frame plus noise drawn from the seed and the picture, like a diffusion network's."""

    info = EngineInfo(name="noisy", role="deblur", version=1, licence="a test", deterministic=False)
    Options = NoOptions

    def __init__(self) -> None:
        self.options = NoOptions()
        self.seeds: list[int] = []

    def shrink(self) -> bool:
        return False

    def deblur(self, frame: np.ndarray, seed: int, safe_point) -> np.ndarray:
        self.seeds.append(seed)
        own = int(frame[::7, ::7].astype(np.int64).sum())
        noise = np.random.default_rng([seed, own]).normal(0, 10, (*frame.shape[:2], 1))
        return np.clip(frame + cv2.GaussianBlur(noise, (0, 0), 3)[..., None] * 4, 0, 255).astype(np.uint8)


def deblur_with(project: Project, where: str, temporal: str) -> tuple[Scene, NoisyDeblur]:
    engine = NoisyDeblur()
    run = RunSettings(raw_root=project.raw, out_root=project.root / where, logs=project.logs)
    first = Project(project.root)
    first.out = run.out_root
    assert first.run(1) == 0
    assert run_scenes(DeblurPhase(DeblurSettings(temporal=temporal), engine, run), run) == ExitCode.DONE
    return Scene(run.out_root, "pan"), engine


@pytest.fixture
def pan(project: Project) -> Project:
    write_scene(project.raw, "pan", moving_frames(24, size=(160, 96)), depth=False)
    return project


def summary(scene: Scene) -> dict:
    return json.loads((scene.sharp_dir / ".done").read_text())["summary"]


def test_three_temporal_modes(pan: Project):
    plain, engine = deblur_with(pan, "plain", "none")
    assert len(engine.seeds) == 24 and len(set(engine.seeds)) == 1, "one inference a frame, one seed a scene"
    flow, engine = deblur_with(pan, "flow", "flow")
    assert len(engine.seeds) == 24 and len(set(engine.seeds)) == 1
    resample, engine = deblur_with(pan, "resample", "resample")
    assert len(set(engine.seeds)) == 2, "24 frames are two windows, each with its own seed"
    assert len(engine.seeds) == 32, "8 of the 24 frames lie in both"
    assert summary(plain)["flicker_output"] == summary(plain)["flicker_frame"]
    assert summary(flow)["flicker_output"] < 0.8 * summary(flow)["flicker_frame"]
    assert summary(flow)["detail_output"] >= 0.95 * summary(flow)["detail_frame"]
    assert summary(resample)["flicker_output"] < summary(plain)["flicker_output"]


def test_resume_of_resample_gives_the_same(pan: Project):
    scene, _ = deblur_with(pan, "resample", "resample")
    before = tree(scene.dir)
    for frame in (3, 12, 13):
        scene.sharp_path(frame).unlink()
    again, engine = deblur_with(pan, "resample", "resample")
    assert tree(again.dir) == before
    assert len(engine.seeds) < 16
