"""apply_bokeh on depth: which engine and depth and why, a followed focus, strength, stops, and the forms of output."""

import os
import signal
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from conftest import load_script, texture
from PIL import Image
from vda_reference import save_tiny

import model.weights
from model.bokehflow import VARIANTS, BokehFlow, LensBatch
from model.bokehflow.checkpoint import model_bytes
from model.video import engines
from model.video.engines import LensEngine
from model.video.film import Look
from model.video.focus import steady
from model.video.track import PointTracker
from pipeline.engines.vda import stream as vda
from pipeline.media.depth_cleaning import crisp, filled, unrounded
from pipeline.media.images import read_picture
from pipeline.media.sinks import FolderSink, work_folder
from pipeline.media.video_io import TimedFolder, TimedVideo
from pipeline.media.video_writer import VideoSink
from pipeline.optics import Aperture, Lens, defocus_px, px_per_mm, render_lens_blur
from pipeline.signals import StopSignals

SIZE = (128, 80)
FAR_M = 8.0


@pytest.fixture(autouse=True)
def no_weights_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BOKEHFLOW_WEIGHTS", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def walk(count: int, size: tuple[int, int] = SIZE, seed: int = 0, hidden: range = range(0)) -> tuple[list, list, list]:
    """A textured square that walks through a textured room and comes nearer: pictures, depths, and where it is.

    While `hidden`, a board at 1 m stands before it.
    """
    width, height = size
    room, cloth = texture(height, width, seed), texture(28, 28, seed + 7)
    pictures, depths, places = [], [], []
    for number in range(count):
        x, y = 30 + 2 * number, 38 + number % 3
        picture, depth = room.copy(), np.full((height, width), FAR_M, np.float32)
        picture[y - 14 : y + 14, x - 14 : x + 14] = 255 - cloth
        depth[y - 14 : y + 14, x - 14 : x + 14] = 3.0 - 0.05 * number
        if number in hidden:
            picture[:, : width - 8], depth[:, : width - 8] = 120, 1.0
        pictures.append(picture)
        depths.append(depth)
        places.append((x, y))
    return pictures, depths, places


def write_film(folder: Path, pictures: list, depths: list | None) -> Path:
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"shot{number:03d}.png")
    if depths is not None:
        (folder / "depth").mkdir()
        for number, depth in enumerate(depths):
            np.savez(folder / "depth" / f"{number:03d}.npz", depth=depth)
    return folder


