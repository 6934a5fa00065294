"""What people really feed a pipeline, and the message each mistake gets."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Project, moving_frames, slanted_depth, tree, write_scene
from PIL import Image

from pipeline.storage.scene import Scene, SceneIndex


def entry_of(project: Project, name: str = "tiny"):
    return SceneIndex.load(project.out / "scene_index.json").entries[name]


def rejected(project: Project, name: str = "tiny") -> str:
    """The reason for which phase 1 rejected the only scene."""
    assert project.run(1) == 1, "no scene is left, so phase 1 fails"
    entry = entry_of(project, name)
    assert not entry.accepted
    assert entry.reasons[0] in project.text, "the reason is printed too"
    return entry.reasons[0]


# --- phase 1: the raw root -------------------------------------------------------------------------------------------


def test_no_such_folder(project: Project):
    project.raw.rmdir()
    assert project.run(1) == 2
    assert str(project.raw) in project.text and "make_demo_scenes" in project.text


def test_empty_raw_root(project: Project):
    assert project.run(1) == 2
    assert "neither folders of frames nor videos" in project.text


def test_raw_root_is_a_file(project: Project):
    project.raw.rmdir()
    project.raw.write_text("not a folder")
    assert project.run(1) == 2
    assert "cannot be read" in project.text


def test_empty_scene_folder(project: Project):
    (project.raw / "tiny").mkdir()
    reason = rejected(project)
    assert "holds no frames" in reason and ".png" in reason


def test_too_few_frames(project: Project):
    write_scene(project.raw, "tiny", 15)
    assert "15 frames, needs at least 16 (--min_frames)" in rejected(project)
    assert project.run(1, "--min_frames", "15") == 0


def test_truncated_jpg(project: Project):
    folder = write_scene(project.raw, "tiny", 17, depth=False)
    Image.fromarray(moving_frames(1)[0]).save(folder / "9.jpg")
    data = (folder / "9.jpg").read_bytes()
    (folder / "9.jpg").write_bytes(data[: len(data) // 2])
    (folder / "9.png").unlink()
    with Image.open(folder / "9.jpg") as image:
        assert image.size == (72, 48), "the header alone looks fine"
    reason = rejected(project)
    assert "9.jpg" in reason and "truncated" in reason


def test_a_frame_that_is_no_image(project: Project):
    folder = write_scene(project.raw, "tiny", 17, depth=False)
    (folder / "4.png").write_text("this is text")
    assert "4.png does not decode" in rejected(project)


def test_mixed_sizes(project: Project):
    frames = moving_frames(17)
    frames[11] = frames[11][:-4]
    write_scene(project.raw, "tiny", frames, depth=False)
    assert "72x48 from frame 0, 72x44 from frame 11" in rejected(project)


@pytest.mark.parametrize("name", ["with space", "ümlaut", "quo'te", 'dou"ble', "a..b", "semi;colon", "-flag"])
def test_unsafe_scene_ids(project: Project, name: str):
    write_scene(project.raw, name, 16, depth=False)
    write_scene(project.raw, "fine", 16, depth=False)
    assert project.run(1) == 0
    entry = entry_of(project, name)
    assert not entry.accepted and "rename the source" in entry.reasons[0]
    assert entry_of(project, "fine").accepted
    assert sorted(path.name for path in project.out.iterdir()) == ["fine", "scene_index.json"]


def test_scene_id_on_the_command_line_cannot_leave_the_output(scene_project: Project):
    scene_project.run_upto(1)
    assert scene_project.run(2, "--scene", "../../etc") == 2
    assert "there is no scene" in scene_project.text and "accepted scenes: tiny" in scene_project.text


def test_odd_file_names_are_fine(project: Project):
    folder = project.raw / "tiny"
    folder.mkdir()
    for number, frame in enumerate(moving_frames(16)):
        Image.fromarray(frame).save(folder / f'bär\'s "best" {number} .png')
    (folder / "notes.txt").write_text("not a frame")
    (folder / ".hidden.png").write_bytes(b"not a frame either")
    assert project.run(1) == 0, project.text
    assert [Path(name).name for name, _, _ in entry_of(project).files][9:11] == [
        'bär\'s "best" 9 .png',
        'bär\'s "best" 10 .png',
    ], "natural order: 9 before 10"
    assert project.run(2) == 0


def test_symlink_loops(project: Project):
    write_scene(project.raw, "fine", 16, depth=False)
    (project.raw / "loop").symlink_to("loop")
    (project.raw / "self").symlink_to(".")
    (project.raw / "gone").symlink_to("nowhere")
    assert project.run(1) == 0
    for name in ("loop", "self", "gone"):
        assert not entry_of(project, name).accepted, name
    assert entry_of(project, "fine").accepted


def test_linked_scene_is_accepted(project: Project, tmp_path: Path):
    write_scene(tmp_path / "elsewhere", "real", 16, depth=False)
    (project.raw / "linked").symlink_to(tmp_path / "elsewhere" / "real")
    assert project.run(1) == 0
    assert entry_of(project, "linked").accepted


def test_folder_and_video_of_one_name(project: Project):
    write_scene(project.raw, "bear", 16, depth=False)
    (project.raw / "bear.mp4").write_bytes(b"")
    reason = rejected(project, "bear")
    assert "bear.mp4" in reason and "several sources" in reason


def test_broken_video(project: Project):
    (project.raw / "clip.mp4").write_bytes(b"\0" * 1000)
    assert "clip.mp4 does not decode" in rejected(project, "clip")


@pytest.mark.skipif(os.geteuid() != 0 and not hasattr(os, "seteuid"), reason="needs a way to give up permissions")
def test_unreadable_folder_and_no_write_permission(scene_project: Project, as_nobody):
    write_scene(scene_project.raw, "closed", 16)
    (scene_project.raw / "closed").chmod(0)
    scene_project.run_upto(3)  # once with all rights: what Python imports on the way may be readable to root alone
    shutil.rmtree(scene_project.out)
    with as_nobody(scene_project.root):
        assert scene_project.run(1, "--workers", "1") == 0
        assert "cannot be read" in entry_of(scene_project, "closed").reasons[0]
        assert scene_project.run(2) == 0
        scene_project.out.chmod(0o555)
        (scene_project.out / "tiny").chmod(0o555)
        assert scene_project.run(3) == 3
        assert "no permission" in scene_project.text
        (scene_project.out / "tiny").chmod(0o755)
        assert scene_project.run(3) == 0, "and goes on once it is mended"
        scene_project.out.chmod(0o755)


@pytest.fixture
def as_nobody():
    """Run a block without root's rights, on a tree that belongs to nobody (root ignores permission bits)."""
    from contextlib import contextmanager

    @contextmanager
    def switch(root: Path):
        if os.geteuid() != 0:
            yield
            return
        nobody = 65534
        for path in [root, *root.rglob("*")]:
            os.chown(path, nobody, nobody)
        parents = [parent for parent in root.parents if parent != Path("/")]
        modes = {parent: parent.stat().st_mode for parent in parents}
        for parent in parents:
            parent.chmod(modes[parent] | 0o755)
        os.seteuid(nobody)
        try:
            yield
        finally:
            os.seteuid(0)
            for parent, mode in modes.items():
                parent.chmod(mode)

    return switch


