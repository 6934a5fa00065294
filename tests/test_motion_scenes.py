"""Moving clips: what docs/motion_scenes.md promises about their folders, and that the test set shows what it says."""

import functools
import json

import numpy as np
import pytest
from PIL import Image

from pipeline.raytrace import RaytraceError
from pipeline.raytrace.flow import Flow, exact_flow
from pipeline.raytrace.generated import FAMILIES, generate
from pipeline.raytrace.motion import PHENOMENA, ClipRequest, clip_requests, evaluation_clips, make_clip, write_clip
from pipeline.raytrace.motion.overlay import KINDS, overlay
from pipeline.raytrace.motion.phenomena import stage_scene

SMALL = {"width": 48, "height": 32, "num_frames": 3, "supersample": 1}
scene_of = functools.cache(stage_scene)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def picture(path):
    with Image.open(path) as image:
        return np.array(image)


def request(**other):
    values = {"clip_id": "overlay_gallery", "split": "test", "phenomenon": "overlay", "family": "gallery", **SMALL}
    return ClipRequest(**values | other)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("motion")
    assert write_clip(folder, request())
    return folder / "overlay_gallery"


def test_a_clip_holds_what_the_contract_says(clip):
    about = json.loads((clip / "clip.json").read_text())
    assert (about["format"], about["version"], about["phenomenon"]) == ("motion-clip", 1, "overlay")
    assert about["times_s"] == [0.0, 0.041667, 0.083333]
    assert sorted(map(tuple, about["flow_pairs"])) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    names = {f"frame_{i:04d}.png" for i in range(3)} | {f"flow/{a:04d}_{b:04d}.npz" for a, b in about["flow_pairs"]}
    assert set(tree(clip)) == names | {"clip.json", "overlay.png"}
    assert picture(clip / "frame_0000.png").shape == (32, 48, 3)
    with np.load(clip / "flow" / "0001_0002.npz", allow_pickle=False) as stored:
        assert set(stored) == {"flow", "occluded"}
        flow, occluded = stored["flow"], stored["occluded"]
    assert (flow.shape, flow.dtype, occluded.shape, occluded.dtype) == ((32, 48, 2), np.float16, (32, 48), bool)
    scene, _ = scene_of("overlay", "gallery")
    exact = overlay("subtitle", "THE RAIN IN SPAIN", 48, 32).over_flow(
        exact_flow(scene, 1, [2], width=48, height=32)[0]
    )
    np.testing.assert_array_equal(flow, exact.flow_px.astype(np.float16))
    np.testing.assert_array_equal(occluded, exact.occluded)


def test_the_overlay_stands_still_while_the_picture_moves(clip):
    opacity = picture(clip / "overlay.png")
    first, last = (picture(clip / f"frame_{i:04d}.png") for i in (0, 2))
    solid = opacity == 255
    assert solid.sum() > 30
    np.testing.assert_array_equal(first[solid], last[solid])
    assert (first[opacity == 0] != last[opacity == 0]).mean() > 0.3


def test_a_finished_clip_is_skipped_and_the_same_request_gives_the_same_bytes(clip, tmp_path):
    before = tree(clip)
    assert not write_clip(clip.parent, request())
    assert write_clip(tmp_path, request())
    assert tree(tmp_path / "overlay_gallery") == tree(clip) == before


def test_a_clip_made_otherwise_is_refused(clip, tmp_path):
    with pytest.raises(RaytraceError, match=r"other settings .*supersample 1 -> 2"):
        write_clip(clip.parent, request(supersample=2))
    (tmp_path / "overlay_gallery").mkdir()
    ok, made, message = make_clip(tmp_path, request())
    assert not ok and not made and "is no clip of the ray tracer" in message


def test_an_interrupted_clip_leaves_nothing_under_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.raytrace.motion.write.exact_flow", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_clip(tmp_path, request())
    assert list(tmp_path.iterdir()) == []


def test_a_covered_pixel_stands_still_and_what_slips_beneath_is_occluded():
    layer = overlay("ticker", "SOON", 64, 48)
    solid = layer.opacity >= 0.5
    flow = np.zeros((48, 64, 2), np.float32)
    flow[..., 1] = 6.0
    kept = layer.over_flow(Flow(flow, np.zeros((48, 64), bool)))
    assert not kept.flow_px[solid].any() and not kept.occluded[solid].any()
    above = np.roll(solid, -6, axis=0) & ~solid
    above[-6:] = False
    np.testing.assert_array_equal(kept.occluded[:-6], above[:-6])
    assert above.sum() > 200


@pytest.mark.parametrize("kind", KINDS)
def test_overlays_cover_a_part_of_any_frame(kind):
    for width, height in ((48, 32), (256, 160)):
        share = overlay(kind, "ON AIR", width, height).opacity.mean()
        assert 0.005 < share < 0.5