def write_video(path: Path, pictures: list, *, bits: int = 8, size: tuple[int, int] | None = None) -> Path:
    """A film of 10 frames a second; of 10 bits with a ramp that 8 bits cannot hold."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"crf": "4"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p" if bits == 8 else "yuv420p10le"
        for number, picture in enumerate(pictures):
            deep = picture.dtype == np.uint16
            frame = av.VideoFrame.from_ndarray(picture, format="rgb48le" if deep else "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def run(*args: object) -> int:
    return load_script("apply_bokeh")([*(str(arg) for arg in args), "--device", "cpu"])


def pictures_of(folder: Path) -> list[np.ndarray]:
    return [read_picture(path)[0] for path in sorted(folder.glob("*.png"))]


# --- what comes out, and what is said ----------------------------------------------------------------------------------


def test_pictures_are_the_lens_renderers_own(tmp_path: Path, capsys):
    pictures, depths, _ = walk(2)
    source = write_film(tmp_path / "in", pictures, depths)
    more = ["--f_number", 1.4, "--focal_mm", 85, "--focus", 3, "--blades", 5, "--rotation", 20, "--roundness", 0.2]
    assert run(source, *more, "-o", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "engine: lens, optics on depth, since no checkpoint was given" in said
    assert f"depth: depth delivered in {source / 'depth'}, since" in said
    assert "lens: 85 mm, f/1.4: 95 % of the film is blurred by a radius below" in said
    lens, aperture = Lens(f_m=0.085, f_number=1.4, focus_m=3), Aperture(blades=5, rotation_deg=20, roundness=0.2)
    round_one = []
    for number, found in enumerate(pictures_of(tmp_path / "out")):
        image = torch.from_numpy(pictures[number]).permute(2, 0, 1)[None].float() / 255
        depth = torch.from_numpy(depths[number])[None, None]
        radius = defocus_px(depth, lens, px_per_mm(SIZE[0]))
        made = [
            (render_lens_blur(image, radius, order=depth, aperture=shape)[0].clamp(0, 1) * 255).round().byte()
            for shape in (aperture, Aperture())
        ]
        assert np.array_equal(found, made[0].permute(1, 2, 0).numpy())
        round_one.append(not np.array_equal(found, made[1].permute(1, 2, 0).numpy()))
    assert all(round_one), "the blades changed nothing"


def test_a_network_takes_the_depth_that_is_named(tmp_path: Path, capsys):
    """And shows something else than with its own."""
    torch.manual_seed(0)
    net = BokehFlow(VARIANTS["demo"]).eval()
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(model_bytes(net.config, net.state_dict(), 7, {}))
    pictures, depths, _ = walk(2)
    source = write_film(tmp_path / "in", pictures, depths)
    more = [source, "--checkpoint", checkpoint, "--f_number", 1.4, "--focal_mm", 85, "--focus", 3]
    assert run(*more, "--depth", "given", "-o", tmp_path / "out") == 0
    written = capsys.readouterr()
    said = written.out
    assert "weak" not in said + written.err, "the depth that it would see does not matter"
    assert "depth is handed in" in said and f"depth delivered in {source / 'depth'}" in said
    assert run(*more, "-o", tmp_path / "own") == 0
    assert "it sees depth itself" in capsys.readouterr().out
    lens, state = LensBatch.of(Lens(f_m=0.085, f_number=1.4, focus_m=3), px_per_mm(SIZE[0])), None
    for number, found in enumerate(pictures_of(tmp_path / "out")):
        image = torch.from_numpy(pictures[number]).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            out, state = net(image, lens, state, torch.from_numpy(depths[number])[None, None])
        assert np.array_equal(found, (out.bokeh[0] * 255).round().byte().permute(1, 2, 0).numpy())
    pairs = zip(pictures_of(tmp_path / "out"), pictures_of(tmp_path / "own"), strict=True)
    assert not any(np.array_equal(*pair) for pair in pairs)


def test_strength_is_free_of_the_scale_of_depth(tmp_path: Path, capsys):
    """The same film with depth in other units gives the same pictures; the radius is what was asked for."""
    pictures, depths, _ = walk(3)
    for name, factor in (("metres", 1.0), ("others", 3.7)):
        source = write_film(tmp_path / name, pictures, [depth * factor for depth in depths])
        more = ["--strength", 3, "--focus_px", "30,38", "-o", tmp_path / f"out_{name}"]
        assert run(source, *more) == 0
    assert "below 3.8 px, 3.00% of the width, as --strength asks" in capsys.readouterr().out
    for one, other in zip(pictures_of(tmp_path / "out_metres"), pictures_of(tmp_path / "out_others"), strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
        assert np.abs(one.astype(int) - pictures[0]).max() > 20, "blurred"


def test_without_depth_one_line_says_what_brings_it(tmp_path: Path, capsys, monkeypatch):
    """In a copy of the code that came without a network, too."""
    monkeypatch.setattr(model.weights, "__file__", str(tmp_path / "__init__.py"))
    pictures, _, _ = walk(2)
    video = write_video(tmp_path / "bear.mp4", pictures)
    for flags, message in (
        ([], "python -m pipeline weights metric_video_depth_anything_vits.pth --download"),
        (["--depth", "vda"], "python -m pipeline weights metric_video_depth_anything_vits.pth --download"),
        (["--depth", "given"], "has no depth with it"),
        (["--depth", tmp_path / "absent"], "--depth must be given, vda, bokehflow or a folder"),
        (["--depth", "bokehflow"], "bokehflow_nano.safetensors is missing"),
        (["--engine", "bokehflow"], "bokehflow_nano.safetensors is missing"),
        (["--engine", "other"], "--engine must be one of auto, lens, bokehflow"),
    ):
        assert run(video, *flags, "-o", tmp_path / "out.mp4") == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not list(tmp_path.glob("*out*")), "nothing is left behind"


def test_depth_beside_a_video(tmp_path: Path, capsys):
    """A video finds the folder of its name; the result equals the folder's own."""
    pictures, depths, _ = walk(3)
    folder = write_film(tmp_path / "dance", pictures, depths)
    video = write_video(tmp_path / "dance.mp4", pictures)
    more = ["--focus", 3, "--strength", 2]
    assert run(video, *more, "-o", tmp_path / "of_video") == 0
    assert f"depth: depth delivered in {folder / 'depth'}" in capsys.readouterr().out
    assert run(folder, *more, "-o", tmp_path / "of_folder") == 0
    for one, other in zip(pictures_of(tmp_path / "of_video"), pictures_of(tmp_path / "of_folder"), strict=True):
        assert np.abs(one.astype(int) - other).mean() < 3  # the codec
    video.rename(tmp_path / "elsewhere.mp4")
    assert run(tmp_path / "elsewhere.mp4", *more, "--depth", folder, "-o", tmp_path / "named") == 0
    for one, other in zip(pictures_of(tmp_path / "named"), pictures_of(tmp_path / "of_video"), strict=True):
        assert np.array_equal(one, other)


