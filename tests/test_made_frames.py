"""Phase 5 with --render_every: which pictures are made, that labels do not change, and that it resumes, is checked and told."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY, SCRIPTS, Project, texture, tree

from model.data.sampling import ClipSettings
from model.data.scene_manifest import find_scenes
from model.data.scenes import ClipDataset
from pipeline.engines import load_engine
from pipeline.engines.interpolation.context import Context, Interpolator
from pipeline.engines.interpolation.guided import blurred
from pipeline.errors import StoppedError, UsageError
from pipeline.measures import psnr
from pipeline.media.convert import unit_to_image
from pipeline.media.images import read_sharp
from pipeline.storage.completion import DoneRecord
from pipeline.storage.scene import Scene

EVERY_SECOND = ("--num_sets", "2", "--render_every", "2")
MADE = list(range(1, 17, 2))  # of 18 frames; the last is always rendered


@pytest.fixture
def halved(scene_project: Project) -> Project:
    """The scene "tiny" with every second frame made."""
    scene_project.run_upto(4)
    assert scene_project.run(4, "--confirm") == 0
    assert scene_project.run(5, *EVERY_SECOND) == 0, scene_project.text
    return scene_project


def scene_of(project: Project) -> Scene:
    return Scene(project.out, "tiny")


def test_labels_and_rendered_pictures_are_those_of_a_full_run(halved: Project, tiny_stages: Path):
    full = tree(tiny_stages / "5" / "output" / "tiny")
    half = tree(scene_of(halved).dir)
    assert full.keys() == half.keys()
    differing = {name for name in full if full[name] != half[name] and not name.endswith(".done")}
    pictures = {f"bokeh_renders/set_{number:02d}/bokeh_{frame:04d}.png" for number in range(2) for frame in MADE}
    assert differing - {"metadata.json"} <= pictures
    assert len(differing & pictures) > len(pictures) / 2  # they are made, not rendered
    for name in sorted(pictures):
        made, rendered = (
            read_sharp(root / name) for root in (scene_of(halved).dir, tiny_stages / "5" / "output" / "tiny")
        )
        assert psnr(made, rendered, 255) > 35


def test_it_is_recorded_and_validated(halved: Project):
    scene = scene_of(halved)
    metadata = scene.read_metadata()
    assert metadata["made_frames"] == MADE
    assert metadata["render_every"] == 2
    assert metadata["interpolator"]["name"] == "guided"
    record = DoneRecord.read(scene.dir / "bokeh_renders")
    assert record is not None
    assert record.summary["made_frames"] == MADE
    assert record.summary["rendered_instead"] == []
    assert record.fields["settings"]["render_every"] == 2
    assert halved.run(6) == 0, halved.text
    report = json.loads((halved.out / "validation_report.json").read_text())
    assert report["scenes"]["tiny"]["made_frames"] == len(MADE)
    metadata["made_frames"] = MADE[:-1]
    scene.metadata_path.write_text(json.dumps(metadata))
    assert halved.run(6) == 3
    assert "made frames: metadata.json says 7 frames (1, 3, 5, 7, 9, 11, ...), the done record 8 frames" in halved.text
    metadata["made_frames"] = [0]
    scene.metadata_path.write_text(json.dumps(metadata))
    assert halved.run(6) == 3
    assert "made_frames must be ascending numbers of frames between the first and the last" in halved.text


def test_without_it_nothing_in_a_record_changes(scene_project: Project):
    scene_project.run_upto(5)
    record = DoneRecord.read(scene_of(scene_project).dir / "bokeh_renders")
    assert record is not None
    assert "interpolator" not in record.fields
    assert record.fields["settings"] == {"num_sets": 2}
    assert record.summary.keys() == {"mean_focus"}
    assert "made_frames" not in scene_of(scene_project).read_metadata()
    assert scene_of(scene_project).made_frames() == ()


def test_full_renders_are_stale_for_it_and_the_other_way_round(halved: Project):
    assert halved.run(5, "--num_sets", "2") == 3
    assert "interpolator" in halved.text
    assert halved.run(5, *EVERY_SECOND) == 0
    assert halved.run(5, *EVERY_SECOND, "--interpolator", "flow") == 3
    assert "'guided' -> 'flow'" in halved.text


def test_stopped_anywhere_it_resumes_to_the_same_bytes(halved: Project, monkeypatch: pytest.MonkeyPatch):
    scene = scene_of(halved)
    expected = tree(scene.dir)
    for stop_at in (2, 30, 47, 55):
        for name in ("focus_maps", "bokeh_renders", "metadata.json"):
            path = scene.dir / name
            path.unlink() if path.is_file() else shutil.rmtree(path)
        scene.journal_path("render").unlink()
        count = 0

        def safe_point(self: object, at: int = stop_at) -> None:
            nonlocal count
            count += 1
            if count == at:
                raise StoppedError

        with monkeypatch.context() as patched:
            patched.setattr("pipeline.phases.base.Work.safe_point", safe_point)
            assert halved.run(5, *EVERY_SECOND) == 75
        assert not (scene.dir / "bokeh_renders" / ".done").exists()
        assert halved.run(5, *EVERY_SECOND) == 0, halved.text
        assert tree(scene.dir) == expected
    # One lost picture of each kind behind .done is made again.
    for frame in (3, 4):
        scene.bokeh_path(1, frame).unlink()
    assert halved.run(5, *EVERY_SECOND) == 0
    assert tree(scene.dir) == expected


_KILLED = """
import os, runpy, signal, sys

script, name, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.argv = [script, *sys.argv[4:]]
replace, count = os.replace, 0

