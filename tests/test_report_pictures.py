"""What the page's images show: depth without the sky, details at small sizes, clips, grouped findings, no way out by links."""

import base64
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.media.depth_files import encode_npz
from pipeline.report import motion
from pipeline.report.causes import by_cause
from pipeline.report.colours import SKY, depth_scale
from pipeline.report.facts import gather
from pipeline.report.hero import make_hero
from pipeline.report.motion import make_clip
from pipeline.report.page import draw_strips, render_page
from pipeline.report.thumbnails import Strip, make_strip
from pipeline.storage.scene import Scene


@pytest.fixture
def out(tiny_stages: Path, tmp_path: Path) -> Path:
    """Phases 1 to 5 of "tiny": 18 frames of 80x48, two lens sets."""
    return Path(shutil.copytree(tiny_stages / "5" / "output", tmp_path / "output"))


def strip_of(out: Path) -> Strip:
    return make_strip(Scene(out, "tiny"), gather(out).scenes[0])


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_a_sky_has_its_own_colour_and_does_not_stretch_the_ramp():
    depth = np.repeat(np.linspace(2, 20, 60, dtype=np.float32)[:, None], 40, axis=1)
    plain = depth_scale(depth)
    under_sky = np.vstack([np.full((90, 40), 1000, np.float32), depth]).astype(np.float16)
    scale = depth_scale(under_sky)
    assert scale.sky and not plain.sky
    assert scale.near_m == pytest.approx(plain.near_m, rel=1e-2) and scale.far_m == pytest.approx(plain.far_m, rel=1e-2)
    coloured = scale.colour(under_sky)
    assert (coloured[:90] == SKY).all() and not (coloured[90:] == SKY).all(axis=2).any()
    assert np.abs(coloured[90:].astype(int) - plain.colour(depth)).max() <= 4, "what is not sky looks as without it"
    assert scale.position(500.0) is None and scale.position(2.0) == 0


def test_a_scene_that_is_all_sky_and_one_without_depth():
    scale = depth_scale(np.full((4, 4), 1000, np.float16))
    assert scale.sky and scale.near_m is None and (scale.colour(np.full((4, 4), 1000.0)) == SKY).all()
    with pytest.raises(InputError, match="no depth value is finite"):
        depth_scale(np.full((4, 4), np.nan))


def test_the_sky_is_told_in_the_legend(out: Path):
    assert "beyond 100 m" not in render_page(out)
    path = Scene(out, "tiny").depth_path(9)
    depth = np.load(path)["depth"]
    depth[:10] = 1000
    path.write_bytes(encode_npz("depth", depth))
    assert "sky, beyond 100 m" in render_page(out)


def test_details_of_small_frames_are_magnified_from_where_the_lens_changed_most(out: Path):
    scene = Scene(out, "tiny")
    sharp = np.array(Image.open(scene.sharp_path(9)))
    bokeh = sharp.copy()
    bokeh[30:40, 50:70] = 255 - bokeh[30:40, 50:70]
    Image.fromarray(bokeh).save(scene.bokeh_path(1, 9))
    detail = strip_of(out).sets[1].detail
    assert detail is not None and detail.scale == 8 and detail.sharp.width == 256
    first, second = (np.asarray(decoded(shown.uri), int) for shown in (detail.sharp, detail.bokeh))
    assert np.abs(first - second).mean() > 40, "the changed window is in it"
    assert strip_of(out).best_set == 1


def test_a_clip_shows_all_four_in_step(out: Path):
    scene, strip = Scene(out, "tiny"), strip_of(out)
    assert strip.complete and strip.scale is not None
    clip = make_clip(scene, 18, 0, strip.scale)
    assert clip is not None and clip == make_clip(scene, 18, 0, strip.scale), "equal input, equal bytes"
    image = decoded(clip.moving.uri)
    assert image.format == "WEBP" and image.n_frames == motion.FRAMES and image.size == (160, 96)
    image.seek(5)
    panels = np.asarray(image.convert("RGB"), int)
    frame = (18 - motion.FRAMES) // 2 + 5
    for panel, path in ((panels[:48, :80], scene.sharp_path(frame)), (panels[:48, 80:], scene.bokeh_path(0, frame))):
        assert np.abs(panel - np.asarray(Image.open(path), int)).mean() < 15
    assert decoded(clip.still.uri).size == (160, 96)


