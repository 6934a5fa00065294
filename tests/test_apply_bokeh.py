"""apply_bokeh: videos and folders in and out, sound untouched, focus where it was asked for, memory that does not grow."""

import os
import shutil
import signal
import weakref
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import load_script, moving_frames
from PIL import Image

import model.weights
from model.bokehflow import VARIANTS, BokehFlow, LensBatch
from model.bokehflow.checkpoint import model_bytes
from model.bokehflow.lens import radius_limit_px
from model.video.engines import NetworkEngine
from model.video.film import Film, Look
from model.video.focus import parse_anchors, parse_pixel, parse_pull
from pipeline.errors import InputError, UsageError
from pipeline.media.convert import image_to_tensor
from pipeline.media.cuts import CutDetector
from pipeline.media.images import read_picture
from pipeline.media.sinks import FolderSink
from pipeline.media.video_io import TimedFolder, TimedFrame, TimedVideo
from pipeline.media.video_writer import VideoSink
from pipeline.optics import Lens, px_per_mm

SIZE = (48, 32)


@pytest.fixture(scope="module")
def net() -> BokehFlow:
    torch.manual_seed(0)
    return BokehFlow(VARIANTS["demo"]).eval()


@pytest.fixture
def checkpoint(net: BokehFlow, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_bytes(net.config, net.state_dict(), 7, {}))
    return path


def write_folder(path: Path, count: int = 4, size=SIZE) -> Path:
    path.mkdir()
    for number, picture in enumerate(moving_frames(count, size)):
        Image.fromarray(picture).save(path / f"shot{number}.png")
    return path


