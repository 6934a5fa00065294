"""Splits that never move, videos in every form, sources that change, and the work of phase 1 that is not done twice."""

import fractions
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import Project, moving_frames, texture, write_scene

from pipeline.errors import InputError
from pipeline.media.images import multiple_of_16, natural_key
from pipeline.media.sources import VideoSource, open_source
from pipeline.phases import index
from pipeline.phases.index import assign_splits
from pipeline.storage.scene import SPLITS, Scene, SceneIndex


def count(splits: dict[str, str]) -> list[int]:
    return [sum(value == split for value in splits.values()) for split in SPLITS]


def ids(number: int, prefix: str = "s") -> list[str]:
    return [f"{prefix}{index:04d}" for index in range(number)]


def test_ninety_scenes_are_split_72_9_9():
    assert count(assign_splits(ids(90), {}, 0)) == [72, 9, 9]


@pytest.mark.parametrize("number", range(3, 40))
def test_no_split_is_empty_from_three_scenes_on(number: int):
    assert min(count(assign_splits(ids(number), {}, 0))) >= 1


def test_splits_follow_the_seed_and_not_the_order():
    first = assign_splits(ids(50), {}, 0)
    assert assign_splits(ids(50)[::-1], {}, 0) == first
    assert assign_splits(ids(50), {}, 1) != first


def test_added_scenes_leave_earlier_ones_and_fill_what_lacks():
    before = assign_splits(ids(10), {}, 0)
    after = assign_splits(sorted(ids(10) + ids(80, "t")), before, 0)
    assert all(after[scene] == split for scene, split in before.items())
    assert count(after) == [72, 9, 9]


def test_growing_one_by_one_ends_balanced():
    splits: dict = {}
    for number in range(1, 91):
        splits = assign_splits(ids(number), splits, 0)
    assert count(splits) == [72, 9, 9]


def test_reindexing_keeps_splits_and_skips_what_is_known(project: Project, monkeypatch: pytest.MonkeyPatch):
    for number in range(3):
        write_scene(project.raw, f"s{number}", 16, depth=False, seed=number)
    assert project.run(1, "--workers", "1") == 0
    first = {name: entry.split for name, entry in SceneIndex.load(project.out / "scene_index.json").entries.items()}
    stamp = (project.out / "scene_index.json").stat().st_mtime_ns
    checked = []
    real = index.check_source
    monkeypatch.setattr(index, "check_source", lambda *a: checked.append(a[1]) or real(*a))
    assert project.run(1, "--workers", "1") == 0
    assert checked == [] and "3 unchanged" in project.text
    assert (project.out / "scene_index.json").stat().st_mtime_ns == stamp, "nothing to write"
    for number in range(3, 6):
        write_scene(project.raw, f"a{number}", 16, depth=False, seed=number)
    assert project.run(1, "--workers", "1") == 0
    assert sorted(checked) == ["a3", "a4", "a5"]
    entries = SceneIndex.load(project.out / "scene_index.json").entries
    assert all(entries[name].split == split for name, split in first.items())
    assert all(Scene(project.out, name).read_split() == entry.split for name, entry in entries.items())


def test_rejected_scene_is_looked_at_again_once_mended(project: Project):
    folder = write_scene(project.raw, "tiny", 15, depth=False)
    assert project.run(1) == 1
    cv2.imwrite(str(folder / "15.png"), moving_frames(1)[0])
    assert project.run(1) == 0


def test_removed_scene_leaves_the_index_and_says_so(project: Project):
    write_scene(project.raw, "a", 16, depth=False)
    write_scene(project.raw, "b", 16, depth=False, seed=1)
    assert project.run(1) == 0
    (project.raw / "b").rename(project.root / "away")
    assert project.run(1) == 0
    assert "no longer in the index: b" in project.text
    (project.root / "away").rename(project.raw / "b")
    split = Scene(project.out, "b").read_split()
    assert project.run(1) == 0
    assert SceneIndex.load(project.out / "scene_index.json").entries["b"].split == split, "its split.txt remembers"


def test_renamed_files_with_the_same_pictures_are_the_same_scene(project: Project):
    folder = write_scene(project.raw, "tiny", 16, depth=False)
    assert project.run(1) == 0
    before = SceneIndex.load(project.out / "scene_index.json").entries["tiny"]
    for path in sorted(folder.glob("*.png")):
        path.rename(folder / f"img_{int(path.stem):05d}.png")
    assert project.run(1) == 0
    after = SceneIndex.load(project.out / "scene_index.json").entries["tiny"]
    assert after.content_hash == before.content_hash and after.files != before.files


def test_changed_depth_leaves_the_sharp_frames_valid(scene_project: Project):
    scene_project.run_upto(3)
    path = scene_project.raw / "tiny" / "depth" / "003.npz"
    np.savez(path, depth=np.load(path)["depth"] * 1.1)
    assert scene_project.run(1) == 0
    assert scene_project.run(2) == 0
    assert "0 done, 1 skipped" in scene_project.text
    assert scene_project.run(3) == 3
    assert "upstream.delivered_depth changed" in scene_project.text


def test_natural_order():
    names = ["f10.png", "f2.png", "f1.png", "2.png", "10.png", "b.png", "f02.png"]
    assert sorted(names, key=natural_key) == ["2.png", "10.png", "b.png", "f1.png", "f02.png", "f2.png", "f10.png"]