def test_estimated_depth_is_kept_for_the_next_lens(tmp_path: Path, capsys, monkeypatch):
    """Tiny random weights in the published form: chosen by themselves, run once, found again."""
    save_tiny(tmp_path / "weights", "vitl")
    monkeypatch.setenv("BOKEHFLOW_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(vda, "network_size", lambda width, height, _, size=vda.network_size: size(width, height, 56))
    pictures, _, _ = walk(3, (84, 70))
    source = write_film(tmp_path / "in", pictures, None)
    more = [source, "--focus_px", "30,38", "--save_depth", tmp_path / "kept"]
    assert run(*more, "-o", tmp_path / "one") == 0
    assert "depth: estimated by Video Depth Anything, vitl (CC-BY-NC-4.0) on cpu" in capsys.readouterr().out
    monkeypatch.setattr("pipeline.engines.vda.VideoDepthAnything.stream", None)  # not needed again
    assert run(*more, "--strength", 3, "-o", tmp_path / "two") == 0
    monkeypatch.delenv("BOKEHFLOW_WEIGHTS")
    assert run(source, "--focus_px", "30,38", "--depth", tmp_path / "kept", "-o", tmp_path / "three") == 0
    for one, other in zip(pictures_of(tmp_path / "one"), pictures_of(tmp_path / "three"), strict=True):
        assert np.array_equal(one, other)
    Image.fromarray(pictures[0]).save(source / "shot999.png")
    assert run(source, "--depth", tmp_path / "kept", "-o", tmp_path / "longer") == 2
    assert "holds depth of 3 frames, the film has 4" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert run(source, "--depth", tmp_path / "kept", "--save_depth", tmp_path / "mine", "-o", tmp_path / "four") == 2


def test_a_checkpoint_says_what_it_learned_from(tmp_path: Path, capsys):
    torch.manual_seed(0)
    net = BokehFlow(VARIANTS["demo"]).eval()
    path, pictures = tmp_path / "model.safetensors", walk(2, (60, 56))[0]
    source = write_film(tmp_path / "in", pictures, None)
    for step, scenes, weak in ((120, 4, True), (50_000, 900, False)):
        note = {"trained_on": {"kind": "scenes", "scenes": scenes}}
        path.write_bytes(model_bytes(net.config, net.state_dict(), step, note))
        assert run(source, "--checkpoint", path, "--focus", 2, "--overwrite", "-o", tmp_path / "out") == 0
        said = capsys.readouterr().out
        assert f"{step} steps on {scenes} scenes" in said
        assert ("this network is weak: only 4 scenes were in its training and it took only 120 steps" in said) == weak
        assert "engine: bokehflow" in said
    assert run(source, "--checkpoint", path, "--depth", "bokehflow", "--engine", "lens", "-o", tmp_path / "lens") == 0
    said = capsys.readouterr().out
    assert "engine: lens" in said and "depth: seen by the network" in said and "following" not in said
    assert run(source, "--checkpoint", path, "--focus_track", "20,20", "-o", tmp_path / "followed") == 0
    for flags in (
        ["--strength", 2],
        ["--blades", 5],
        ["--depth", "vda", "--engine", "bokehflow"],
        ["--engine", "lens"],
    ):
        assert run(source, "--checkpoint", path, *flags, "-o", tmp_path / "refused") == 2


# --- a followed focus --------------------------------------------------------------------------------------------------


def track(pictures: list, depths: list, start: tuple[int, int], cuts: tuple[int, ...] = ()) -> list:
    tracker = PointTracker()
    sights = [tracker.begin(pictures[0], depths[0], start)]
    for number in range(1, len(pictures)):
        sights.append(tracker.step(pictures[number], depths[number], cut=number in cuts))
    return sights


def test_a_point_is_followed_and_its_distance_read():
    pictures, depths, places = walk(24)
    for number, sight in enumerate(track(pictures, depths, places[0])):
        assert np.hypot(*np.subtract(sight.xy, places[number])) < 3, number
        assert 1 / sight.inverse_m == pytest.approx(3.0 - 0.05 * number, rel=1e-4)


def test_a_point_behind_something_is_lost_and_found_again():
    pictures, depths, places = walk(24, hidden=range(8, 14))
    sights = track(pictures, depths, places[0])
    assert [number for number, sight in enumerate(sights) if np.isnan(sight.inverse_m)] == list(range(8, 14))
    assert np.hypot(*np.subtract(sights[-1].xy, places[-1])) < 3


def test_behind_a_cut_a_point_is_looked_for_everywhere():
    pictures, depths, places = walk(6)
    other, other_depths, _ = walk(3, seed=3)
    moved = np.roll(pictures[5], 35, axis=1), np.roll(depths[5], 35, axis=1)
    sights = track([*pictures, *other, moved[0]], [*depths, *other_depths, moved[1]], places[0], cuts=(6, 9))
    assert all(np.isnan(sight.inverse_m) for sight in sights[6:9])
    assert sights[9].xy[0] == pytest.approx(places[5][0] + 35, abs=2)
    assert 1 / sights[9].inverse_m == pytest.approx(3.0 - 0.05 * 5)


def test_steadying_drops_outliers_bridges_gaps_and_keeps_to_shots():
    times = np.arange(30) / 10
    values = 0.2 + 0.02 * times
    broken = values.copy()
    broken[7], broken[12:15], broken[20:] = 0.9, np.nan, np.nan
    steadied = steady(broken, times, (range(20), range(20, 30)), 0.3)
    assert np.abs(steadied[4:16] - values[4:16]).max() < 0.003
    assert np.ptp(steadied[19:]) == 0, "a shot in which nothing was seen keeps the distance"
    jump = np.r_[np.full(15, 0.2), np.full(15, 0.6)]
    cut = steady(jump, times, (range(15), range(15, 30)), 0.5)
    assert cut[14] == pytest.approx(0.2) and cut[15] == pytest.approx(0.6), "no smoothing across a cut"
    assert np.array_equal(steady(jump, times, (range(30),), 0.0), jump)


def test_a_followed_square_stays_sharp_and_the_terminal_tells(tmp_path: Path, capsys, monkeypatch):
    """Through the whole command, with a cut behind which it is not there; distances are those of the square."""
    pictures, depths, places = walk(12)
    other = [255 - np.rot90(picture, 2) for picture in walk(4, seed=9)[0]]
    source = write_film(tmp_path / "in", pictures + other, depths + [np.full_like(depths[0], 5.0)] * 4)
    seen: list[list[float]] = []
    photographs = LensEngine.photographs

    def watched(self, frames, look: Look, focus_m: list[float]):
        seen.append(focus_m)
        return photographs(self, frames, look, focus_m)

    monkeypatch.setattr(LensEngine, "photographs", watched)
    x, y = places[0]
    more = ["--strength", 4, "--temporal", 0.05, "--focus_track", f"{x},{y}"]
    assert run(source, *more, "-o", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "focus: followed through 12 of 16 frames" in said
    assert "focus: not found again behind the cut at 0.50 s: it stays at 2.4" in said
    assert "started afresh where the film cuts, at 0.50 s" in said
    assert seen[0][:12] == pytest.approx([3.0 - 0.05 * n for n in range(12)], rel=0.03)
    for number, result in enumerate(pictures_of(tmp_path / "out")[:12]):
        x, y = places[number]
        change = np.abs(result.astype(int) - pictures[number])
        inside = change[y - 8 : y + 8, x - 8 : x + 8].mean()
        assert inside < 3 and change[:, :10].mean() > 4 * max(inside, 1), number
    assert run(source, *more, "--focus_track", "0.5:60,40", "-o", tmp_path / "named") == 0
    assert seen[1][12:] == pytest.approx([5.0] * 4)
    assert run(source, *more, "--focus_track", "9:60,40", "-o", tmp_path / "late") == 2
    assert "names a point at 9 s, and the film ends at 0.62 s" in capsys.readouterr().err


def test_without_any_focus_the_middle_is_followed(tmp_path: Path, capsys):
    pictures, depths, _ = walk(2)
    source = write_film(tmp_path / "in", pictures, depths)
    assert run(source, "-o", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "what the middle of the first frame shows is followed" in said
    assert "1.50% of the width, since no lens was named" in said


# --- stops, sizes, bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "kept"), [("out.mp4", 24), ("out", 26)])
def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, capsys, monkeypatch, target, kept):
    pictures, depths, _ = walk(27)
    source = write_film(tmp_path / "in", pictures, depths)
    more = [source, "--focus", 2, "--strength", 3]
    assert run(*more, "-o", tmp_path / f"straight_{target}") == 0
    for sink in (VideoSink, FolderSink):
        write, count = sink.write, []

        def interrupted(self, frame, write=write, count=count) -> None:
            write(self, frame)
            count.append(frame)
            if len(count) == 26:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(sink, "write", interrupted)
    assert run(*more, "-o", tmp_path / target) == 75
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert not (tmp_path / target).exists() and work_folder(tmp_path / target).is_dir()
    rendered: list[int] = []
    monkeypatch.setattr(
        engines, "leave", lambda image, like, made=engines.leave: rendered.append(1) or made(image, like)
    )
    capsys.readouterr()
    assert run(*more, "-o", tmp_path / target) == 0
    assert f"going on behind the {kept} frames that are done" in capsys.readouterr().out
    assert len(rendered) == 27 - kept
    if target == "out":
        for one, other in zip(pictures_of(tmp_path / "out"), pictures_of(tmp_path / "straight_out"), strict=True):
            assert np.array_equal(one, other)
    else:
        assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "straight_out.mp4").read_bytes()
        times = [frame.time_s for frame in TimedVideo(tmp_path / "out.mp4").frames()]
        assert times == [Fraction(number, 24) for number in range(27)]
    assert not list(tmp_path.glob(".*"))


def test_an_unfinished_output_of_other_settings_starts_over(tmp_path: Path, capsys, monkeypatch):
    pictures, depths, _ = walk(6)
    source = write_film(tmp_path / "in", pictures, depths)
    with monkeypatch.context() as patched:
        check = StopSignals.safe_point

        def safe_point(self) -> None:
            if next(looked, True):  # both passes over the film before, and three frames
                self.received = "SIGTERM"
            check(self)

        patched.setattr(StopSignals, "safe_point", safe_point)
        looked = iter([False] * (6 + 3))
        assert run(source, "--focus", 2, "--strength", 3, "-o", tmp_path / "out") == 75
    assert run(source, "--focus", 2, "--strength", 2, "-o", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "the unfinished output was made with another settings.strength_percent (3.0, now 2.0): starting over" in said


def test_both_beside_each_other_and_the_depth_as_colours(tmp_path: Path):
    pictures, depths, _ = walk(4)
    source = write_film(tmp_path / "in", pictures, depths)
    more = ["--focus", 3, "--side_by_side", "--depth_video", tmp_path / "depth.mp4", "--max_frames", 3]
    assert run(source, *more, "-o", tmp_path / "depth.mp4") == 2 and not list(tmp_path.glob("*depth.mp4*"))
    assert run(source, *more, "-o", tmp_path / "out.mp4") == 0
    shown = [frame.picture for frame in TimedVideo(tmp_path / "out.mp4").frames()]
    coloured = [frame.picture for frame in TimedVideo(tmp_path / "depth.mp4").frames()]
    assert len(shown) == len(coloured) == 3
    assert shown[0].shape == (80, 256, 3) and coloured[0].shape == (80, 128, 3)
    left = np.abs(shown[0][:, :128].astype(int) - pictures[0]).mean()
    assert left < 10, "the film on the left"
    assert (
        np.abs(shown[0][:, 128:].astype(int) - pictures[0]).mean()
        > np.abs(shown[0][:, :128].astype(int) - pictures[0]).mean() + 1.5
    )
    assert coloured[0][38, 30].mean() > coloured[0][5, 100].mean() + 50, "bright is near"


def test_resizing_keeps_blur_in_proportion_and_sides_even(tmp_path: Path, capsys):
    pictures, depths, _ = walk(1, (127, 79))
    source = write_film(tmp_path / "in", pictures, depths)
    assert run(source, "--focus_px", "30,38", "--strength", 3, "--resize", 64, "-o", tmp_path / "small.mp4") == 0
    said = capsys.readouterr().out
    assert "is 3.00 m away" in said and "below 1.9 px" in said and "64x40, H.264 with 8 bits" in said
    assert run(source, "--focus", 3, "-o", tmp_path / "odd.mp4") == 0
    assert "126x78, H.264 with 8 bits, cut from 127x79" in capsys.readouterr().out


def test_a_film_of_ten_bits_stays_one(tmp_path: Path, capsys):
    """A ramp finer than 8 bits: steps survive at 10 bits, and are gone when 8 are asked for."""
    ramp = np.repeat(np.linspace(20000, 24000, 128)[None], 64, 0).astype(np.uint16)
    video = write_video(tmp_path / "in.mp4", [np.repeat(ramp[..., None], 3, 2)] * 2, bits=10)
    assert TimedVideo(video).bits == 10
    (tmp_path / "in" / "depth").mkdir(parents=True)
    for number in range(2):
        np.savez(tmp_path / "in" / "depth" / f"{number}.npz", depth=np.full((64, 128), 4.0, np.float32))
    for flags, bits, codec in (([], 10, "HEVC"), (["--bits", 8], 8, "H.264")):
        target = tmp_path / f"out{bits}.mp4"
        assert run(video, "--focus", 4, "--f_number", 2, *flags, "-o", target) == 0
        assert f"{codec} with {bits} bits" in capsys.readouterr().out
        assert TimedVideo(target).bits == bits
    deep = next(iter(TimedVideo(tmp_path / "out10.mp4").frames(deep=True))).picture
    flat = next(iter(TimedVideo(tmp_path / "out8.mp4").frames(deep=True))).picture
    assert len(np.unique(deep[32, :, 1])) > 1.5 * len(np.unique(flat[32, :, 1]))
    assert run(video, "--focus", 4, "--f_number", 2, "-o", tmp_path / "pictures") == 0
    stored = cv2.imread(str(tmp_path / "pictures" / "frame_0000.png"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    assert run(video, "--bits", 9, "-o", tmp_path / "nine.mp4") == 2


def test_rounding_to_eight_bits_is_smoothed_within_what_was_rounded():
    """a slope of ten levels becomes a slope again, an edge stays where it is, and nothing leaves its level."""
    truth = np.repeat(np.linspace(0.1, 0.112, 120, dtype=np.float32)[None], 40, 0)
    truth[:, 90:] += 0.08
    step = (1 / 3 - 1 / 40) / 255
    rounded = (np.rint(truth / step) * step).astype(np.float32)
    smooth = 1 / unrounded(1 / rounded, step)
    assert np.abs(smooth - rounded).max() <= step / 2 * 1.001
    assert np.abs(smooth - truth)[4:-4, 12:78].mean() < 0.6 * np.abs(rounded - truth)[4:-4, 12:78].mean()
    assert np.abs(np.diff(smooth[20, 12:78])).max() < 0.5 * step
    assert (smooth[:, 90] - smooth[:, 89]).min() > 0.079 - step


def test_soft_edges_become_crisp_and_slopes_stay():
    inverse = np.repeat(np.r_[np.full(30, 0.5), np.linspace(0.5, 0.1, 5)[1:-1], np.full(30, 0.1)][None], 20, 0)
    found = 1 / crisp((1 / inverse).astype(np.float32), 0.05)
    assert np.allclose(found[:, :31], 0.5) and np.allclose(found[:, 32:], 0.1), "no pixel lies on neither side"
    slope = (1 / np.repeat(np.linspace(0.1, 0.6, 60)[None], 20, 0)).astype(np.float32)
    assert np.array_equal(crisp(slope, 0.01)[:, 8:-8], slope[:, 8:-8])
    assert np.array_equal(crisp((1 / inverse).astype(np.float32), 0.9), (1 / inverse).astype(np.float32))


def test_unknown_depth_takes_its_neighbours():
    depth = np.full((6, 8), 2.0, np.float32)
    depth[:, 4:] = 5.0
    depth[2, 1], depth[3, 6], depth[0, 7] = np.nan, 0, -1
    whole = filled(depth)
    assert whole[2, 1] == 2.0 and whole[3, 6] == 5.0 and whole[0, 7] == 5.0 and np.isfinite(whole).all()


def test_a_folder_has_no_colours_of_its_own(tmp_path: Path):
    source = TimedFolder(write_film(tmp_path / "in", walk(1)[0], None), 24)
    assert (source.bits, source.primaries, source.transfer) == (8, 2, 2)
