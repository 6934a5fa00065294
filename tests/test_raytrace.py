"""The ray tracer against closed formulas: depth, circle of confusion, orientation, convergence, reproducible files."""

import functools
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.optics import Aperture, Lens, defocus_px, px_per_mm
from pipeline.raytrace import (
    SCENES,
    RaytraceError,
    SceneRequest,
    build_scene,
    psnr_db,
    render_frame,
    render_photograph,
    scene_requests,
    write_scene,
)
from pipeline.raytrace.camera import Camera, Pose
from pipeline.raytrace.geometry import Shapes
from pipeline.raytrace.lens_samples import opening_area, strata, to_opening
from pipeline.raytrace.light import Lighting
from pipeline.raytrace.material import Material
from pipeline.raytrace.render import nearest_hits
from pipeline.raytrace.scenes import BUILDERS
from pipeline.raytrace.textures import bricks
from pipeline.raytrace.world import RayScene

W, H = 96, 64
fresh_scene = build_scene
build_scene = functools.cache(build_scene)  # a scene costs a second; only the tests of determinism need a new one


def little_scene(fill, materials=None, f_mm=50.0):
    """A scene in the dark with only what `fill` puts into it; the camera sits at the origin and looks along +z."""
    shapes = Shapes()
    fill(shapes)
    return RayScene(
        name="little",
        seed=0,
        f_mm=f_mm,
        materials=materials or {"light": Material(glow=(1.0, 1.0, 1.0))},
        fixed=shapes,
        moving=lambda time_s: Shapes(),
        path=lambda time_s: Pose.look_at((0, 0, 0), (0, 0, 1)),
        lighting=Lighting(
            sun_direction=(0, 1, -1),
            sun=(0, 0, 0),
            zenith=(0, 0, 0),
            horizon=(0, 0, 0),
            ground=(0, 0, 0),
            haze=(0, 0, 0),
            haze_m=1e9,
        ),
        low=(-3, -3, 0),
        high=(3, 3, 6),
    )


def tangents(width, height, f_mm):
    focal_px = f_mm * px_per_mm(width)
    x = (np.arange(width) + 0.5 - width / 2) / focal_px
    y = (height / 2 - np.arange(height) - 0.5) / focal_px
    return np.meshgrid(x, y)


# depth


def test_depth_of_a_facing_plane_is_its_distance_not_the_ray_length():
    scene = little_scene(lambda s: s.plane((0, 0, 3.0), (0, 0, -1), "light"), f_mm=24.0)
    depth = render_frame(scene, 0, width=W, height=H, supersample=1).depth_m
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, 3.0, rtol=1e-6)  # the ray through a corner is 25 % longer


def test_depth_of_a_tilted_plane_is_exact_at_pixel_centres():
    # y = -1 seen from the origin: z = -1 / tangent_y below the horizon, sky above it.
    scene = little_scene(lambda s: s.plane((0, -1.0, 0), (0, 1, 0), "light"))
    depth = render_frame(scene, 0, width=W, height=H, supersample=2).depth_m
    _, y = tangents(W, H, 50.0)
    expected = np.where(y < 0, -1 / np.minimum(y, -1e-9), 1000.0)
    np.testing.assert_allclose(depth, np.minimum(expected, 1000.0), rtol=2e-5)


@pytest.mark.parametrize("radius", [0.5, 0.02])
def test_depth_of_a_sphere_is_exact(radius):
    distance = 40 * radius if radius < 0.1 else 4.0
    scene = little_scene(lambda s: s.ellipsoid((0.1 * radius, 0, distance), radius, "light"))
    depth = render_frame(scene, 0, width=W, height=H, supersample=1).depth_m
    x, y = tangents(W, H, 50.0)
    a, b = x * x + y * y + 1, 0.1 * radius * x + distance
    root = b * b - a * ((0.1 * radius) ** 2 + distance**2 - radius**2)
    hit = root > 0
    assert hit.sum() > 20
    np.testing.assert_array_equal(depth < 1000, hit)
    np.testing.assert_allclose(depth[hit], ((b - np.sqrt(np.maximum(root, 0))) / a)[hit], rtol=1e-4)