@pytest.mark.parametrize(
    ("phenomenon", "stage", "low_px", "high_px"),
    [
        ("control", "square", 0.3, 2),
        ("fast", "gallery", 6, 40),
        ("occluder", "square", 7, 14),
        ("wheel", "gallery", 5, 20),
    ],
)
def test_the_motion_is_as_large_as_the_phenomenon_says(phenomenon, stage, low_px, high_px):
    scene, _ = scene_of(phenomenon, stage)
    flow = exact_flow(scene, 14, [15], width=128, height=80)[0]
    length = np.hypot(flow.flow_px[..., 0], flow.flow_px[..., 1])[~flow.occluded] * 2  # px at 256 px width
    assert low_px < np.percentile(length, 99.5) < high_px


def test_the_test_set_has_every_phenomenon_on_both_stages():
    assert {(p, s) for _, p, s in evaluation_clips()} == {(p, s) for p in PHENOMENA for s in ("square", "gallery")}
    assert len({clip_id for clip_id, _, _ in evaluation_clips()}) == 16


def test_other_seeds_are_other_test_sets_of_the_same_phenomena(tmp_path, capsys):
    from scripts.make_motion_scenes import main

    own, other = clip_requests("test"), clip_requests("test", seed=7)
    assert [(r.phenomenon, r.family) for r in own] == [(r.phenomenon, r.family) for r in other]
    assert not {r.clip_id for r in own} & {r.clip_id for r in other}
    for stage in ("square", "gallery"):
        first, again, built = (
            stage_scene("light", stage, 7)[0],
            stage_scene("light", stage, 7)[0],
            scene_of("light", stage)[0],
        )
        for number in (0, 9):
            np.testing.assert_array_equal(first.path(number / 24).position, again.path(number / 24).position)
            np.testing.assert_array_equal(first.moving(number / 24).centre, again.moving(number / 24).centre)
        assert np.abs(first.path(0).position - built.path(0).position).max() < 0.5, "a little aside"
        assert not np.array_equal(first.moving(0).centre, built.moving(0).centre), "it begins later"
        assert first.lighting(0) != built.lighting(0)
        pictures = [[m.texture for m in one.materials.values() if m.texture is not None] for one in (first, built)]
        assert pictures[0] and not any(np.array_equal(a, b) for a in pictures[0] for b in pictures[1])
    arguments = ["--out_root", str(tmp_path), "--seed", "7", "--num_clips", "1", "--dry_run"]
    assert main(arguments) == 0
    assert f"{tmp_path}/test_7/occluder_square_007: occluder" in capsys.readouterr().out


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_scenes_repeat_differ_by_seed_and_keep_their_shapes(family):
    first, again, other = generate(family, 4), generate(family, 4), generate(family, 5)
    for a, b in ((0, 0.7), (0.3, 2)):
        before, after = first.geometry(a * first.fps)[0], first.geometry(b * first.fps)[0]
        np.testing.assert_array_equal(before.kind, after.kind)
        np.testing.assert_array_equal(before.material, after.material)
        limbs = np.isin(before.material, [list(first.materials).index(name) for name in ("cloth", "fur")])
        np.testing.assert_allclose(before.half[~limbs], after.half[~limbs], rtol=1e-6)  # the rest is rigid
    np.testing.assert_array_equal(first.geometry(3)[0].axes, again.geometry(3)[0].axes)
    assert first.f_mm == again.f_mm != other.f_mm
    for name, material in first.materials.items():
        if material.texture is not None:
            np.testing.assert_array_equal(material.texture, again.materials[name].texture)


def test_requests_name_the_clips_and_say_what_is_allowed():
    train = clip_requests("train", 4, 2)
    assert [r.clip_id for r in train] == ["room_20000", "street_20001", "nature_20002", "room_20003"]
    assert {r.family for r in clip_requests("train", 5, families=("room", "street"))} == {"room", "street"}
    for arguments, message in (
        ({"num_clips": 0}, "num_clips must be at least 1"),
        ({"seed": -1}, "seed must be >= 0"),
        ({"families": ("sea",)}, "families must be some of room, street, nature, got sea"),
        ({"num_frames": 1}, "num_frames must be at least 2"),
        ({"flow_spans": (9,), "num_frames": 5}, "flow_spans must be 1 to num_frames - 1"),
        ({"fps": 0}, "fps must be > 0"),
    ):
        with pytest.raises(RaytraceError, match=message):
            clip_requests("train", **arguments)
    for arguments, message in (
        (("sea", 0), "family must be one of"),
        (("room", -1), "seed must be"),
        (("room", 0), "pace must be > 0"),
    ):
        with pytest.raises(RaytraceError, match=message):
            generate(*arguments, pace=0.0 if arguments == ("room", 0) else 1.0)


def test_the_script_makes_and_skips(tmp_path, capsys):
    from scripts.make_motion_scenes import main

    arguments = ["--out_root", str(tmp_path), "--split", "train", "--num_clips", "1", "--workers", "1"]
    arguments += ["--width", "32", "--height", "24", "--num_frames", "2", "--supersample", "1"]
    assert main([*arguments, "--dry_run"]) == 0
    assert not list(tmp_path.iterdir())
    assert main(arguments) == 0
    assert "1 written, 0 already there, 0 failed" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "0 written, 1 already there, 0 failed" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*arguments, "--workers", "0"])