def test_clips_stay_inside_their_budget_and_survive_damage(out: Path, monkeypatch: pytest.MonkeyPatch):
    scene, strip = Scene(out, "tiny"), strip_of(out)
    assert strip.scale is not None
    whole = make_clip(scene, 18, 0, strip.scale)
    assert whole is not None
    monkeypatch.setattr(motion, "MAX_CLIP_BYTES", whole.moving.num_bytes - 1)
    half = make_clip(scene, 18, 0, strip.scale)
    assert half is not None and decoded(half.moving.uri).n_frames == motion.FRAMES // 2
    monkeypatch.setattr(motion, "MAX_CLIP_BYTES", 100)
    assert make_clip(scene, 18, 0, strip.scale) is None
    monkeypatch.undo()
    scene.sharp_path(8).write_bytes(b"no image")
    scene.focus_path(0, 9).unlink()
    damaged = make_clip(scene, 18, 0, strip.scale)
    assert damaged is not None and decoded(damaged.moving.uri).n_frames == motion.FRAMES - 2
    shutil.rmtree(scene.depth_dir)
    assert make_clip(scene, 18, 0, strip.scale) is None


@pytest.mark.parametrize("which", ["file", "folder"])
def test_links_out_of_the_output_are_not_followed(out: Path, tmp_path: Path, which: str):
    scene = Scene(out, "tiny")
    secret = tmp_path / "secret"
    moved = scene.sharp_path(9) if which == "file" else scene.sharp_dir
    moved.rename(secret)
    moved.symlink_to(secret)
    strip = strip_of(out)
    assert not strip.sharp.uri and "is a link to" in strip.sharp.problem and not strip.complete
    facts = gather(out)
    hero = make_hero(facts, draw_strips(facts).by_scene)
    assert hero is None or not hero.sharp.uri
    assert "no link is followed" in render_page(out)


def test_the_output_itself_may_be_a_link(out: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(out)
    strip = strip_of(tmp_path / "link")
    assert strip.complete and strip.scale is not None
    assert make_clip(Scene(tmp_path / "link", "tiny"), 18, 0, strip.scale) is not None


def test_equal_findings_of_many_scenes_are_one_line():
    said = "set {} (50 mm, f/{}, focus 2.5 m) is nearly all sharp: mean focus {}, expected 0.2 to 0.8"
    found = [
        ("fence_01", [said.format(0, 7.4, 0.91)]),
        ("fence_02", [said.format(1, 16, 0.9)]),
        ("fence_02", [said.format(2, 2.8, 0.99)]),
        ("bear", ["bear: frame_0003.png is gone from /out/bear/frames"]),
        ("night", ["night: frame_0011.png is gone from /out/night/frames"]),
        ("fog", ["something else, 99a428f0"]),
        ("hail", ["something else, 11b428f0"]),
    ]
    first, second, *alone = by_cause(found)
    assert first.texts == (
        "set 0 to 2 (50 mm, f/2.8 to 16, focus 2.5 m) is nearly all sharp: mean focus 0.9 to 0.99, expected 0.2 to 0.8",
    )
    assert first.scenes == ("fence_01", "fence_02") and len(first.members) == 3 and not first.alike
    assert first.members[0] == ("fence_01", (said.format(0, 7.4, 0.91),)), "each scene's own words are kept"
    assert second.texts == ("…: frame_0003 to 0011.png is gone from /out/…/frames",)
    assert [cause.texts[0] for cause in alone] == ["something else, 99a428f0", "something else, 11b428f0"]


def test_names_alone_tell_it_all_when_the_words_are_equal():
    (cause,) = by_cause([("a", ["x 1", "y"]), ("b", ["x 1", "y"])])
    assert cause.alike and cause.texts == ("x 1", "y") and cause.scenes == ("a", "b")