def test_depth_of_box_cylinder_and_rectangle():
    def fill(s):
        s.box((-0.6, 0, 3.0), (0.3, 0.3, 0.5), "light")
        s.cylinder((0, -0.5, 3.0), (0, 0.5, 3.0), 0.1, "light")
        s.rect((0.6, 0, 2.8), (0.2, 0, 0), (0, 0.2, 0), "light")

    depth = render_frame(little_scene(fill), 0, width=97, height=65, supersample=1).depth_m
    focal_px = 50.0 * px_per_mm(97)
    row = depth[32]
    assert row[48] == pytest.approx(2.9, rel=1e-5)  # front of the cylinder
    assert row[48 + round(0.6 / 2.8 * focal_px)] == pytest.approx(2.8, rel=1e-5)
    assert row[48 - round(0.6 / 2.5 * focal_px)] == pytest.approx(2.5, rel=1e-5)


# photographs


def disc_radius(picture):
    """Radius of a uniform disc from its second moment: <r^2> = R^2 / 2 and a pixel adds 1/6 to <r^2>."""
    light = picture.sum(axis=2).astype(np.float64)
    y, x = np.mgrid[: light.shape[0], : light.shape[1]]
    total = light.sum()
    cx, cy = (light * x).sum() / total, (light * y).sum() / total
    return math.sqrt(2 * ((light * ((x - cx) ** 2 + (y - cy) ** 2)).sum() / total - 1 / 6))


@pytest.mark.parametrize("depth_m", [0.35, 6.0])
def test_a_point_light_becomes_a_disc_of_the_contract_radius(depth_m):
    lamp = {"light": Material(glow=(1000.0, 1000.0, 1000.0))}
    scene = little_scene(lambda s: s.ellipsoid((0, 0, depth_m), 0.0012 * depth_m, "light"), lamp, f_mm=85.0)
    lens = scene.lens(f_number=1.4, focus_m=0.6)
    picture = render_photograph(scene, 0, lens, width=W, height=H, samples=256)
    expected = abs(float(defocus_px(torch.tensor([depth_m], dtype=torch.float64), lens, px_per_mm(W))[0]))
    assert expected > 8
    assert disc_radius(picture) == pytest.approx(expected, abs=0.25)
    sharp = render_frame(scene, 0, width=W, height=H).linear
    assert picture.sum() == pytest.approx(sharp.sum(), rel=0.03)  # blur spreads light, it does not make any


def test_a_plane_in_focus_is_the_all_in_focus_frame():
    stone = bricks(256, 256, 8, 4, ((0.8, 0.3, 0.2), (0.5, 0.4, 0.3)), (0.2, 0.2, 0.2), 1)
    wall = {"light": Material(texture=stone, glow=(1.0, 1.0, 1.0))}
    scene = little_scene(lambda s: s.rect((0, 0, 2.0), (3, 0, 0), (0, 3, 0), "light"), wall)
    sharp = render_frame(scene, 0, width=W, height=H, supersample=16).linear
    assert sharp.std() > 0.05
    focused = render_photograph(scene, 0, scene.lens(1.4, 2.0), width=W, height=H, samples=256)
    assert psnr_db(sharp, focused) > 42
    blurred = render_photograph(scene, 0, scene.lens(1.4, 1.0), width=W, height=H, samples=64)
    assert psnr_db(sharp, blurred) < psnr_db(sharp, focused) - 15