# --- frames of unusual kinds are converted, and the index says so ------------------------------------------------------


def first_frame(project: Project) -> np.ndarray:
    assert project.run(2, "--engine", "none", "--no_temporal_avg") == 0, project.text
    return cv2.imread(str(project.out / "tiny" / "frames_sharp" / "frame_0000.png"))[..., ::-1]


def save_all(project: Project, make, name: str) -> list[np.ndarray]:
    folder = project.raw / "tiny"
    folder.mkdir()
    frames = moving_frames(16, size=(80, 48))
    for number, frame in enumerate(frames):
        make(frame, folder / name.format(number))
    assert project.run(1) == 0, project.text
    return frames


def test_greyscale(project: Project):
    frames = save_all(project, lambda frame, path: Image.fromarray(frame[..., 0]).save(path), "{}.png")
    assert "greyscale repeated to RGB" in entry_of(project).notes[0]
    assert np.array_equal(first_frame(project), np.repeat(frames[0][..., :1], 3, axis=2))


def test_rgba(project: Project):
    def make(frame, path):
        Image.fromarray(np.dstack([frame, np.full(frame.shape[:2], 128, np.uint8)])).save(path)

    frames = save_all(project, make, "{}.png")
    assert "alpha dropped" in entry_of(project).notes[0]
    assert np.array_equal(first_frame(project), frames[0]), "colours are not darkened by alpha"


