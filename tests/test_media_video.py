"""What a video says of its colour, orientation, fields, pixels and length is honoured, compared with FFmpeg's own filters."""

import errno
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import Project
from media_clips import INTERLACED, ONE, filtered, flat, frames_of, interlaced, moving, set_matrix, write_clip

from pipeline.errors import InputError
from pipeline.media.color import HLG, PEAK_NITS, PQ, WHITE_NITS, ColorTags, decode_curve, to_srgb, tone_curve
from pipeline.media.containers import missing_bytes
from pipeline.media.cuts import CutDetector
from pipeline.media.encoding import Encoding
from pipeline.media.geometry import MAX_SIDE_PX, MIN_SIDE_PX, check_frame_size, geometry_of
from pipeline.media.muxing import readable_sounds, refused_sounds, write_failure
from pipeline.media.video_decoder import DecodedFrame, decode_video, read_facts
from pipeline.storage.scene import SceneIndex


def decoded(path: Path) -> list[DecodedFrame]:
    return list(decode_video(path))


def pixel(path: Path) -> list[int]:
    frame = decoded(path)[0].picture
    return frame[frame.shape[0] // 2, frame.shape[1] // 2].tolist()


# --- colour ------------------------------------------------------------------------------------------------------------


def test_transfer_functions_give_the_published_values():
    """BT.2408, tables 1 and 2: diffuse white, 203 cd/m2, is 75 % in HLG and 58 % in PQ; a 1,000 cd/m2 peak is 75 % in PQ."""
    scene = float(decode_curve(HLG, np.array(0.75)))
    assert PEAK_NITS * scene**1.2 == pytest.approx(203, rel=0.01)
    assert 10000 * float(decode_curve(PQ, np.array(0.58))) == pytest.approx(203, rel=0.02)
    assert 10000 * float(decode_curve(PQ, np.array(0.7518))) == pytest.approx(1000, rel=0.01)
    assert float(decode_curve(HLG, np.array(1.0))) == pytest.approx(1, abs=1e-6)


def test_tone_curve_is_that_of_ffmpegs_filter():
    peak = PEAK_NITS / WHITE_NITS
    light = np.linspace(0, peak, 64, dtype=np.float32)
    frame = av.VideoFrame.from_ndarray(np.repeat(np.tile(light, (8, 1))[..., None], 3, 2), format="gbrpf32le")
    frame.time_base, frame.pts, frame.color_trc, frame.color_primaries = Fraction(1, 1000), 0, 8, 1
    mapped = filtered([frame], ("tonemap", f"mobius:param=0.75:desat=0:peak={peak}"), form="gbrpf32le")[0]
    assert np.abs(mapped[0, :, 0] - tone_curve(light.astype(np.float64))).max() < 1e-3


@pytest.mark.parametrize(("transfer", "white"), [(HLG, 721), (PQ, 572)])
def test_hdr_is_tone_mapped(tmp_path: Path, transfer: int, white: int):
    """Code values of diffuse white in 10-bit video range (64 to 940)."""
    tags = (1, 9, 9, transfer)
    paths = {
        level: write_clip(
            tmp_path / f"{level}.mkv",
            flat("yuv420p10le", (32, 32), (level, 512, 512)),
            pix_fmt="yuv420p10le",
            tags=tags,
        )
        for level in (64, white // 2 + 32, white, 940)
    }
    levels = [pixel(path)[1] for path in paths.values()]
    assert levels[0] == 0 and 236 <= levels[2] <= 246 and levels[3] == 255 and 20 < levels[1] < levels[2]
    assert decoded(paths[white])[0].notes == (
        f"{'HLG' if transfer == HLG else 'PQ'}, BT.2020 tone-mapped from HDR to sRGB",
    )
    facts = read_facts(paths[white])
    assert (facts.primaries, facts.transfer, facts.bits) == (1, 1, 10), "what is given out is no longer HDR"
    deep = next(iter(decode_video(paths[white], deep=True))).picture
    assert deep.dtype == np.uint16 and abs(int(deep[5, 5, 1]) / 257 - levels[2]) < 1


def test_wide_gamut_without_hdr_equals_ffmpegs_conversion(tmp_path: Path):
    """BT.2020 in SDR, against FFmpeg's filter `colorspace`, on colours inside BT.709."""
    rng = np.random.default_rng(0)
    for number, values in enumerate(rng.integers((400, 480, 480), (700, 560, 560), (6, 3)).tolist()):
        path = write_clip(
            tmp_path / f"{number}.mkv", flat("yuv420p10le", (32, 32), values), pix_fmt="yuv420p10le", tags=(1, 9, 9, 14)
        )
        steps = (("colorspace", "all=bt709:iall=bt2020:format=yuv444p10"), ("format", "gbrp10"))
        expected = filtered(frames_of(path)[:1], *steps)[0][16, 16]
        assert np.abs(np.array(pixel(path)) - expected).max() <= 2, values
        assert "BT.2020 converted to sRGB" in decoded(path)[0].notes


def test_display_p3_and_linear_light_are_converted(tmp_path: Path):
    p3 = to_srgb(np.full((1, 1, 3), (0, 65535, 0), np.uint16), ColorTags(primaries=12, transfer=13, is_rgb=True))
    assert p3[0, 0].tolist() == [0, 255, 0], "green of P3 lies outside sRGB and is clipped"
    soft = to_srgb(
        np.full((1, 1, 3), (40000, 20000, 20000), np.uint16), ColorTags(primaries=12, transfer=13, is_rgb=True)
    )
    assert soft[0, 0, 0] > 40000 / 257 and soft[0, 0, 1] < 20000 / 257, (
        "the same colour needs more saturated sRGB values"
    )
    linear = to_srgb(np.full((1, 1, 3), 14000, np.uint16), ColorTags(primaries=1, transfer=8, is_rgb=True))
    assert linear[0, 0, 0] == pytest.approx(255 * (1.055 * (14000 / 65535) ** (1 / 2.4) - 0.055), abs=1)


@pytest.mark.parametrize(
    ("tags", "named"),
    [((1, 9, 9, 9), "log"), ((1, 14, 9, 16), "ICtCp"), ((1, 8, 1, 1), "YCgCo"), ((1, 1, 10, 1), "CIE XYZ")],
)
def test_colour_that_cannot_be_converted_is_refused_by_name(tags: tuple[int, int, int, int], named: str):
    with pytest.raises(InputError, match=named):
        ColorTags(matrix=tags[1], primaries=tags[2], transfer=tags[3]).resolved(64, 64)


@pytest.mark.parametrize(("size", "matrix"), [((1280, 720), "bt709"), ((720, 576), "bt601"), ((64, 720), "bt709")])
def test_untagged_video_is_read_as_players_do(tmp_path: Path, size: tuple[int, int], matrix: str):
    path = write_clip(tmp_path / "clip.mkv", flat("yuv420p", size, (120, 90, 180), 1))
    expected = filtered(frames_of(path), ("scale", f"in_color_matrix={matrix}"), ("format", "gbrp"))[0]
    found = pixel(path)
    assert np.abs(np.array(found) - expected[size[1] // 2, size[0] // 2]).max() <= 1
    assert decoded(path)[0].notes == (), "what a player does needs no word"


# --- geometry ------------------------------------------------------------------------------------------------------------

MATRICES = {
    "plain": ((ONE, 0, 0, ONE), lambda p: p),
    "hflip": ((-ONE, 0, 0, ONE), lambda p: p[:, ::-1]),
    "vflip": ((ONE, 0, 0, -ONE), lambda p: p[::-1]),
    "half turn": ((-ONE, 0, 0, -ONE), lambda p: p[::-1, ::-1]),
    "clockwise": ((0, ONE, -ONE, 0), lambda p: np.rot90(p, 3)),
    "counterclockwise": ((0, -ONE, ONE, 0), lambda p: np.rot90(p, 1)),
    "transpose": ((0, ONE, ONE, 0), lambda p: p.transpose(1, 0, 2)),
    "transverse": ((0, -ONE, -ONE, 0), lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
}


def test_every_display_matrix(tmp_path: Path):
    plain = write_clip(tmp_path / "plain.mp4", moving(1), codec="libx264", options={"crf": "4", "bf": "0"}).read_bytes()
    shown = decoded(tmp_path / "plain.mp4")[0].picture
    for name, (matrix, turn) in MATRICES.items():
        path = tmp_path / "turned.mp4"
        path.write_bytes(plain)
        frame = decoded(set_matrix(path, *matrix))[0]
        assert np.array_equal(frame.picture, turn(shown)), name
        flips = name not in ("plain", "half turn", "clockwise", "counterclockwise")
        said = "mirrored" if flips else "rotated"
        assert frame.notes == (() if name == "plain" else (f"{said} as the video says",)), name
        assert read_facts(path).size == frame.picture.shape[1::-1], name


def test_other_angles_are_refused(tmp_path: Path):
    path = write_clip(tmp_path / "clip.mp4", moving(1), codec="libx264")
    with pytest.raises(InputError, match=r"clip.mp4: its display matrix turns by 30 degrees"):
        decoded(set_matrix(path, 56756, 32768, -32768, 56756))
    with pytest.raises(InputError, match="times as wide as high"):
        geometry_of(None, Fraction(100))


@pytest.mark.parametrize(
    ("aspect", "expected"), [(Fraction(4, 3), (128, 64)), (Fraction(16, 15), (102, 64)), (Fraction(8, 9), (96, 72))]
)
def test_pixels_are_made_square(tmp_path: Path, aspect: Fraction, expected: tuple[int, int]):
    path = write_clip(tmp_path / "clip.mp4", moving(1), codec="libx264", options={"crf": "4"}, aspect=aspect)
    frame = decoded(path)[0]
    assert frame.picture.shape[1::-1] == expected == read_facts(path).size
    reference = filtered(frames_of(path), ("scale", f"{expected[0]}:{expected[1]}:flags=lanczos"))[0]
    assert np.abs(frame.picture[4:-4, 4:-4].astype(int) - reference[4:-4, 4:-4]).mean() < 4
    assert f"pixels of aspect {aspect.numerator}:{aspect.denominator} made square" in frame.notes


def test_limits_are_stated_and_strips_do_not_stop_the_cut_detector():
    for size in ((MIN_SIDE_PX - 1, 64), (MAX_SIDE_PX + 1, 64), (16000, 16000)):
        with pytest.raises(InputError, match=r"clip: frames are .* allowed are sides of"):
            check_frame_size(*size, "clip")
    check_frame_size(MIN_SIDE_PX, MAX_SIDE_PX, "clip")
    cuts = CutDetector()
    strips = [np.full((MIN_SIDE_PX, MAX_SIDE_PX, 3), value, np.uint8) for value in (0, 255)]
    assert [cuts.begins_shot(strip) for strip in strips] == [False, True]


# --- fields ------------------------------------------------------------------------------------------------------------


def test_interlaced_frames_become_frames_of_one_moment(tmp_path: Path):
    path = write_clip(tmp_path / "tape.mkv", interlaced(6), codec="libx264", options=INTERLACED)
    frames = decoded(path)
    expected = filtered(frames_of(path), ("bwdif", "mode=send_frame:parity=auto:deint=interlaced"))
    assert [frame.time_s for frame in frames] == [Fraction(number, 20) for number in range(6)]
    for frame, reference in zip(frames, expected, strict=True):
        assert np.array_equal(frame.picture, reference) and frame.notes == ("deinterlaced",)


def test_a_tape_that_becomes_interlaced_later(tmp_path: Path):
    """A stream with both kinds of frames; the progressive ones stay as they are, and none is lost or doubled."""
    packets = []
    for options, frames in (({}, moving(4)), (INTERLACED, interlaced(4))):
        path = write_clip(tmp_path / "part.ts", frames, codec="libx264", options={"bf": "0", **options})
        packets.append(path.read_bytes())
    whole = tmp_path / "tape.ts"
    whole.write_bytes(b"".join(packets))
    raw = frames_of(whole)
    kinds = [frame.interlaced_frame for frame in raw]
    assert kinds[0] is False and kinds[-1] is True, "the clip is what it should be"
    frames = decoded(whole)
    assert [bool(frame.notes) for frame in frames] == kinds
    for frame, before in zip(frames, raw, strict=True):
        if not frame.notes:
            assert np.array_equal(frame.picture, before.to_ndarray(format="rgb24"))


# --- times and length ----------------------------------------------------------------------------------------------------


def test_equal_time_stamps_move_by_a_tick(tmp_path: Path):
    path = write_clip(tmp_path / "clip.mkv", moving(5), times=[0, 50, 50, 50, 200])
    assert [float(frame.time_s) for frame in decoded(path)] == [0, 0.05, 0.051, 0.052, 0.2]


@pytest.mark.parametrize(
    ("suffix", "codec", "options", "container"),
    [
        (".mkv", "libx264", {"g": "10"}, {}),
        (".webm", "libvpx-vp9", {"g": "10"}, {}),
        (".avi", "mpeg4", {"g": "10"}, {}),
        (".mov", "libx264", {"g": "10"}, {"movflags": "faststart"}),
        (".mp4", "libx264", {"g": "10"}, {}),
    ],
)
def test_a_cut_off_file_is_known_by_its_structure(tmp_path: Path, suffix, codec, options, container):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(20)]
    path = write_clip(tmp_path / f"clip{suffix}", noise, codec=codec, options=options, container=container)
    assert missing_bytes(path) == 0 and len(decoded(path)) == 20
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    lacking = missing_bytes(path)
    assert lacking > 0 and (suffix == ".mp4" or lacking == len(data) - len(data) * 2 // 3), "all but an index behind"
    with pytest.raises(InputError, match="cut off"):
        decoded(path)


def test_a_header_that_promises_more_time(tmp_path: Path):
    """A stream that was cut at a packet's end and closed properly: only the header's duration tells."""
    path = write_clip(tmp_path / "clip.mkv", moving(20))
    data = bytearray(path.read_bytes())
    at = data.index(b"00:00:01.0")
    data[at : at + 10] = b"00:00:09.0"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"ends at 1.00 s, and its header says 9.00 s"):
        decoded(path)


def test_an_edit_list_is_no_shortfall(tmp_path: Path):
    """An mp4 with reordered frames whose edit list shows a part of the track."""
    path = write_clip(tmp_path / "clip.mp4", moving(20), codec="libx264", options={"bf": "2"})
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    assert int.from_bytes(data[at : at + 4], "big") == 1000, "in ms, the whole second"
    data[at : at + 4] = (500).to_bytes(4, "big")
    path.write_bytes(data)
    assert len(decoded(path)) in (10, 11)


def test_sound_that_outlasts_the_picture_is_no_shortfall(tmp_path: Path):
    for suffix in (".mkv", ".mp4"):
        path = write_clip(tmp_path / f"clip{suffix}", moving(20)[:8], codec="libx264", sounds=0)
        assert len(decoded(path)) == 8
        path = write_clip(tmp_path / f"long{suffix}", moving(3), codec="libx264", rate=2, times=[0, 10, 20], sounds=1)
        assert len(decoded(path)) == 3


def test_phase_1_rejects_a_cut_off_video_or_takes_its_whole_frames(project: Project):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (32, 32, 3), np.uint8) for _ in range(30)]
    path = write_clip(project.raw / "clip.mkv", noise, codec="libx264", options={"g": "10", "bf": "0"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    assert project.run(1) == 1
    assert "cut off" in project.text and "--accept_truncated" in project.text
    assert project.run(1, "--accept_truncated") == 0
    entry = SceneIndex.load(project.out / "scene_index.json").entries["clip"]
    assert 16 <= entry.num_frames < 30
    assert "taken up to its last whole frame" in entry.notes[0]
    assert project.run(2, "--engine", "none", "--no_temporal_avg") == 0
    assert len(list((project.out / "clip" / "frames_sharp").glob("*.png"))) == entry.num_frames


def test_small_frames_keep_the_encoder_out_of_memory_that_is_not_its_own():
    """x265 damages memory where frames are a few coding units wide, unless its tree of them is off."""
    small, usual = (
        Encoding(suffix=".mp4", bits=10, size=size, rate=Fraction(24), time_base=Fraction(1, 24)).codec[1][
            "x265-params"
        ]
        for size in ((48, 64), (640, 360))
    )
    assert "cutree=0" in small and "cutree" not in usual


# --- words for what went wrong -------------------------------------------------------------------------------------------


def test_write_errors_name_their_cause(tmp_path: Path):
    target, source = tmp_path / "out.mp4", tmp_path / "in.mkv"
    for code, told in (
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission is denied"),
    ):
        failure = write_failure(OSError(code, "?"), target, "the sound is wrong", source)
        assert told in str(failure) and "sound" not in str(failure), "a full disk is no matter of sound"
    assert "--no_audio" in str(write_failure(ValueError("?"), target, ".mp4 cannot hold pcm sound", source))
    plain = str(write_failure(ValueError("bad parameter"), target, None, source))
    assert "bad parameter" in plain and "sound" not in plain


def test_sound_that_a_container_refuses_is_told_from_sound_it_takes(tmp_path: Path):
    path = write_clip(tmp_path / "clip.mkv", moving(8), codec="libx264", sounds=1)
    with av.open(str(path)) as source:
        good, dropped = readable_sounds(source)
        assert len(good) == 1 and dropped == []
        assert refused_sounds(tmp_path / "a.mp4", good) is None
        assert ".webm cannot hold aac sound" in str(refused_sounds(tmp_path / "a.webm", good))


def test_names_with_colons_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("12:30:05.mkv", "http:take.mkv"):
        (tmp_path / name).write_bytes(write_clip(tmp_path / "clip.mkv", moving(2)).read_bytes())
        assert len(decoded(Path(name))) == 2 and read_facts(Path(name)).size == (96, 64)