@pytest.mark.parametrize(("depth_m", "side"), [(6.0, 1.0), (0.35, -1.0)])
def test_a_triangle_stands_upright_behind_the_focus_and_upside_down_in_front(depth_m, side):
    lamp = {"light": Material(glow=(1000.0, 1000.0, 1000.0))}
    scene = little_scene(lambda s: s.ellipsoid((0, 0, depth_m), 0.002 * depth_m, "light"), lamp, f_mm=85.0)
    up = Aperture(blades=3, rotation_deg=90)  # one corner at +y
    light = render_photograph(scene, 0, scene.lens(1.4, 0.6), up, width=W, height=H, samples=400).sum(axis=2)
    rows = np.flatnonzero(light.sum(axis=1) > 0)
    above, below = H / 2 - rows[0], rows[-1] + 1 - H / 2
    assert (
        above / below if side > 0 else below / above
    ) > 1.25  # a corner is twice as far out as a side, less a pixel on each
    turned = Aperture(blades=3, rotation_deg=0)  # one corner at +x, the right of the picture
    light = render_photograph(scene, 0, scene.lens(1.4, 0.6), turned, width=W, height=H, samples=400).sum(axis=2)
    columns = np.flatnonzero(light.sum(axis=0) > 0)
    left, right = W / 2 - columns[0], columns[-1] + 1 - W / 2
    assert (right / left if side > 0 else left / right) > 1.25


@pytest.mark.parametrize(
    "aperture", [Aperture(), Aperture(blades=5, rotation_deg=20), Aperture(blades=6, roundness=0.4)]
)
def test_lens_samples_are_uniform_over_the_area(aperture):
    rng = np.random.default_rng(0)
    x, y = to_opening(*rng.random((2, 200_000), dtype=np.float32), aperture)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    edge = aperture.outline(torch.from_numpy(angle)).numpy()
    assert (radius <= edge + 1e-4).all()
    assert np.mean(radius < 0.5) == pytest.approx(math.pi * 0.25 / opening_area(aperture), abs=0.006)  # 0.5 fits inside
    assert np.mean((radius / edge) ** 2) == pytest.approx(0.5, abs=0.005)
    assert abs(x.mean()) < 0.005 and abs(y.mean()) < 0.005


@pytest.mark.parametrize("count", [1, 2, 7, 13, 64, 200])
def test_strata_have_equal_area_for_any_count(count):
    cells = strata(count)
    assert len(cells) == count
    np.testing.assert_allclose(cells[:, 2] * cells[:, 3], 1 / count)


def test_the_photograph_converges_and_states_its_own_error():
    scene = build_scene("bear")

    def error(samples):
        pair = [
            render_photograph(scene, 2, scene.lens(2.0, 4.0), width=60, height=36, samples=samples, sample_set=k)
            for k in (0, 1)
        ]
        return psnr_db(*pair)

    few, many = error(16), error(64)
    assert few > 20
    assert many > few + 5  # plain random sampling would gain 6 dB, strata more


@pytest.mark.parametrize("name", SCENES)
def test_testing_only_inside_bounding_rectangles_misses_nothing(name):
    world = build_scene(name).at(5)
    camera = Camera(world.pose, 0.05, 48, 30)
    rng = np.random.default_rng(1)
    lens = tuple(rng.uniform(-0.01, 0.012, (2, 2, 30, 48)).astype(np.float32))
    middle = np.full((2, 1, 1), 0.5, np.float32)
    rays = camera.rays(*camera.tangents(middle, middle), lens, 2.5)
    box = (float(lens[0].min()), float(lens[0].max()), float(lens[1].min()), float(lens[1].max()))
    depth, ids = nearest_hits(world.shapes, rays, camera.rects(world.shapes, box, 2.5))
    everywhere = np.tile(np.array([0, 30, 0, 48]), (len(world.shapes), 1))
    full_depth, full_ids = nearest_hits(world.shapes, rays, everywhere)
    np.testing.assert_array_equal(depth, full_depth)
    np.testing.assert_array_equal(ids, full_ids)


# the demo scenes