def test_16_bit_colour(project: Project):
    def make(frame, path):
        cv2.imwrite(str(path), frame[..., ::-1].astype(np.uint16) * 257)

    frames = save_all(project, make, "{}.png")
    assert "16-bit reduced to 8-bit" in " ".join(entry_of(project).notes)
    assert np.array_equal(first_frame(project), frames[0])


def test_16_bit_grey(project: Project):
    def make(frame, path):
        cv2.imwrite(str(path), frame[..., 0].astype(np.uint16) * 257)

    frames = save_all(project, make, "{}.tiff")
    assert np.array_equal(first_frame(project), np.repeat(frames[0][..., :1], 3, axis=2)), "not clipped at 255"


def test_exif_rotation(project: Project):
    def make(frame, path):
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned; show it turned clockwise
        Image.fromarray(frame).save(path, exif=exif, quality=100, subsampling=0)

    frames = save_all(project, make, "{}.jpg")
    entry = entry_of(project)
    assert (entry.width, entry.height) == (48, 80)
    assert "rotated as EXIF says" in entry.notes[0]
    shown = first_frame(project)
    assert np.abs(shown.astype(int) - np.rot90(frames[0], -1)).mean() < 3


# --- phase 3: delivered depth ------------------------------------------------------------------------------------------


def depth_file(project: Project, number: int) -> Path:
    return project.raw / "tiny" / "depth" / f"{number:03d}.npz"


def run_depth(project: Project) -> int:
    project.run_upto(2)
    return project.run(3)


def test_depth_of_the_wrong_size(scene_project: Project):
    np.savez(depth_file(scene_project, 5), depth=slanted_depth((80, 48)))
    assert run_depth(scene_project) == 3
    assert "005.npz is 80x48, its frame is 72x48" in scene_project.text


def test_missing_depth_file(scene_project: Project):
    depth_file(scene_project, 5).unlink()
    assert scene_project.run(1) == 1
    assert "has 17 files" in scene_project.text and "for 18 frames" in scene_project.text


def test_pickled_depth_is_not_loaded(scene_project: Project):
    np.savez(depth_file(scene_project, 5), depth=np.array([{"a": 1}], dtype=object))
    assert run_depth(scene_project) == 3
    assert "005.npz is not a readable npz file" in scene_project.text


def test_npz_with_another_key(scene_project: Project):
    np.savez(depth_file(scene_project, 5), disparity=slanted_depth())
    assert run_depth(scene_project) == 3
    assert "has keys ['disparity'], needs 'depth'" in scene_project.text


def test_nan_negative_and_zero_depth_become_the_median(project: Project):
    write_scene(project.raw, "tiny", holes=True)
    assert run_depth(project) == 0
    assert "were set to the scene median" in project.text
    scene = Scene(project.out, "tiny")
    stats = json.loads(scene.stats_path.read_text())
    for frame in range(18):
        depth = np.load(scene.depth_path(frame))["depth"]
        assert np.isfinite(depth).all() and (depth > 0).all()
    for frame, expected in ((0, stats["d_median"]), (9, stats["d_median"]), (6, stats["d_median"]), (3, 1000.0)):
        holes = np.load(scene.depth_path(frame))["depth"][7:13, 25:30]
        assert (holes == np.float16(expected)).all(), f"frame {frame}: NaN, 0 and -1 are unknown, and infinity is far"
    record = json.loads((scene.depth_dir / ".done").read_text())
    assert record["repairs"] > 0


def test_statistics_are_exact(scene_project: Project):
    assert run_depth(scene_project) == 0
    scene = Scene(scene_project.out, "tiny")
    values = np.concatenate([np.load(scene.depth_path(frame))["depth"].ravel() for frame in range(18)]).astype(float)
    stats = json.loads(scene.stats_path.read_text())
    for name, percent in (("d_min", 0), ("d_p5", 5), ("d_median", 50), ("d_p95", 95), ("d_max", 100)):
        assert stats[name] == pytest.approx(np.percentile(values, percent), rel=1e-12), name