def write_video(path: Path, count: int = 6, size=SIZE, pts=None, audio: bool = True, rate: int = 10) -> Path:
    """A video with given times (in 1/1000 s) and a second-long tone."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        sound = out.add_stream("aac", rate=16000) if audio else None
        for number, picture in enumerate(moving_frames(count, size)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = (pts or [n * 1000 // rate for n in range(count)])[number], Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            for block in range(16):
                tone = np.sin(np.arange(1000) * 0.1 + block).astype(np.float32)[None]
                piece = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 16000, block * 1000, Fraction(1, 16000)
                out.mux(sound.encode(piece))
            out.mux(sound.encode(None))
    return path


def packets(path: Path) -> list[tuple[bytes, float]]:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return [(bytes(p), float(p.pts * p.time_base)) for p in container.demux(stream) if p.dts is not None]


def run(*args: object) -> int:
    return load_script("apply_bokeh")([str(arg) for arg in args])


def lens_args(checkpoint: Path) -> list[object]:
    return ["--checkpoint", checkpoint, "--f_number", 1.8, "--focal_mm", 50, "--device", "cpu"]


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_a_folder_becomes_the_networks_own_pictures(tmp_path: Path, checkpoint: Path, net: BokehFlow):
    source = write_folder(tmp_path / "in")
    assert run(source, *lens_args(checkpoint), "--focus", 2.4, "-o", tmp_path / "out") == 0
    lens = LensBatch.of(Lens(f_m=0.05, f_number=1.8, focus_m=2.4), px_per_mm(SIZE[0]))
    state = None
    for number in range(4):
        picture = read_picture(source / f"shot{number}.png")[0]
        with torch.no_grad():
            out, state = net(image_to_tensor(picture)[None], lens, state)
        expected = (out.bokeh[0] * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(read_picture(tmp_path / "out" / f"shot{number}.png")[0], expected)
    assert len(list((tmp_path / "out").iterdir())) == 4


@pytest.mark.parametrize(
    ("asked", "same", "said"),
    [
        (["--engine", "bokehflow"], [], "since no --checkpoint was given"),
        ([], [], "no depth came with the film"),
        (["--strength", 2, "--depth", "bokehflow"], ["--engine", "lens"], "since no --checkpoint was given"),
        (["--blades", 5], ["--engine", "lens", "--depth", "bokehflow"], "no depth came with the film"),
    ],
    ids=["asked for", "nothing else is here", "its depth", "a lens of one's own"],
)
def test_without_a_checkpoint_it_is_the_network_that_comes_with_the_code(
    tmp_path: Path, checkpoint: Path, capsys, monkeypatch: pytest.MonkeyPatch, asked, same, said
):
    monkeypatch.setattr(model.weights, "__file__", str(tmp_path / "__init__.py"))
    shutil.copy(checkpoint, tmp_path / model.weights.SHIPPED["bokehflow"])
    source, more = write_folder(tmp_path / "in", 2), ["--focus", 2.4, "--device", "cpu"]
    assert run(source, *asked, *more, "-o", tmp_path / "shipped") == 0
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count(said) == 1
    assert run(source, *asked, *same, "--checkpoint", checkpoint, *more, "-o", tmp_path / "named") == 0
    for name in ("shot0.png", "shot1.png"):
        assert (tmp_path / "shipped" / name).read_bytes() == (tmp_path / "named" / name).read_bytes()


def two_shots() -> list[np.ndarray]:
    """Three frames of one moving scene, then three of another, with other colours and another layout."""
    first = moving_frames(3, SIZE)
    return first + [255 - np.rot90(frame, 2) for frame in first]


def test_cuts_are_found_and_motion_is_none():
    finder = CutDetector()
    assert [finder.begins_shot(frame) for frame in two_shots()] == [False, False, False, True, False, False]
    finder = CutDetector()
    assert not any(finder.begins_shot(frame) for frame in moving_frames(12, (640, 360)))


@pytest.mark.parametrize("flags", [[], ["--no_cuts"]])
def test_the_state_starts_afresh_at_a_cut(tmp_path: Path, checkpoint: Path, net: BokehFlow, capsys, flags):
    (tmp_path / "in").mkdir()
    for number, picture in enumerate(two_shots()):
        Image.fromarray(picture).save(tmp_path / "in" / f"shot{number}.png")
    assert run(tmp_path / "in", *lens_args(checkpoint), "--focus", 2.4, *flags, "-o", tmp_path / "out") == 0
    assert ("started afresh where the film cuts, at 0.12 s" in capsys.readouterr().out) == (not flags)
    lens = LensBatch.of(Lens(f_m=0.05, f_number=1.8, focus_m=2.4), px_per_mm(SIZE[0]))
    state, fresh_differs = None, False
    for number, picture in enumerate(two_shots()):
        with torch.no_grad():
            fresh, fresh_state = net(image_to_tensor(picture)[None], lens)
            out, state = net(image_to_tensor(picture)[None], lens, state)
        if number == 3:
            fresh_differs = not torch.equal(fresh.depth_m, out.depth_m)
            if not flags:
                out, state = fresh, fresh_state
        expected = (out.bokeh[0] * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(read_picture(tmp_path / "out" / f"shot{number}.png")[0], expected), number
    assert fresh_differs, "this test could not tell"


def test_a_video_keeps_its_times_and_its_sound(tmp_path: Path, checkpoint: Path):
    times = [0, 100, 150, 400, 500, 900]  # a variable frame rate
    source = write_video(tmp_path / "in.mp4", pts=times)
    target = tmp_path / "out.mp4"
    assert run(source, *lens_args(checkpoint), "--focus_pull", "0:1.2,0.9:6", "-o", target) == 0
    shown = list(TimedVideo(target).frames())
    assert [round(float(f.time_s) * 1000) for f in shown] == times
    assert shown[0].picture.shape == (SIZE[1], SIZE[0], 3)
    assert packets(target) == packets(source) != []
    assert not list(tmp_path.glob(".*"))


def test_no_audio_and_videos_without_sound(tmp_path: Path, checkpoint: Path):
    source = write_video(tmp_path / "in.mp4")
    assert run(source, *lens_args(checkpoint), "--focus", 2, "--no_audio", "-o", tmp_path / "mute.mp4") == 0
    assert not TimedVideo(tmp_path / "mute.mp4").has_audio
    silent = write_video(tmp_path / "silent.mp4", audio=False)
    assert run(silent, *lens_args(checkpoint), "--focus", 2, "-o", tmp_path / "frames") == 0
    assert len(list((tmp_path / "frames").glob("frame_*.png"))) == 6


def test_sound_that_does_not_fit_the_container(tmp_path: Path, checkpoint: Path, capsys):
    source = write_video(tmp_path / "in.mp4", size=(64, 48))  # AAC, which WebM does not take
    assert run(source, *lens_args(checkpoint), "--focus", 2, "-o", tmp_path / "out.webm") == 1
    assert "choose an output in .mkv, which takes every codec, or --no_audio" in capsys.readouterr().err
    assert not (tmp_path / "out.webm").exists() and not list(tmp_path.glob(".*"))
    assert run(source, *lens_args(checkpoint), "--focus", 2, "-o", tmp_path / "out.mkv") == 0
    assert [data for data, _ in packets(tmp_path / "out.mkv")] == [data for data, _ in packets(source)]


@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
@pytest.mark.parametrize(("bits", "codec", "form"), [(8, "h264", "yuv420p"), (10, "hevc", "yuv420p10le")])
def test_colours_survive_the_video(tmp_path: Path, size, bits, codec, form):
    """Flat colours through the sink and back, to what video can hold; odd sizes lose their last row and column."""
    source = TimedFolder(write_folder(tmp_path / "in", 1, size), 24)
    colours = [(200, 40, 40), (30, 160, 60), (20, 60, 220), (128, 128, 128), (250, 250, 250)]
    scale, kind = (1, np.uint8) if bits == 8 else (257, np.uint16)
    with VideoSink(tmp_path / "out.mp4", source, size, bits=bits) as sink:
        for number, colour in enumerate(colours):
            picture = np.full((size[1], size[0], 3), colour, np.uint8).astype(kind) * kind(scale)
            sink.write(TimedFrame(time_s=Fraction(number, 24), name="", picture=picture))
    found = TimedVideo(tmp_path / "out.mp4")
    assert found.bits == bits and (found.primaries, found.transfer) == (1, 1)
    for frame, colour in zip(found.frames(deep=bits == 10), colours, strict=True):
        assert frame.picture.shape == (size[1] // 2 * 2, size[0] // 2 * 2, 3)
        assert frame.picture.dtype == kind
        error = np.abs(frame.picture.reshape(-1, 3).mean(0) / scale - colour).max()
        assert error < (4 if bits == 8 else 1.5), (colour, frame.picture[5, 5])
    with av.open(str(tmp_path / "out.mp4")) as opened:
        context = opened.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace, context.color_range) == (codec, form, 1, 1)
    data = (tmp_path / "out.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index stands in front"


def test_webm_too(tmp_path: Path):
    source = TimedFolder(write_folder(tmp_path / "in", 2, (64, 48)), 12)
    with VideoSink(tmp_path / "out.webm", source, (64, 48)) as sink:
        for frame in source.frames():
            sink.write(frame)
    found = TimedVideo(tmp_path / "out.webm")
    assert len(list(found.frames())) == 2


# --- focus ------------------------------------------------------------------------------------------------------------


def test_a_pull_is_even_in_inverse_distance():
    pull = parse_pull("1:1,3:4")
    assert pull.at(0) == 1 and pull.at(5) == 4 and pull.at(Fraction(3)) == 4
    assert pull.at(2) == pytest.approx(1 / ((1 + 0.25) / 2))
    assert parse_pull("0:2.5").at(7) == 2.5


@pytest.mark.parametrize("text", ["", "1", "a:2", "1:2;3:4"])
def test_malformed_focus_pulls_are_refused(text):
    with pytest.raises(UsageError, match="takes SECONDS:METRES"):
        parse_pull(text)


def test_pulls_and_pixels_out_of_range():
    with pytest.raises(UsageError, match=r"the focus at 1 s must be in \[0.05, 1000\] m, got 2000"):
        parse_pull("0:2,1:2000")
    with pytest.raises(UsageError, match="must rise, got 1, 1"):
        parse_pull("1:2,1:3")
    with pytest.raises(UsageError, match="takes X,Y"):
        parse_pixel("4")
    assert parse_pixel("41,22") == (41, 22)
    assert [(anchor.time_s, anchor.pixel) for anchor in parse_anchors(["4,5", "1.5:6,7"])] == [
        (0, (4, 5)),
        (1.5, (6, 7)),
    ]
    for texts, message in ((["x:4,5"], r"\[?SECONDS:X,Y"), (["1:4"], "takes X,Y"), (["1:4,5", "1:4,5"], "must rise")):
        with pytest.raises(UsageError, match=message):
            parse_anchors(texts)


def test_a_clicked_pixel_is_focused_at_its_predicted_depth(tmp_path: Path, checkpoint: Path, net: BokehFlow, capsys):
    source = write_folder(tmp_path / "in")
    picture = read_picture(source / "shot0.png")[0]
    lens = LensBatch.of(Lens(f_m=0.05, f_number=2.0, focus_m=2.0), px_per_mm(SIZE[0]))
    with torch.no_grad():
        depth = net(image_to_tensor(picture)[None], lens)[0].depth_m[0, 0]
    wanted = depth[18:23, 28:33].median().item()
    assert run(source, *lens_args(checkpoint), "--focus_px", "30,20", "-o", tmp_path / "clicked") == 0
    assert f"is {wanted:.2f} m away" in capsys.readouterr().out
    assert run(source, *lens_args(checkpoint), "--focus", wanted, "-o", tmp_path / "told") == 0
    for number in range(4):
        clicked, told = (tmp_path / name / f"shot{number}.png" for name in ("clicked", "told"))
        assert clicked.read_bytes() == told.read_bytes()


# --- memory and interruptions -----------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_video(net: BokehFlow):
    """Counts the pictures that are alive at once, on both sides of the network."""
    alive: set[int] = set()

    def watched(picture: np.ndarray, number: int) -> np.ndarray:
        alive.add(number)
        weakref.finalize(picture, alive.discard, number)
        return picture

    def frames(count: int):
        for number in range(count):
            picture = np.full((16, 16, 3), number % 256, np.uint8)
            yield TimedFrame(time_s=Fraction(number, 24), name=str(number), picture=watched(picture, number))

    engine = NetworkEngine(net, 2.0, 50.0, 36.0)
    for count in (6, 24):
        most = 0
        look = Look(names=(), times_s=(), shots=(range(count),), size=(16, 16), source_size=(16, 16))
        for number, shot in enumerate(engine.photographs(enumerate(frames(count)), look, [2.0] * count)):
            watched(shot.picture, 1000 + number)
            most = max(most, len(alive))
        assert number == count - 1
        assert most <= 4, most  # the frame at hand and its photograph, and the previous ones not yet let go
        del shot


def test_sizes_may_not_change(tmp_path: Path):
    folder = write_folder(tmp_path / "in", 1, (24, 24))
    Image.new("RGB", (28, 24)).save(folder / "shot1.png")
    with pytest.raises(InputError, match=r"shot1.png is 28x24, the frames before are 24x24"):
        list(Film(TimedFolder(folder, 24), None, None, False).frames())


@pytest.mark.parametrize("target", ["out.mp4", "out"])
def test_a_signal_leaves_no_half_file_and_exits_75(tmp_path: Path, checkpoint: Path, monkeypatch, capsys, target: str):
    source = write_folder(tmp_path / "in", 8)
    for sink in (VideoSink, FolderSink):
        write, seen = sink.write, []

        def interrupted(self, frame: TimedFrame, write=write, seen=seen) -> None:
            write(self, frame)
            seen.append(frame)
            if len(seen) == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(sink, "write", interrupted)
    code = run(source, *lens_args(checkpoint), "--focus", 2, "-o", tmp_path / target)
    assert code == 75
    assert not (tmp_path / target).exists()
    monkeypatch.undo()
    capsys.readouterr()
    assert run(source, *lens_args(checkpoint), "--focus", 2, "-o", tmp_path / target) == 0, "the same command, as told"
    assert ("so the unfinished output starts over" in capsys.readouterr().out) == (target == "out")
    assert not list(tmp_path.glob(".*"))
    assert run(source, *lens_args(checkpoint), "--focus", 2, "-o", tmp_path / f"straight_{target}") == 0
    if target == "out":
        for number in range(8):
            one, other = (tmp_path / name / f"shot{number}.png" for name in ("out", "straight_out"))
            assert one.read_bytes() == other.read_bytes()


def test_overwriting_a_folder_leaves_nothing_of_what_was_there(tmp_path: Path, checkpoint: Path, capsys):
    (tmp_path / "out").mkdir()
    Image.new("RGB", SIZE).save(tmp_path / "out" / "old.png")
    more = [write_folder(tmp_path / "in", 2), *lens_args(checkpoint), "--focus", 2, "-o", tmp_path / "out"]
    assert run(*more) == 2
    assert run(*more, "--overwrite") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["shot0.png", "shot1.png"]
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    capsys.readouterr()
    assert run(*more, "--overwrite") == 2
    assert "holds thesis.tex, which no run wrote" in capsys.readouterr().err
    assert (tmp_path / "out" / "thesis.tex").exists()


def test_radii_are_limited_by_the_frames_width_and_not_by_the_sensor(net: BokehFlow):
    for sensor_mm in (6.0, 24.0, 36.0):
        lens = NetworkEngine(net, 2.0, 50.0, sensor_mm).lens_batch(2.0, 427)
        assert float(radius_limit_px(lens, net.config)) == pytest.approx(15.5)


def test_a_lens_that_cannot_focus_there_is_refused_before_any_work(tmp_path: Path, net: BokehFlow, capsys):
    photographic = BokehFlow(replace(net.config, coc_model="thin_lens"))
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_bytes(photographic.config, photographic.state_dict(), 7, {}))
    source = write_folder(tmp_path / "in", 2)
    args = [source, "--checkpoint", path, "--focal_mm", 200, "--focus_pull", "0:2,0.3:0.15", "--device", "cpu"]
    assert run(*args, "-o", tmp_path / "out") == 2
    assert "a lens of 200 mm focuses only beyond 0.2 m" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_network_whose_depth_is_no_number(tmp_path: Path, net: BokehFlow, capsys):
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    weights["depth_head.last.bias"].fill_(float("nan"))
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_bytes(net.config, weights, 7, {}))
    source = write_folder(tmp_path / "in", 1)
    assert run(source, *lens_args(path), "--focus", 2, "-o", tmp_path / "out") == 1
    assert "prediction cannot be rendered" in capsys.readouterr().err


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--f_number", "0.9"], "--f_number must be in [1, 22], got 0.9"),
        (["--f_number", "0.1"], "--f_number must be in [0.5, 64], got 0.1"),
        (["--focal_mm", "500"], "--focal_mm must be in [10, 200], got 500"),
        (["--sensor_mm", "0"], "--sensor_mm must be in [1, 100]"),
        (["--device", "cuda"], "sees no CUDA device"),
        (["--fps", "0"], "--fps must be in [0.01, 1000]"),
        (["--fps", "inf"], "--fps must be in [0.01, 1000]"),
    ],
)
def test_flags_out_of_range(tmp_path: Path, checkpoint: Path, capsys, args, message):
    if "cuda" in args and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    source = write_folder(tmp_path / "in", 1)
    assert run(source, *lens_args(checkpoint), "--focus", 2, *args, "-o", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_focus_out_of_range_or_outside_the_frame(tmp_path: Path, checkpoint: Path, capsys):
    source = write_folder(tmp_path / "in", 1)
    assert run(source, *lens_args(checkpoint), "--focus", 0.01, "-o", tmp_path / "out") == 2
    assert "--focus must be in [0.05, 1000] m, got 0.01" in capsys.readouterr().err
    assert run(source, *lens_args(checkpoint), "--focus", 0.08, "-o", tmp_path / "out") == 2
    assert "with a network the focus must be in [0.1, 100] m, got 0.08" in capsys.readouterr().err
    assert run(source, *lens_args(checkpoint), "--focus_px", "48,3", "-o", tmp_path / "out") == 2
    assert "--focus_px 48,3 lies outside the 48x32 frame" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        run(source, *lens_args(checkpoint), "--focus", 2, "--focus_px", "1,1", "-o", tmp_path / "out")
    assert caught.value.code == 2


def test_unusable_inputs_and_outputs_are_refused(tmp_path: Path, checkpoint: Path, capsys):
    source = write_folder(tmp_path / "in", 1)
    more = [*lens_args(checkpoint), "--focus", 2]
    (tmp_path / "note.txt").write_text("x")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "none").mkdir()
    (tmp_path / "folder.mp4").mkdir()
    shutil.copytree(source, tmp_path / "twice")
    shutil.copy(source / "shot0.png", tmp_path / "twice" / "shot0.jpg")
    for given, target, code, message in (
        (tmp_path / "absent.mp4", "out.mp4", 2, "no video or folder"),
        (tmp_path / "note.txt", "out.mp4", 2, "must be a folder of pictures or a video"),
        (tmp_path / "broken.mp4", "out.mp4", 1, "does not decode"),
        (tmp_path / "none", "out.mp4", 1, "holds no frames"),
        (source, "out.avi", 2, "-o must be a folder or end in one of"),
        (source, "in", 2, "must neither be nor hold the input"),
        (source, "", 2, "must neither be nor hold the input"),
        (tmp_path / "twice", "out.mp4", 2, "several pictures called shot0"),
        (source, "folder.mp4", 2, "is a folder, and a video was asked for"),
        (source, "note.txt", 2, "exists already"),
    ):
        assert run(given, *more, "-o", tmp_path / target) == code
        assert message in capsys.readouterr().err
    assert run(source, *more, "-o", tmp_path / "out.mp4") == 0
    assert run(source, *more, "-o", tmp_path / "out.mp4") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(source, *more, "-o", tmp_path / "out.mp4", "--overwrite") == 0


def test_checkpoints_that_cannot_be_used(tmp_path: Path, checkpoint: Path, capsys):
    source = write_folder(tmp_path / "in", 1)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    assert run(source, *lens_args(checkpoint), "--focus", 2, "-o", tmp_path / "out") == 1
    assert "truncated or damaged" in capsys.readouterr().err
    assert run(source, "--checkpoint", tmp_path / "absent", "--focus", 2, "-o", tmp_path / "out") == 2
    assert "is neither a model.safetensors nor" in capsys.readouterr().err