@pytest.mark.parametrize("name", SCENES)
def test_scenes_are_deterministic_move_and_vary(name):
    scene = build_scene(name)
    first = render_frame(scene, 3, width=W, height=H, supersample=1)
    again = render_frame(fresh_scene(name), 3, width=W, height=H, supersample=1)
    assert first.linear.tobytes() == again.linear.tobytes() and first.depth_m.tobytes() == again.depth_m.tobytes()
    assert first.linear.shape == (H, W, 3) and first.linear.dtype == np.float32
    assert np.isfinite(first.linear).all() and first.linear.min() >= 0
    near, far = np.percentile(first.depth_m, [1, 90])
    assert 0.5 < near < 3.0 and far > 8.0
    later = render_frame(scene, 12, width=W, height=H, supersample=1)
    assert np.abs(first.depth_m - later.depth_m).max() > 0.5
    other = render_frame(build_scene(name, seed=1), 3, width=W, height=H, supersample=1)
    assert np.abs(first.linear - other.linear).mean() > 0.01


def test_night_has_highlights_far_above_white():
    assert render_frame(build_scene("night"), 0, width=W, height=H, supersample=2).linear.max() > 8


def test_photograph_repeats_and_sample_sets_differ():
    scene = build_scene("bear")
    lens = scene.lens(2.0, 4.0)
    size = {"width": 48, "height": 32, "samples": 8}
    first = render_photograph(scene, 1, lens, **size)
    assert first.tobytes() == render_photograph(scene, 1, lens, **size, workers=1).tobytes()
    assert first.tobytes() != render_photograph(scene, 1, lens, **size, sample_set=1).tobytes()


# misuse


def test_errors_say_what_is_allowed():
    with pytest.raises(RaytraceError, match=r"bear, fence, night.*'boar'"):
        build_scene("boar")
    with pytest.raises(RaytraceError, match="seed must be >= 0, got -1"):
        build_scene("bear", -1)
    scene = build_scene("bear")
    with pytest.raises(RaytraceError, match="width must be at least 1, got 0"):
        render_frame(scene, 0, width=0, height=10)
    with pytest.raises(RaytraceError, match="frame_index must be >= 0"):
        render_frame(scene, -1, width=10, height=10)
    with pytest.raises(RaytraceError, match="samples must be at least 1"):
        render_photograph(scene, 0, scene.lens(2, 4), width=10, height=10, samples=0)
    with pytest.raises(RaytraceError, match=r"contract.*thin_lens"):
        lens = Lens(f_m=0.035, f_number=2, focus_m=4, coc_model="thin_lens")
        render_photograph(scene, 0, lens, width=10, height=10)
    with pytest.raises(RaytraceError, match=r"lens.f_m is 0.085 m.*f_m=0.085"):
        render_photograph(scene, 0, scene.lens(2, 4, f_m=0.085), width=10, height=10)


def test_another_focal_length_changes_the_view_of_both_pictures():
    scene = little_scene(lambda s: s.rect((0, 0, 2.0), (0.3, 0, 0), (0, 0.3, 0), "light"))
    wide = render_frame(scene, 0, width=W, height=H, f_m=0.035)
    assert wide.f_m == 0.035
    photo = render_photograph(scene, 0, scene.lens(8, 2.0, f_m=0.035), width=W, height=H, samples=64, f_m=0.035)
    assert psnr_db(wide.linear, photo) > 30
    assert psnr_db(render_frame(scene, 0, width=W, height=H).linear, photo) < 20


# files


@pytest.fixture
def one_bear(monkeypatch):
    """Writing takes the scene that is already built."""
    scene = build_scene("bear")
    monkeypatch.setitem(BUILDERS, "bear", lambda seed: scene)


def small(scene_id="bear", **changes):
    return SceneRequest(
        scene_id=scene_id, name="bear", width=48, height=32, num_frames=2, **({"degrade": True} | changes)
    )