def test_sky_does_not_pull_the_focus_range(project: Project):
    folder = write_scene(project.raw, "tiny")
    for path in (folder / "depth").iterdir():
        depth = slanted_depth()
        depth[:20] = 5000.0
        np.savez(path, depth=depth)
    assert run_depth(project) == 0
    stats = json.loads(Scene(project.out, "tiny").stats_path.read_text())
    assert stats["d_max"] == 1000.0, "clamped"
    assert stats["focus_far"] < 10


def test_all_zero_depth(project: Project):
    folder = write_scene(project.raw, "tiny")
    for path in (folder / "depth").iterdir():
        np.savez(path, depth=np.zeros((48, 72), np.float32))
    assert run_depth(project) == 3
    assert "no frame has a single valid depth value" in project.text
    assert not (Scene(project.out, "tiny").depth_dir / ".done").exists()


def test_one_all_zero_map_is_filled(scene_project: Project):
    np.savez(depth_file(scene_project, 5), depth=np.zeros((48, 72), np.float32))
    assert run_depth(scene_project) == 0
    assert f"{80 * 48} pixels without valid depth" in scene_project.text


def test_png_depth_in_millimetres(project: Project):
    folder = write_scene(project.raw, "tiny")
    for number in range(18):
        depth_file(project, number).unlink()
        millimetres = np.full((48, 72), 2500, np.uint16)
        millimetres[:4, :4] = 0
        cv2.imwrite(str(folder / "depth" / f"{number}.png"), millimetres)
    assert run_depth(project) == 0
    depth = np.load(Scene(project.out, "tiny").depth_path(0))["depth"]
    assert (depth == np.float16(2.5)).all(), "png 0 is unknown, and the median is 2.5 m"


def disparity_scene(project: Project, described: str | None) -> None:
    folder = write_scene(project.raw, "tiny", depth=False)
    (folder / "disparity").mkdir()
    for number in range(18):
        ramp = np.tile(np.linspace(0, 255, 72).round().astype(np.uint8), (48, 1))
        cv2.imwrite(str(folder / "disparity" / f"{number}.png"), ramp)
    if described is not None:
        (folder / "depth.json").write_text(described)


def test_disparity(project: Project):
    disparity_scene(project, '{"kind": "disparity", "near_m": 2.0, "far_m": 40}')
    assert run_depth(project) == 0
    stats = json.loads(Scene(project.out, "tiny").stats_path.read_text())
    assert stats["d_min"] == pytest.approx(2.0, rel=0.02) and stats["d_max"] == pytest.approx(40, rel=0.02)


@pytest.mark.parametrize(
    "described",
    [
        None,
        "not json",
        "{}",
        '{"kind": "disparity", "near_m": 4, "far_m": 2}',
        '{"kind": "depth", "near_m": 1, "far_m": 2}',
    ],
)
def test_disparity_without_a_usable_depth_json(project: Project, described: str | None):
    disparity_scene(project, described)
    assert project.run(1) == 1
    assert "depth.json" in project.text and "near_m" in project.text


def test_both_kinds_of_depth(project: Project):
    folder = write_scene(project.raw, "tiny")
    (folder / "disparity").mkdir()
    assert "both depth/ and disparity/" in rejected(project)


# --- stored state ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "done\n", "{}", '{"phase": "deblur"}', "[1, 2]", "\xff\xfe"])
def test_empty_or_foreign_done(scene_project: Project, content: str):
    scene_project.run_upto(2)
    done = scene_project.out / "tiny" / "frames_sharp" / ".done"
    done.write_text(content, encoding="latin-1")
    frames = sorted(path.name for path in done.parent.iterdir())
    assert scene_project.run(2) == 3
    assert str(done) in scene_project.text and "redo" in scene_project.text
    assert done.read_text(encoding="latin-1") == content, "reported, not repaired"
    assert scene_project.run(3) == 3, "and not trusted by the next phase"
    assert scene_project.run(2, "--on_stale", "redo") == 0
    assert sorted(path.name for path in done.parent.iterdir()) == frames


def test_edited_done_is_not_trusted(scene_project: Project):
    scene_project.run_upto(2)
    done = scene_project.out / "tiny" / "frames_sharp" / ".done"
    record = json.loads(done.read_text())
    record["fields"]["settings"]["reach"] = 3
    done.write_text(json.dumps(record))
    assert scene_project.run(2, "--reach", "3") == 3
    assert "fingerprint that is not its fields'" in scene_project.text