def killing(source, target):
    global count
    count += str(target).find(name) >= 0
    if count == at:  # the file is written, its name is still the temporary one
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(source, target)

os.replace = killing
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.slow
def test_killed_while_it_makes_frames_it_resumes_to_the_same_bytes(halved: Project):
    """By SIGKILL, between writing a picture and naming it, and just before the record: nobody cleans up."""
    scene = scene_of(halved)
    expected = tree(scene.dir)
    script = str(REPOSITORY / "scripts" / f"{SCRIPTS[5]}.py")
    for name, at in (("bokeh_0007.png", 2), ("bokeh_renders/.done", 1)):
        for part in ("focus_maps", "bokeh_renders", "metadata.json"):
            path = scene.dir / part
            path.unlink() if path.is_file() else shutil.rmtree(path)
        scene.journal_path("render").unlink()
        command = [sys.executable, "-c", _KILLED, script, name, str(at), *halved.args(*EVERY_SECOND)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, env=environment, cwd=halved.root, check=False, capture_output=True, text=True)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        left = {path.name for path in (scene.dir / "bokeh_renders").rglob("bokeh_*.png")}
        assert {"bokeh_0000.png", "bokeh_0005.png"} <= left, "it was killed in the middle"
        assert not (scene.dir / "bokeh_renders" / ".done").exists()
        assert halved.run(5, *EVERY_SECOND) == 0, halved.text
        assert tree(scene.dir) == expected


def test_a_frame_that_cannot_be_made_is_rendered(halved: Project):
    """A cut: what is on its far side shows nothing of the frame."""
    assert halved.run(5, *EVERY_SECOND, "--min_sharp_db", "60", "--on_stale", "redo", "--scene", "tiny") == 0, (
        halved.text
    )
    scene = scene_of(halved)
    record = DoneRecord.read(scene.dir / "bokeh_renders")
    assert record is not None
    assert record.summary["rendered_instead"] == MADE
    assert scene.made_frames() == ()
    assert halved.run(6) == 0, halved.text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--render_every", "0"], "render_every must be in [1, 16], got 0"),
        (["--render_every", "2", "--interpolator", "best"], "there is no interpolate engine 'best'"),
        (["--render_every", "2", "--interpolator_opt", "preset"], "--interpolator_opt takes NAME=VALUE"),
        (["--min_sharp_db", "-1"], "min_sharp_db must be in [0, 99] dB"),
    ],
)
def test_flags_out_of_range_are_refused(scene_project: Project, flags: list[str], said: str):
    scene_project.run_upto(4)
    assert scene_project.run(4, "--confirm") == 0
    assert scene_project.run(5, *flags) == 2
    assert said in scene_project.text


def test_the_loader_can_leave_made_frames_out(halved: Project):
    manifest = find_scenes(halved.out, "train")
    assert "36 images, 16 of them made" in manifest.describe()
    small = {"clip_frames": 3, "crop_width": 16, "crop_height": 16}
    every = ClipDataset(manifest, ClipSettings(**small))
    assert any(set(every.choose(number).numbers) & set(MADE) for number in range(4))
    rendered = ClipDataset(manifest, ClipSettings(**small, rendered_only=True))
    chosen = [rendered.choose(number).numbers for number in range(20)]
    assert not any(set(numbers) & set(MADE) for numbers in chosen)
    assert {numbers[1] - numbers[0] for numbers in chosen[:5]} == {2}
    assert rendered[0].bokeh.shape == (3, 3, 16, 16)
    with pytest.raises(UsageError, match="has 10 rendered frames"):
        ClipDataset(manifest, ClipSettings(clip_frames=11, crop_width=16, crop_height=16, rendered_only=True))


def through_a_lens(picture: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return unit_to_image(blurred(picture.astype(np.float32) / 255, radius), picture)


def test_guided_frames_are_exact_in_focus_and_better_than_flow_elsewhere():
    world = texture(64, 140, seed=4)
    sharp = [np.ascontiguousarray(world[:, 3 * n : 3 * n + 96]) for n in range(3)]
    radius = np.zeros((64, 96), np.float32)
    radius[:, 40:] = 3.0
    shown = [through_a_lens(picture, radius) for picture in sharp]
    context = Context(
        frames=(shown[0], shown[2]),
        indices=(0, 2),
        target=1,
        guides=(sharp[0], sharp[2]),
        guide=sharp[1],
        radius_px=radius,
    )
    made = {
        name: unit_to_image(
            load_engine("interpolate", name, {}, "cpu", Interpolator).interpolate(context, lambda: None), shown[1]
        )
        for name in ("guided", "flow")
    }
    assert psnr(made["guided"], shown[1], 255) > psnr(made["flow"], shown[1], 255)
    assert psnr(made["guided"][:, 4:32], shown[1][:, 4:32], 255) > 40
    with pytest.raises(UsageError, match="needs the sharp frame of the instant"):
        plain = Context(frames=context.frames, indices=(0, 2), target=1)
        load_engine("interpolate", "guided", {}, "cpu", Interpolator).interpolate(plain, lambda: None)


def test_blur_of_one_radius_is_a_gaussian_of_the_discs_variance():
    picture = texture(48, 64, seed=2).astype(np.float32)
    for radius in (1.0, 2.0, 8.0):
        got = blurred(picture, np.full((48, 64), radius, np.float32))
        assert np.allclose(got, cv2.GaussianBlur(picture, (0, 0), radius / 2), atol=1e-3)
    assert np.array_equal(blurred(picture, np.zeros((48, 64), np.float32)), picture)