def test_written_scene_is_complete_skipped_and_reproducible(tmp_path, one_bear):
    assert write_scene(tmp_path / "a", small(), clean_dir=tmp_path / "clean")
    folder = tmp_path / "a" / "bear"
    assert sorted(p.name for p in folder.iterdir()) == ["camera.json", "depth", "frame_0000.png", "frame_0001.png"]
    with np.load(folder / "depth" / "depth_0001.npz") as stored:
        depth = stored["depth"]
    frame = render_frame(build_scene("bear"), 1, width=48, height=32)
    np.testing.assert_array_equal(depth, frame.depth_m.astype(np.float16))
    assert depth.max() == 1000 and (depth > 0).all()
    camera = json.loads((folder / "camera.json").read_text())
    assert camera["f_mm"] == 35.0 and camera["sensor_width_mm"] == 36.0 and len(camera["frames"]) == 2
    raw, clean = (np.asarray(Image.open(d / "frame_0001.png"), float) for d in (folder, tmp_path / "clean" / "bear"))
    assert raw.shape == (32, 48, 3)
    assert np.abs(np.diff(raw, axis=1)).mean() < np.abs(np.diff(clean, axis=1)).mean()  # softer
    assert camera["degraded"]["noise"] > 0 and not SceneRequest(scene_id="bear", name="bear").degrade, "only on request"
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert not write_scene(tmp_path / "a", small())
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert write_scene(tmp_path / "b", small())
    for path in (p for p in folder.rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path.name


def test_interrupted_writing_leaves_no_scene(tmp_path, monkeypatch, one_bear):
    import pipeline.raytrace.write as module

    calls = []

    def fail_later(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return render_frame(*args, **kwargs)

    monkeypatch.setattr(module, "render_frame", fail_later)
    with pytest.raises(KeyboardInterrupt):
        write_scene(tmp_path, small())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_made_otherwise_is_not_taken_for_the_scene(tmp_path, one_bear):
    write_scene(tmp_path, small())
    with pytest.raises(RaytraceError, match="seed 0 -> 3"):
        write_scene(tmp_path, small(seed=3))
    (tmp_path / "bear" / "frame_0001.png").unlink()
    with pytest.raises(RaytraceError, match="1 of 2 frames"):
        write_scene(tmp_path, small())
    (tmp_path / "mine").mkdir()
    with pytest.raises(RaytraceError, match="not written by the ray tracer"):
        write_scene(tmp_path, small("mine"))


def test_requests_name_the_scenes_in_order():
    ids = [scene_id for scene_id, _, _ in scene_requests(7)]
    assert ids == ["bear", "fence", "night", "bear_01", "fence_01", "night_01", "bear_02"]
    assert len({(name, seed) for _, name, seed in scene_requests(30, seed=2)}) == 30
    for change in ({"name": "boar"}, {"width": 0}, {"num_frames": 0}, {"scene_id": "../x"}, {"seed": -1}):
        with pytest.raises(RaytraceError):
            SceneRequest(**({"scene_id": "bear", "name": "bear"} | change))


def test_script_dry_run_and_usage(tmp_path, capsys):
    from scripts.make_demo_scenes import main

    assert main(["--raw_root", str(tmp_path), "--num_scenes", "4", "--dry_run"]) == 0
    assert "bear_01" in capsys.readouterr().out and list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit) as stopped:
        main(["--num_scenes", "0"])
    assert stopped.value.code == 2


def test_script_writes_scenes_and_says_what_became_of_each(tmp_path, capsys):
    from scripts.make_demo_scenes import main

    (tmp_path / "night").mkdir()  # somebody else's
    tiny = ["--raw_root", str(tmp_path), "--num_scenes", "3", "--width", "32", "--height", "16", "--num_frames", "2"]
    assert main([*tiny, "--workers", "1"]) == 1
    text = capsys.readouterr().out
    assert "bear: 2 frames in" in text and "night: FAILED" in text and "2 written, 0 already there, 1 failed" in text
    assert len(list(tmp_path.glob("fence/frame_*.png"))) == 2