def test_missing_done_resumes(scene_project: Project):
    scene_project.run_upto(2)
    before = tree(scene_project.out / "tiny")
    (scene_project.out / "tiny" / "frames_sharp" / ".done").unlink()
    assert scene_project.run(2) == 0
    assert tree(scene_project.out / "tiny") == before


def test_frames_of_unknown_origin(scene_project: Project):
    scene_project.run_upto(1)
    folder = scene_project.out / "tiny" / "frames_sharp"
    folder.mkdir()
    (folder / "frame_0003.png").write_bytes(b"whose?")
    assert scene_project.run(2) == 3
    assert "unknown origin" in scene_project.text
    assert (folder / "frame_0003.png").read_bytes() == b"whose?"


@pytest.mark.parametrize(
    "content", ["", "{", '{"schema": 1}', '{"schema": 99}', '{"schema":1,"raw_root":"x","settings":{},"scenes":[]}']
)
def test_corrupt_scene_index(scene_project: Project, content: str):
    scene_project.run_upto(1)
    split = (scene_project.out / "tiny" / "split.txt").read_text()
    index = scene_project.out / "scene_index.json"
    index.write_text(content)
    for phase in (1, 2):
        assert scene_project.run(phase) == 1
        assert str(index) in scene_project.text and "remove the index" in scene_project.text
    index.unlink()
    assert scene_project.run(1) == 0
    assert (scene_project.out / "tiny" / "split.txt").read_text() == split


def test_missing_scene_index(scene_project: Project):
    assert scene_project.run(2) == 2
    assert "01_validate_dataset.py" in scene_project.text


@pytest.mark.parametrize("content", ["", "{", '{"schema": 1}', '{"schema": 1, "p50": 0, "p95": -1, "max": 0}'])
def test_corrupt_coc_stats(scene_project: Project, content: str):
    scene_project.run_upto(4)
    stats = scene_project.out / "coc_stats.json"
    stats.write_text(content)
    for phase, flags in ((4, []), (4, ["--confirm"]), (5, [])):
        assert scene_project.run(phase, *flags) == 1
        assert str(stats) in scene_project.text and "04_calibrate_coc.py" in scene_project.text
    assert scene_project.run(4, "--on_stale", "redo") == 0


def test_unconfirmed_max_coc(scene_project: Project):
    scene_project.run_upto(4)
    assert scene_project.run(5) == 1
    stats = json.loads((scene_project.out / "coc_stats.json").read_text())
    assert f"p95 {stats['p95'] * 1e6:.0f}" in scene_project.text, "the numbers"
    assert "coc_histogram.png" in scene_project.text, "the picture"
    assert "04_calibrate_coc.py --confirm" in scene_project.text, "the command"
    assert (scene_project.out / "report" / "coc_histogram.png").exists()
    assert not (scene_project.out / "tiny" / "bokeh_renders").exists()


def test_confirm_before_calibration(scene_project: Project):
    scene_project.run_upto(3)
    assert scene_project.run(4, "--confirm") == 1
    assert "to confirm" in scene_project.text


@pytest.mark.parametrize("value", ["-1", "0", "0.2", "nan"])
def test_confirm_an_impossible_value(scene_project: Project, value: str):
    scene_project.run_upto(4)
    assert scene_project.run(4, f"--confirm={value}") == 2
    assert json.loads((scene_project.out / "coc_stats.json").read_text())["confirmed_max_coc"] is None


@pytest.mark.parametrize(("value", "metres"), [("300um", 3e-4), ("0.3mm", 3e-4), ("0.0003", 3e-4)])
def test_confirm_a_value_with_its_unit(scene_project: Project, value: str, metres: float):
    scene_project.run_upto(4)
    assert scene_project.run(4, "--confirm", value) == 0
    stats = json.loads((scene_project.out / "coc_stats.json").read_text())
    assert stats["confirmed_max_coc"] == pytest.approx(metres)
    assert "@" in stats["confirmed"]["by"] and stats["confirmed"]["at"]