@pytest.mark.parametrize(
    ("size", "expected"), [((854, 480), (848, 480)), ((960, 540), (960, 544)), ((72, 48), (80, 48)), ((7, 5), (16, 16))]
)
def test_sizes_go_to_the_nearest_multiple_of_16(size, expected):
    assert multiple_of_16(size) == expected


# --- videos ------------------------------------------------------------------------------------------------------------


def write_video(
    path: Path, frames: list[np.ndarray], codec: str = "libx264", times: list[int] | None = None, **options
):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height = frames[0].shape[1], frames[0].shape[0]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "10"}
        stream.codec_context.time_base = fractions.Fraction(1, 90000)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = times[number] if times else number * 3000
            frame.time_base = fractions.Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def smooth_frames(number: int) -> list[np.ndarray]:
    base = cv2.GaussianBlur(texture(64, 96 + number), (0, 0), 3)
    return [np.ascontiguousarray(base[:, t : t + 96]) for t in range(number)]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_video_scene_through_phase_2(project: Project, suffix: str):
    frames = smooth_frames(20)
    write_video(project.raw / f"clip.{suffix}", frames)
    assert project.run(1) == 0, project.text
    entry = SceneIndex.load(project.out / "scene_index.json").entries["clip"]
    assert (entry.num_frames, entry.width, entry.height) == (20, 96, 64)
    assert project.run(2, "--engine", "none", "--no_temporal_avg") == 0
    for number in (0, 7, 19):
        stored = cv2.imread(str(Scene(project.out, "clip").sharp_path(number)))[..., ::-1]
        assert np.abs(stored.astype(int) - frames[number]).mean() < 6


def test_resume_inside_a_video_gives_the_same(project: Project):
    write_video(project.raw / "clip.mp4", smooth_frames(20))
    assert project.run(1) == 0 and project.run(2) == 0
    scene = Scene(project.out, "clip")
    before = {frame: scene.sharp_path(frame).read_bytes() for frame in range(20)}
    for frame in (4, 5, 17):
        scene.sharp_path(frame).unlink()
    assert project.run(2) == 0
    assert all(scene.sharp_path(frame).read_bytes() == data for frame, data in before.items())


def test_variable_frame_rate(project: Project):
    times = [0]
    for number in range(19):
        times.append(times[-1] + (1500, 3000, 9000, 45000)[number % 4])
    write_video(project.raw / "clip.mp4", smooth_frames(20), times=times)
    assert len(list(VideoSource(project.raw / "clip.mp4").decode())) == 20


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_is_honoured(project: Project, degrees: int, monkeypatch: pytest.MonkeyPatch):
    """A phone's display matrix. PyAV cannot write one, so the flag is put into the container's track header here."""
    path = project.raw / "clip.mp4"
    frames = smooth_frames(17)
    write_video(path, frames)
    path.write_bytes(with_rotation(path.read_bytes(), degrees))
    index_of, shown, notes = next(iter(open_source(path).decode()))
    expected = np.rot90(frames[0], round(-degrees / 90))  # players turn clockwise by the matrix' angle
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 6, "turned the right way round"
    assert index_of == 0 and notes == ["rotated as the video says"]


def with_rotation(data: bytes, clockwise: int) -> bytes:
    """Replace the unity matrix of the track header (ISO 14496-12, 8.3.2) by a rotation."""
    one, w = 0x10000, 0x40000000
    cosine, sine = {90: (0, 1), 180: (-1, 0), -90: (0, -1)}[clockwise]

    def matrix(a: int, b: int, c: int, d: int) -> bytes:
        return b"".join(value.to_bytes(4, "big", signed=True) for value in (a, b, 0, c, d, 0, 0, 0, w))

    start = data.index(b"tkhd")
    at = data.index(matrix(one, 0, 0, one), start)
    turned = matrix(cosine * one, sine * one, -sine * one, cosine * one)
    return data[:at] + turned + data[at + 36 :]


def test_truncated_video(project: Project):
    path = project.raw / "clip.mkv"
    write_video(path, [texture(64, 96, seed) for seed in range(24)])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    assert project.run(1) == 1
    reason = SceneIndex.load(project.out / "scene_index.json").entries["clip"].reasons[0]
    assert "frames, needs at least 16" in reason or "does not decode" in reason or "damaged" in reason


def test_a_file_with_sound_and_no_video_is_refused(project: Project):
    path = project.raw / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="no video stream"):
        list(open_source(path).decode())


def test_scene_indexes_only_what_is_named_and_what_was_known(project: Project):
    for number, name in enumerate(("bear", "cat", "dog")):
        write_scene(project.raw, name, 16, seed=number)
    assert project.run(1, "--scene", "bear") == 0
    assert set(SceneIndex.load(project.out / "scene_index.json").entries) == {"bear"}
    assert project.run(1, "--scene", "dog") == 0
    assert set(SceneIndex.load(project.out / "scene_index.json").entries) == {"bear", "dog"}
    assert project.run(1, "--scene", "horse") == 2
    assert "holds no scene 'horse'; it holds: bear, cat, dog" in project.text
    assert project.run(1) == 0
    assert set(SceneIndex.load(project.out / "scene_index.json").entries) == {"bear", "cat", "dog"}
