"""scripts/interpolate.py: what users of such tools complain about, each on a clip that shows it; and what it refuses."""

import re
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import load_script, texture
from media_clips import frames_of, write_clip
from PIL import Image

from model.video.interpolate.timeline import instants, instants_at_rate
from model.video.interpolate.window import FrameWindow
from pipeline.errors import InputError
from pipeline.media.images import read_picture
from pipeline.media.sinks import FolderSink
from pipeline.media.video_io import TimedFrame, TimedVideo

SIZE = (96, 64)


@pytest.fixture(autouse=True)
def no_weights_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOKEHFLOW_WEIGHTS", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(*args: object) -> int:
    return load_script("interpolate")([*(str(arg) for arg in args), "--device", "cpu"])


def pan(count: int, step_px: float = 4, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """A soft texture that moves to the right."""
    width, height = size
    wide = cv2.GaussianBlur(texture(height, width + 200, seed=3), (0, 0), 1.5)
    shifts = [np.float32([[1, 0, number * step_px], [0, 1, 0]]) for number in range(count)]
    moved = [cv2.warpAffine(wide, shift, wide.shape[1::-1], flags=cv2.INTER_CUBIC) for shift in shifts]
    return [np.ascontiguousarray(picture[:, 100 : 100 + width]) for picture in moved]


def folder_of(path: Path, pictures: list) -> Path:
    path.mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(path / f"shot{number:03d}.png")
    return path


def pictures_of(folder: Path) -> list[np.ndarray]:
    return [read_picture(path)[0] for path in sorted(folder.glob("*.png"))]


def film(path: Path, pictures: list, **how: object) -> Path:
    return write_clip(path, pictures, codec="libx264", options={"crf": "8"}, **how)  # type: ignore[arg-type]


def lengths_s(path: Path) -> dict[str, float]:
    with av.open(str(path)) as container:
        return {stream.type: float(stream.duration * stream.time_base) for stream in container.streams}


def shown_s(path: Path) -> Fraction:
    """How long the picture stands: a Matroska file may begin a few frames behind zero, with its sound."""
    source = TimedVideo(path)
    assert source.end_s is not None
    return source.end_s - next(source.frames()).time_s


# --- complaints --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flow", "mean"])
def test_a_static_clip_stays_constant(tmp_path: Path, name: str):
    """Noise of 3 levels, so that frames are no duplicates; made frames differ from kept ones by a level less or more."""
    still = texture(64, 96, seed=1).astype(int)
    noise = np.random.default_rng(0).integers(0, 4, (3, *still.shape))
    pictures = [(still + one).clip(0, 255).astype(np.uint8) for one in noise]
    assert run(folder_of(tmp_path / "in", pictures), "-o", tmp_path / "out", "--interpolator", name) == 0
    shown = pictures_of(tmp_path / "out")
    middle = (pictures[0].astype(int) + pictures[1]) / 2
    assert np.abs(shown[1] - middle).mean() < 0.5
    assert np.abs(shown[1] - middle).max() <= 4


def test_a_static_video_does_not_flicker_between_kept_and_made(tmp_path: Path):
    source = write_clip(tmp_path / "in.mkv", [texture(64, 96, seed=1)] * 12)
    assert run(source, "-o", tmp_path / "out.mp4", "--interpolator", "flow") == 0
    shown = [frame.to_ndarray(format="rgb24").astype(int) for frame in frames_of(tmp_path / "out.mp4")]
    assert len(shown) == 24
    assert max(np.abs(frame - shown[0]).max() for frame in shown) <= 1


def test_kept_frames_are_the_sources_own(tmp_path: Path):
    pictures = pan(4)
    assert run(folder_of(tmp_path / "in", pictures), "-o", tmp_path / "out", "--interpolator", "flow") == 0
    made = pictures_of(tmp_path / "out")
    assert len(made) == 8
    assert all(np.array_equal(kept, picture) for kept, picture in zip(made[::2], pictures, strict=True))
    assert np.array_equal(made[7], pictures[3])  # the last one is held, not lost


@pytest.mark.parametrize(
    ("suffix", "how"), [("mp4", ["--factor", 4]), ("mkv", ["--factor", 2]), ("mp4", ["--fps", 37])]
)
def test_length_and_sound_stay(tmp_path: Path, capsys, suffix: str, how: list):
    source = film(tmp_path / "in.mp4", pan(15), sounds=1)
    out = tmp_path / f"out.{suffix}"
    assert run(source, "-o", out, "--interpolator", "mean", *how) == 0
    assert abs(shown_s(source) - shown_s(out)) <= Fraction(1, 1000)
    with av.open(str(source)) as one, av.open(str(out)) as other:
        sounds = [[bytes(packet) for packet in file.demux(audio=0) if packet.size] for file in (one, other)]
        assert sounds[0] == sounds[1]
    if suffix == "mp4":
        assert lengths_s(source) == pytest.approx(lengths_s(out), abs=1e-3)
    made = re.search(r"15 -> (\d+) frames", capsys.readouterr().out)
    assert made
    assert int(made[1]) == len(frames_of(out)) == (28 if "--fps" in how else 15 * how[1])


def test_nothing_is_mixed_over_a_cut(tmp_path: Path, capsys):
    dark, light = [picture // 5 for picture in pan(3)], [255 - picture // 5 for picture in pan(3, 2)]
    source = folder_of(tmp_path / "in", dark + light)
    assert run(source, "-o", tmp_path / "out", "--interpolator", "flow") == 0
    made = pictures_of(tmp_path / "out")
    assert np.array_equal(made[5], dark[2])
    assert not np.array_equal(made[3], dark[1])
    assert "6 -> 12 frames (6 kept, 4 made, 2 held at the end of a shot, 0 between equal frames, 2 shots)" in (
        capsys.readouterr().out
    )


def test_cuts_can_be_given(tmp_path: Path, capsys):
    source = folder_of(tmp_path / "in", pan(6))
    cuts = tmp_path / "cuts.txt"
    cuts.write_text("# by hand\n2\n0.17s  # 4.08 frames: the fifth\n")
    assert run(source, "-o", tmp_path / "out", "--interpolator", "mean", "--cuts", cuts) == 0
    made, pictures = pictures_of(tmp_path / "out"), pan(6)
    assert [np.array_equal(made[2 * n + 1], pictures[n]) for n in range(6)] == [False, True, False, False, True, True]
    for wrong, said in (("nine", "a cut is a frame's number"), ("6", "a cut lies behind the first frame")):
        cuts.write_text(f"\n{wrong}\n")
        assert run(source, "-o", tmp_path / "bad", "--cuts", cuts) == 1
        assert f"line 2: {said}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["flow", "mean"])
def test_the_instant_counts(tmp_path: Path, name: str):
    """Four instants between two frames are four pictures that move on, not one picture four times."""
    source = folder_of(tmp_path / "in", pan(2, 8))
    assert run(source, "-o", tmp_path / "out", "--interpolator", name, "--factor", 4) == 0
    made = [picture[8:-8, 16:-16].astype(float) for picture in pictures_of(tmp_path / "out")[:4]]
    truth = [picture[8:-8, 16:-16].astype(float) for picture in pan(4, 2)]
    distance = [[np.abs(one - other).mean() for other in truth] for one in made]
    if name == "flow":
        assert [int(np.argmin(row)) for row in distance] == [0, 1, 2, 3]
    first = [np.abs(one - truth[0]).mean() for one in made]
    assert first == sorted(first)
    assert first[1] > 0.5


def test_a_grating_in_a_pan_does_not_break(tmp_path: Path):
    """Bars 12 px apart that move by 3 px: half the motion is unambiguous."""
    x = np.arange(SIZE[0] + 60)
    bars = np.where(x // 6 % 2, 200, 40).astype(np.float32)

    def frame(shift: float) -> np.ndarray:
        row = np.interp(np.arange(SIZE[0]) + 30 - shift, x, cv2.GaussianBlur(bars[None], (0, 0), 1.0)[0])
        return np.repeat(np.repeat(row[None, :, None], SIZE[1], 0), 3, 2).round().astype(np.uint8)

    assert run(folder_of(tmp_path / "in", [frame(0), frame(3)]), "-o", tmp_path / "out", "--interpolator", "flow") == 0
    made = pictures_of(tmp_path / "out")[1]
    assert np.abs(made.astype(int) - frame(1.5))[:, 8:-8].mean() < 3


def test_a_caption_stands_still(tmp_path: Path):
    pictures = pan(2, 6)
    for picture in pictures:
        cv2.putText(picture, "Caption", (14, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 2)
    written = np.abs(pictures[0].astype(int) - pan(1)[0]).max(axis=-1) > 60
    assert run(folder_of(tmp_path / "in", pictures), "-o", tmp_path / "out", "--interpolator", "flow") == 0
    made = pictures_of(tmp_path / "out")[1].astype(int)
    assert np.abs(made - pictures[0])[written].mean() < 6


def test_duplicates_are_masked_and_held():
    pictures = pan(6)
    pictures[2] = pictures[1]
    frames = [TimedFrame(time_s=Fraction(n), name="", picture=picture) for n, picture in enumerate(pictures)]
    window = FrameWindow(iter(frames), [range(6)], (8, 6))
    plan = instants([Fraction(n) for n in range(6)], Fraction(6), [range(6)], 2)
    contexts = {}
    for instant in plan:
        window.frame(instant.before)
        if instant.t:
            contexts[instant.before] = window.context(instant)
    assert contexts[1] is None
    assert contexts[0].present == (True, True, False, True, True, True)
    assert contexts[3].present == (True, False, True, True, True, True)
    assert contexts[3].offsets == (-3.5, -2.5, -1.5, -0.5, 0.5, 1.5)


def test_memory_does_not_grow_with_length():
    shape, peaks = (120, 160, 3), []
    for count in (20, 80):
        frames = (
            TimedFrame(time_s=Fraction(n), name="", picture=np.full(shape, n % 250, np.uint8)) for n in range(count)
        )
        window = FrameWindow(frames, [range(count)], (8, 6))
        tracemalloc.start()
        for instant in instants([Fraction(n) for n in range(count)], Fraction(count), [range(count)], 2):
            window.frame(instant.before)
            if instant.t:
                window.context(instant)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.15 * peaks[0]
    assert peaks[0] < 20 * np.prod(shape)


# --- instants ----------------------------------------------------------------------------------------------------------


def test_a_variable_rate_keeps_its_times():
    times = [Fraction(0), Fraction(1, 10), Fraction(4, 10)]
    made = list(instants(times, Fraction(1, 2), [range(3)], 2))
    assert [instant.time_s * 20 for instant in made] == [0, 1, 2, 5, 8, 9]
    assert [instant.t for instant in made] == [0, Fraction(1, 2), 0, Fraction(1, 2), 0, 0]


def test_even_times_end_with_the_film():
    times = [Fraction(n, 24) for n in range(24)]
    made = list(instants_at_rate(times, Fraction(1), [range(24)], Fraction(60)))
    assert len(made) == 60
    assert made[1].before == 0
    assert made[1].t == Fraction(24, 60)
    assert all(0 <= instant.t < 1 for instant in made)
    assert made[-1].t == 0


# --- how it is written -------------------------------------------------------------------------------------------------


def test_depth_of_bits_and_colours_stay(tmp_path: Path):
    ramp = np.repeat(np.linspace(20000, 24000, 96)[None, :, None], 64, 0).repeat(3, 2).astype(np.uint16)
    frames = [av.VideoFrame.from_ndarray(ramp + 600 * n, format="rgb48le") for n in range(3)]
    lossless = {"x265-params": "log-level=error:lossless=1:cutree=0"}
    source = write_clip(
        tmp_path / "in.mp4",
        frames,
        codec="libx265",
        pix_fmt="yuv420p10le",
        tags=(1, 1, 1, 13),
        options=lossless,
    )
    assert run(source, "-o", tmp_path / "out.mp4", "--interpolator", "mean") == 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p10le"
    was, now = TimedVideo(source), TimedVideo(tmp_path / "out.mp4")
    assert (was.primaries, was.transfer) == (now.primaries, now.transfer) == (1, 13)
    levels = np.unique(frames_of(tmp_path / "out.mp4")[1].to_ndarray(format="gray10le"))
    assert len(levels) > 50  # 8 bits hold 16 of this ramp


def test_a_stopped_run_goes_on_and_gives_the_same(tmp_path: Path, monkeypatch, capsys):
    source = folder_of(tmp_path / "in", pan(6))
    assert run(source, "-o", tmp_path / "whole", "--interpolator", "flow") == 0
    written = FolderSink.write

    def break_off(self, frame):
        if frame.name == "frame_000005.png":
            raise InputError("stopped here")
        written(self, frame)

    monkeypatch.setattr(FolderSink, "write", break_off)
    assert run(source, "-o", tmp_path / "out", "--interpolator", "flow") == 1
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(FolderSink, "write", written)
    assert run(source, "-o", tmp_path / "out", "--interpolator", "flow") == 0
    assert "going on behind the 5 frames that are done" in capsys.readouterr().out
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_tiles_give_the_picture_of_the_whole(tmp_path: Path):
    from pipeline.engines import load_engine
    from pipeline.engines.interpolation.context import Context, Interpolator
    from pipeline.engines.interpolation.tiles import interpolate_tiled

    first, last = pan(2, 4, (640, 300))
    engine = load_engine("interpolate", "flow", {}, "cpu", Interpolator)
    context = Context(frames=(first, last), indices=(0, 1), target=0.5)
    whole, tiled = engine.interpolate(context, lambda: None), interpolate_tiled(engine, context, 256, lambda: None)
    assert np.abs(whole - tiled)[8:-8, 8:-8].mean() < 1 / 255
    assert not np.array_equal(whole, tiled)


# --- what is chosen and what is refused --------------------------------------------------------------------------------


def test_the_best_that_is_there_is_taken_and_told(tmp_path: Path, capsys):
    assert run(folder_of(tmp_path / "in", pan(2)), "-o", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "interpolator: flow, optical flow without a network (lift: no --checkpoint was given; rife:" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--factor", "1"], "--factor must be in [2, 64], got 1"),
        (["--fps", "0"], "--fps must be in [0.01, 1000], got 0"),
        (["--fps", "fast"], "--fps must be a number or a fraction"),
        (["--interpolator", "dain"], "there is no interpolate engine 'dain'; allowed are: "),
        (["--interpolator", "flow", "--engine_opt", "preset=best"], "preset must be one of"),
        (["--bits", "9"], "--bits must be 8 or 10, got 9"),
        (["--tile", "100"], "--tile must be in [256, 16384], got 100"),
    ],
)
def test_flags_out_of_range_are_refused(tmp_path: Path, capsys, flags: list, said: str):
    assert run(folder_of(tmp_path / "in", pan(2)), "-o", tmp_path / "out", *flags) == 2
    assert said in capsys.readouterr().err


def test_clips_that_cannot_be_interpolated_are_refused(tmp_path: Path, capsys):
    assert run(folder_of(tmp_path / "one", pan(1)), "-o", tmp_path / "out") == 1
    assert "holds one frame; interpolation needs at least two" in capsys.readouterr().err
    mixed = folder_of(tmp_path / "mixed", [*pan(2), *pan(1, size=(64, 64))])
    assert run(mixed, "-o", tmp_path / "out") == 1
    assert "shot002.png is 64x64, the frames before are 96x64" in capsys.readouterr().err


def test_a_video_without_times_is_refused(tmp_path: Path, capsys):
    with av.open(str(tmp_path / "raw.h264"), "w", format="h264") as out:
        stream = out.add_stream("libx264", rate=20)
        stream.width, stream.height = SIZE
        for picture in pan(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    raw = (tmp_path / "raw.h264").rename(tmp_path / "raw.mp4")
    assert run(raw, "-o", tmp_path / "out.mp4") == 1
    assert "has no readable duration: it does not say when its frames are shown" in capsys.readouterr().err
