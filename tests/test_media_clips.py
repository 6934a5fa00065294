"""Four clips as people bring them, through phases 1 to 5 and apply_bokeh: right pixels, times, tags and sound, or a refusal."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import Project, load_script, slanted_depth
from media_clips import (
    INTERLACED,
    ONE,
    filtered,
    frames_of,
    interlaced,
    moving,
    set_matrix,
    unknown_second_sound,
    write_clip,
)
from PIL import Image

from pipeline.media.images import multiple_of_16
from pipeline.storage.scene import Scene, SceneIndex

COUNT = 16
TIMES = [0, 50, 100, 190, *(200 + 40 * number for number in range(COUNT - 4))]  # ms, a variable rate


def phone(folder: Path) -> Path:
    """Held upright, front camera: turned and mirrored, HLG, AAC and a track of spatial sound, variable frame rate."""
    frames = [
        av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p10le", dst_colorspace=9)
        for frame in moving(COUNT, (64, 48))
    ]
    path = write_clip(
        folder / "phone.mov",
        frames,
        codec="libx265",
        pix_fmt="yuv420p10le",
        tags=(1, 9, 9, 18),
        times=TIMES,
        sounds=2,
        options={"x265-params": "crf=4:log-level=error:cutree=0"},
    )
    return unknown_second_sound(set_matrix(path, 0, ONE, ONE, 0))


def dslr(folder: Path) -> Path:
    """A strip of HD, 592 lines: two fields a frame, pixels wider than high, no word on its colour."""
    frames = interlaced(COUNT, (72, 592))
    return write_clip(
        folder / "dslr.mp4", frames, codec="libx264", options=INTERLACED, aspect=Fraction(4, 3), times=None
    )


def screen(folder: Path) -> Path:
    """A screen recording: RGB, a variable rate, and frames with the time stamp of the one before."""
    times = [*TIMES[:5], TIMES[4], TIMES[4], *TIMES[7:]]
    return write_clip(
        folder / "screen.mkv",
        moving(COUNT, (80, 64)),
        codec="libx264rgb",
        pix_fmt="rgb24",
        times=times,
        options={"crf": "0", "bf": "0"},
    )


def cut_off(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(24)]
    path = write_clip(folder / "download.mp4", noise, codec="libx264", container={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    return path


def hlg_to_srgb(code: np.ndarray) -> np.ndarray:
    """(..., 3) of RGB code values in [0, 1], written out once more, step by step: BT.2100, BT.2087, Moebius, sRGB."""
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    luminance = scene @ (0.2627, 0.6780, 0.0593)
    light = scene * luminance[..., None] ** 0.2 * 1000 / 203
    to_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
    light = np.maximum(light @ to_709.T, 0)
    knee, peak = 0.75, 1000 / 203
    a = -(knee**2) * (peak - 1) / (knee**2 - 2 * knee + peak)
    b = (knee**2 - 2 * knee * peak + peak) / (peak - 1)
    brightest = np.maximum(light.max(-1), 1e-9)
    bent = (b**2 + 2 * b * knee + knee**2) / (b - a) * (brightest + a) / (brightest + b)
    light = np.minimum(light * (np.where(brightest <= knee, brightest, bent) / brightest)[..., None], 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def expected(path: Path) -> list[np.ndarray]:
    """The frames as a player shows them."""
    frames = frames_of(path)
    if path.stem == "phone":
        return [hlg_to_srgb(frame.to_ndarray(format="rgb48le") / 65535).transpose(1, 0, 2) for frame in frames]
    if path.stem == "dslr":
        scaled = (("scale", "96:592:in_color_matrix=bt709:flags=lanczos"), ("format", "gbrp"))
        return filtered(frames, ("bwdif", "mode=send_frame:parity=auto:deint=interlaced"), *scaled)
    return [frame.to_ndarray(format="rgb24") for frame in frames]


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    clipped = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(clipped).resize(size, Image.Resampling.LANCZOS)).astype(float)


MAKERS = {"phone": phone, "dslr": dslr, "screen": screen}
NOTES = {
    "phone": ("HLG, BT.2020 tone-mapped", "mirrored as the video says"),
    "dslr": ("deinterlaced", "pixels of aspect 4:3 made square"),
    "screen": (),
}


@pytest.fixture
def clips(project: Project) -> Project:
    for maker in (*MAKERS.values(), cut_off):
        path = maker(project.raw)
        if maker is not cut_off:
            size = expected(path)[0].shape[1::-1]
            np.save(project.raw / f"{path.stem}.depth.npy", np.stack([slanted_depth(size, 1.5, 3)] * COUNT))
    return project


def test_through_the_phases(clips: Project):
    assert clips.run(1, "--workers", "1") == 0, clips.text
    entries = SceneIndex.load(clips.out / "scene_index.json").entries
    assert "cut off" in entries["download"].reasons[0] and len(entries) == 4, "refused, by name"
    for name, notes in NOTES.items():
        assert entries[name].accepted, entries[name].reasons
        for note in notes:
            assert any(note in said for said in entries[name].notes), (name, entries[name].notes)
    assert clips.run(2, "--engine", "none", "--no_temporal_avg") == 0, clips.text
    for name in MAKERS:
        shown = expected(next(clips.raw.glob(f"{name}.m*")))
        assert len(shown) == COUNT
        scene = Scene(clips.out, name)
        for number in (0, 7, COUNT - 1):
            sharp = np.asarray(Image.open(scene.sharp_path(number))).astype(float)
            assert sharp.shape[1::-1] == multiple_of_16(shown[number].shape[1::-1])
            error = np.abs(sharp - resized(shown[number], sharp.shape[1::-1])).mean()
            assert error < 3, f"{name} frame {number}: {error:.2f}"
    assert clips.run(3) == 0 and clips.run(4) == 0 and clips.run(4, "--confirm") == 0, clips.text
    assert clips.run(5, "--num_sets", "1") == 0 and clips.run(6) == 0, clips.text
    report = json.loads((clips.out / "validation_report.json").read_text())
    assert all(report["scenes"][name]["passed"] for name in MAKERS)


def test_through_apply_bokeh(clips: Project, capsys: pytest.CaptureFixture[str]):
    """A lens that leaves nearly everything sharp, so that the pixels can be compared."""
    bokeh = load_script("apply_bokeh")
    lens = ("--f_number", "22", "--focal_mm", "10", "--focus", "2", "--device", "cpu", "--no_cuts")
    for name in MAKERS:
        source = next(clips.raw.glob(f"{name}.m*"))
        target = clips.root / f"{name}.mkv"
        assert bokeh([str(source), "-o", str(target), *lens]) == 0, capsys.readouterr()
        said = capsys.readouterr().out
        for note in NOTES[name]:
            assert note in said, (name, note)
        with av.open(str(target)) as made:
            video = made.streams.video[0]
            assert len(made.streams.audio) == (name == "phone")
            assert video.sample_aspect_ratio in (None, 0, 1)
            frames = list(made.decode(video=0))
        assert ("sound track 2 is left out" in said) == (name == "phone")
        assert (frames[0].color_primaries, frames[0].color_trc, frames[0].colorspace) == (1, 1, 1), (
            "what it says of itself"
        )
        times = [round(float((frame.pts - frames[0].pts) * frame.time_base) * 1000) for frame in frames]
        if name == "screen":
            assert times == [*TIMES[:5], TIMES[4] + 1, TIMES[4] + 2, *TIMES[7:]]
        else:
            assert times == (TIMES if name == "phone" else [50 * number for number in range(COUNT)])
        shown = expected(source)
        for number in (0, COUNT - 1):
            picture = frames[number].to_ndarray(format="rgb24").astype(float)
            assert picture.shape == shown[number].shape
            assert np.abs(picture - np.clip(shown[number], 0, 255)).mean() < 6, (name, number)
    assert bokeh([str(clips.raw / "download.mp4"), "-o", str(clips.root / "d.mp4"), *lens, "--depth", "given"]) != 0
    told = capsys.readouterr()
    assert "cut off" in told.out + told.err and not (clips.root / "d.mp4").exists()