def test_changed_calibration_makes_renders_stale(scene_project: Project):
    scene_project.run_upto(5)
    assert scene_project.run(4, "--confirm", "90um") == 0
    assert scene_project.run(5, "--num_sets", "2") == 3
    assert "max_coc changed" in scene_project.text and "9e-05" in scene_project.text


def test_damaged_outputs_fail_validation_with_every_reason(scene_project: Project):
    scene_project.run_upto(5)
    scene = Scene(scene_project.out, "tiny")
    scene.sharp_path(1).write_bytes(scene.sharp_path(1).read_bytes()[:100])
    np.savez(scene.depth_path(2), depth=np.ones((48, 80), np.float32))
    np.savez(scene.focus_path(0, 3), other=np.ones((48, 80), np.float16))
    scene.bokeh_path(1, 4).unlink()
    (scene.focus_dir / "set_00" / "stray.txt").write_text("?")
    scene.split_path.write_text("holiday\n")
    cv2.imwrite(str(scene.sharp_path(6)), np.zeros((32, 32, 3), np.uint8))
    assert scene_project.run(6) == 3
    reasons = " | ".join(
        json.loads((scene_project.out / "validation_report.json").read_text())["scenes"]["tiny"]["reasons"]
    )
    for expected in (
        "frame_0001.png",
        "float32, needs float16",
        "keys ['other']",
        "bokeh_0004.png",
        "stray.txt",
        "split.txt says none of train, val and test",
        "32x32",
    ):
        assert expected in reasons, expected


# --- flags ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("phase", "name"), [(2, "sharpener"), (3, "guess"), (5, "blur")])
def test_unknown_engine(scene_project: Project, phase: int, name: str):
    scene_project.run_upto(1)
    assert scene_project.run(phase, "--engine", name) == 2
    assert name in scene_project.text and "allowed are:" in scene_project.text


@pytest.mark.parametrize(
    ("phase", "name", "missing"),
    [
        (2, "genfocus", "deblurNet.safetensors"),
        (3, "vda", "metric_video_depth_anything_vitl.pth"),
        (5, "bokehnet", "bokehNet.safetensors"),
    ],
)
def test_an_engine_without_its_weights(
    scene_project: Project, monkeypatch: pytest.MonkeyPatch, phase: int, name: str, missing: str
):
    scene_project.run_upto(1)
    for variable in ("BOKEHFLOW_WEIGHTS", "HF_HUB_CACHE", "HF_HOME"):
        empty = scene_project.root / variable
        empty.mkdir()
        monkeypatch.setenv(variable, str(empty))
    assert scene_project.run(phase, "--engine", name) == 2
    assert "weights are missing or damaged" in scene_project.text and missing in scene_project.text
    assert "python -m pipeline weights" in scene_project.text


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("sharpness=3", "no option 'sharpness'"),
        ("sigma_px", "NAME=VALUE"),
        ("sigma_px=soft", "must be a float"),
        ("sigma_px=-1", "sigma_px must be"),
    ],
)
def test_wrong_engine_option(scene_project: Project, option: str, message: str):
    scene_project.run_upto(1)
    assert scene_project.run(2, "--engine_opt", option) == 2
    assert message in scene_project.text


def test_cuda_asked_for_and_absent(scene_project: Project):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    scene_project.run_upto(1)
    assert scene_project.run(2, "--device", "cuda") == 2
    assert "no CUDA device" in scene_project.text


def test_resample_refuses_a_deterministic_engine(scene_project: Project):
    scene_project.run_upto(1)
    assert scene_project.run(2, "--temporal", "resample") == 2
    assert "identity" in scene_project.text


@pytest.mark.parametrize(
    ("phase", "flags"),
    [(1, ["--min_frames", "0"]), (2, ["--reach", "0"]), (3, ["--overlap", "200"]), (4, ["--sensor_width_mm", "0"])],
)
def test_values_out_of_range(scene_project: Project, phase: int, flags: list[str]):
    scene_project.run_upto(1)
    assert scene_project.run(phase, *flags) == 2
    assert "must be" in scene_project.text


@pytest.mark.parametrize("phase", range(1, 7))
def test_unknown_flag_is_bad_usage(scene_project: Project, phase: int):
    with pytest.raises(SystemExit) as stop:
        scene_project.run(phase, "--fastest")
    assert stop.value.code == 2
