"""Delivered depth in every form people have it, paired by number, with far and unknown told apart."""

import io
import json
import os
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import pytest
from conftest import Project, moving_frames, slanted_depth, write_scene
from media_clips import write_clip

from pipeline.errors import InputError
from pipeline.media.delivered_depth import check_delivered, depth_at, find_delivered_depth
from pipeline.media.depth_files import resize_depth
from pipeline.media.depth_readers import ArrayStack, read_map
from pipeline.media.depth_statement import DepthStatement
from pipeline.phases.depth import to_stored
from pipeline.storage.scene import Scene, SceneIndex

SIZE = (36, 24)
COUNT = 4


def maps() -> list[np.ndarray]:
    """Metres, another in every frame."""
    return [slanted_depth(SIZE) + number for number in range(COUNT)]


def scene(root: Path, names: tuple[str, ...] = tuple(f"{n:05d}.png" for n in range(COUNT))) -> Path:
    folder = root / "walk"
    folder.mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    return folder


def described(path: Path, **said: object) -> None:
    path.write_text(json.dumps(said))


def write_pfm(path: Path, values: np.ndarray) -> None:
    head = f"Pf\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode()
    path.write_bytes(head + values[::-1].astype("<f4").tobytes())


def npy_bytes(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def write_exr(path: Path, values: np.ndarray, channel: str) -> None:
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {channel: np.ascontiguousarray(values, np.float32)}).write(str(path))


def check(source: Path, tolerance: float = 1e-5) -> None:
    """Every frame has its own depth."""
    depth = find_delivered_depth(source, COUNT)
    assert depth is not None and len(depth) == COUNT
    for number, expected in enumerate(maps()):
        assert np.abs(depth.read_fitting(number, SIZE) / expected - 1).max() < tolerance, number
    assert check_delivered(depth, SIZE, COUNT).problem is None


# --- forms -------------------------------------------------------------------------------------------------------------


def test_folders_of_maps(tmp_path: Path):
    focal, baseline, offset = 900.0, 0.2, 3.0
    writers = {
        "npz": (lambda p, m: np.savez(p, depth=m), {}),
        "NPY": (lambda p, m: p.write_bytes(npy_bytes(m)), {}),
        "PNG": (lambda p, m: p.write_bytes(cv2.imencode(".png", np.rint(m * 1000).astype(np.uint16))[1].tobytes()), {}),
        "tif": (lambda p, m: cv2.imwrite(str(p), m.astype(np.float32)), {}),
        "EXR": (lambda p, m: write_exr(p, m * 100, "Z"), {"unit": "cm"}),
        "exr": (lambda p, m: write_exr(p, m, "V"), {"kind": "depth"}),
        "png": (lambda p, m: cv2.imwrite(str(p), np.rint(m * 5000).astype(np.uint16)), {"unit": "m", "scale": 0.0002}),
        "pfm": (
            lambda p, m: write_pfm(p, focal * baseline / m - offset),
            {"kind": "disparity_px", "focal_px": focal, "baseline_m": baseline, "doffs_px": offset},
        ),
    }
    for number, (ending, (write, said)) in enumerate(writers.items()):
        folder = scene(tmp_path / str(number))
        (folder / "depth").mkdir()
        for frame, values in enumerate(maps()):
            write(folder / "depth" / f"d{frame:03d}.{ending}", values)
        if said:
            described(folder / "depth.json", **said)
        check(folder, 1e-3)


def test_places_beside_a_folder_and_a_video(tmp_path: Path):
    for number, place in enumerate(("walk/depth", "walk.depth")):
        folder = scene(tmp_path / f"f{number}")
        target = folder.parent / place
        target.mkdir()
        for frame, values in enumerate(maps()):
            np.savez(target / f"{frame:05d}.npz", depth=values)
        check(folder)
    for number, (place, start) in enumerate((("walk.depth", 0), ("walk/depth", 1))):
        clip = write_clip(tmp_path / f"v{number}" / "walk.mkv", [np.zeros((SIZE[1], SIZE[0], 3), np.uint8)] * COUNT)
        target = clip.parent / place
        target.mkdir(parents=True)
        for frame, values in enumerate(maps(), start=start):
            np.savez(target / f"{frame}.npz", depth=values)
        check(clip)


def test_one_npz_of_the_authors_program(tmp_path: Path):
    clip = write_clip(tmp_path / "walk.mp4", [np.zeros((SIZE[1], SIZE[0], 3), np.uint8)] * COUNT, codec="libx264")
    np.savez_compressed(tmp_path / "walk_depths.npz", depths=np.stack(maps()).astype(np.float32))
    check(clip)
    depth = find_delivered_depth(clip, COUNT)
    assert depth is not None
    for number in (2, 0, 3, 3, 1):  # backwards, too
        assert np.allclose(depth.read(number), maps()[number])
    assert depth.read_fitting(1, (SIZE[0] * 2, SIZE[1] * 2)).shape == SIZE[::-1], (
        "of the frame's shape, at its own size"
    )
    with pytest.raises(InputError, match="not the shape of 30x30"):
        depth.read_fitting(1, (30, 30))
    with pytest.raises(InputError, match=r"walk_depths.npz has 4 maps for 5 frames"):
        find_delivered_depth(clip, 5)
    assert np.allclose(depth_at(tmp_path / "walk_depths.npz", clip, COUNT).read(2), maps()[2])


def test_a_film_of_disparity(tmp_path: Path):
    folder = scene(tmp_path)
    near, far = 1.0, 20.0
    share = [(1 / m - 1 / far) / (1 / near - 1 / far) for m in maps()]
    grey = [np.repeat(np.rint(s * 255).astype(np.uint8)[..., None], 3, 2) for s in share]
    film = write_clip(tmp_path / "walk.disparity.mkv", grey, pix_fmt="gray")
    with pytest.raises(InputError, match=r"needs .*depth.json to say how to read it"):
        find_delivered_depth(folder, COUNT)
    described(tmp_path / "walk.disparity.json", kind="disparity", near_m=near, far_m=far)
    check(folder, 0.05)
    write_clip(film, [np.full((24, 36, 3), (200, 40, 90), np.uint8)] * COUNT, pix_fmt="bgr0")
    depth = find_delivered_depth(folder, COUNT)
    assert depth is not None and "is coloured" in str(check_delivered(depth, SIZE, COUNT).problem)


# --- numbers and names -------------------------------------------------------------------------------------------------


def test_maps_belong_to_the_frames_of_their_numbers(tmp_path: Path):
    names = ("a10.png", "a11.png", "a12.png", "a13.png")
    folder = scene(tmp_path, names)
    (folder / "depth").mkdir()
    for number, values in enumerate(maps()):  # the names sort in another order than the frames
        np.savez(folder / "depth" / f"{'zyxw'[number]}_{10 + number}.npz", depth=values)
    check(folder)
    (folder / "depth" / "w_13.npz").rename(folder / "depth" / "w_14.npz")
    with pytest.raises(InputError, match="no depth for 13; no frame for 14"):
        find_delivered_depth(folder, COUNT)


def test_names_without_numbers_match_by_name_or_not_at_all(tmp_path: Path):
    folder = scene(tmp_path, ("ant.png", "bee.png", "cat.png", "dog.png"))
    (folder / "depth").mkdir()
    for name, values in zip(("dog", "CAT", "bee", "ant"), reversed(maps()), strict=True):
        np.savez(folder / "depth" / f"{name}.npz", depth=values)
    check(folder)
    (folder / "depth" / "ant.npz").rename(folder / "depth" / "cow.npz")
    with pytest.raises(InputError, match="name each map after its frame"):
        find_delivered_depth(folder, COUNT)


def test_a_video_wants_numbers_without_gaps(tmp_path: Path):
    clip = write_clip(tmp_path / "walk.mkv", [np.zeros((SIZE[1], SIZE[0], 3), np.uint8)] * COUNT)
    (tmp_path / "walk.depth").mkdir()
    for number in (0, 1, 2, 4):
        np.savez(tmp_path / "walk.depth" / f"{number}.npz", depth=maps()[0])
    with pytest.raises(InputError, match="numbered from 0 or 1 without gaps"):
        find_delivered_depth(clip, COUNT)


# --- meaning -------------------------------------------------------------------------------------------------------------


def test_far_is_not_unknown():
    metres = DepthStatement().metres(np.array([[np.inf, np.nan, 0.0, -1.0, -np.inf, 3.0]]))[0]
    assert metres[0] == np.inf and np.isnan(metres[1:5]).all() and metres[5] == 3
    stored = to_stored(metres[None])[0].astype(float)
    assert stored[0] == 1000 and np.isnan(stored[1:5]).all()
    sky = DepthStatement(far=(0.0,)).metres(np.array([[0.0, 2.0]]))
    assert sky.tolist() == [[np.inf, 2]]
    counted = DepthStatement(invalid=(65535.0,), unit="cm").metres(np.array([[65535, 250, 0]], np.uint16))[0]
    assert np.isnan(counted[0]) and counted[1] == 2.5 and np.isnan(counted[2]), (
        "a depth of zero is none, whoever says so"
    )
    disparity = DepthStatement(kind="disparity", near_m=1, far_m=10).metres(np.array([[0, 255]], np.uint8))
    assert np.allclose(disparity, [[10, 1]])
    holes = DepthStatement(kind="disparity", near_m=1, far_m=10, invalid=(0.0,)).metres(np.array([[0, 255]], np.uint8))
    assert np.isnan(holes[0, 0]) and holes[0, 1] == 1
    px = DepthStatement(kind="disparity_px", focal_px=100, baseline_m=1, far=(0.0,))
    assert px.metres(np.array([[0.0, 50.0, np.inf]]))[0, :2].tolist() == [np.inf, 2]
    assert np.isnan(px.metres(np.array([[np.inf]]))[0, 0]), "an infinite disparity is unknown, as in Middlebury's files"


def test_resizing_keeps_far_and_unknown_apart():
    depth = np.full((8, 8), 4.0, np.float32)
    depth[:, :4], depth[:4, 4:] = np.inf, np.nan
    small = resize_depth(depth, (4, 4))
    assert (small[:, 0] > 1e6).all() and np.isnan(small[0, 3]) and small[3, 3] == pytest.approx(4)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ('{"kind": "relative"}', "relative depth has no metres"),
        ('{"unit": "furlong"}', "unit must be one of m, dm"),
        ('{"kind": "disparity_px", "focal_px": 100}', "needs focal_px and baseline_m"),
        ('{"scale": -1}', "scale must be positive"),
        ("[1]", "must be an object"),
        ("[" * 40000, "cannot be used"),
        ('{"invalid": ["x"]}', "could not convert"),
    ],
)
def test_a_depth_json_that_makes_no_sense(tmp_path: Path, said: str, message: str):
    folder = scene(tmp_path)
    (folder / "depth").mkdir()
    for frame, values in enumerate(maps()):
        np.savez(folder / "depth" / f"{frame}.npz", depth=values)
    (folder / "depth.json").write_text(said)
    with pytest.raises(InputError, match=message):
        find_delivered_depth(folder, COUNT)


# --- hostile files -------------------------------------------------------------------------------------------------------


def test_sizes_are_looked_at_before_memory_is_asked_for(tmp_path: Path):
    huge = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (400000, 400000), }".ljust(117)
        + b"\n"
    )
    (tmp_path / "a.npy").write_bytes(huge)
    with pytest.raises(InputError, match="400000, 400000"):
        read_map(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes(huge.replace(b"(400000, 400000)", b"(9, 400000, 400)"))
    with pytest.raises(InputError):
        ArrayStack(tmp_path / "b.npy")
    (tmp_path / "c.pfm").write_bytes(b"Pf\n400000 400000\n-1\n")
    with pytest.raises(InputError, match="more than a frame may have"):
        read_map(tmp_path / "c.pfm")
    os.mkfifo(tmp_path / "d.npz")
    with pytest.raises(InputError, match="a pipe"):
        read_map(tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", depth=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"e.npz is not a readable npz file"):
        read_map(tmp_path / "e.npz")
    (tmp_path / "f.exr").write_bytes(b"v/1\x01" + bytes(range(64)))
    with pytest.raises(InputError, match=r"f.exr"):
        read_map(tmp_path / "f.exr")
    cv2.imwrite(str(tmp_path / "g.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="one-channel png"):
        read_map(tmp_path / "g.png")


# --- phases ------------------------------------------------------------------------------------------------------------


def test_phase_1_says_what_is_odd_and_phase_3_reads_the_same(project: Project):
    """Millimetres taken for metres, a sky of infinity, a sky of zeros, and a map that cannot be used."""
    frames = moving_frames(16)
    for name in ("millimetres", "sky", "zeros", "broken"):
        folder = write_scene(project.raw, name, frames)
        for path in sorted((folder / "depth").iterdir()):
            values = slanted_depth()
            values[:12] = {"sky": np.inf, "zeros": 0}.get(name, 8.0)
            np.savez(path, depth=values * 1000 if name == "millimetres" else values)
    np.savez(project.raw / "broken/depth/003.npz", disparity=slanted_depth())
    described(project.raw / "zeros/depth.json", far=[0], flavour="salt")
    assert project.run(1, "--workers", "1") == 0
    entries = SceneIndex.load(project.out / "scene_index.json").entries
    notes = {name: " | ".join(entry.notes) for name, entry in entries.items()}
    assert "is the unit right?" in notes["millimetres"] and "infinite in 25% of the pixels" in notes["sky"]
    assert "flavour is not read" in notes["zeros"] and "infinite in 25%" in notes["zeros"]
    assert "cannot be used" in notes["broken"] and "needs 'depth'" in notes["broken"]
    assert project.run(2, "--engine", "none", "--no_temporal_avg") == 0
    assert project.run(3) == 3 and "needs 'depth'" in project.text
    for name in ("sky", "zeros"):
        depth = np.load(Scene(project.out, name).depth_path(3))["depth"]
        assert (depth[:11] == 1000).all() and depth[20:].max() < 10, name


def test_a_video_with_its_depth_is_one_scene(project: Project):
    write_clip(project.raw / "walk.mkv", moving_frames(16))
    (project.raw / "walk" / "depth").mkdir(parents=True)
    for number in range(16):
        np.savez(project.raw / "walk" / "depth" / f"{number}.npz", depth=slanted_depth())
    write_clip(project.raw / "run.mkv", moving_frames(16))
    np.savez(project.raw / "run_depths.npz", depths=np.stack([slanted_depth()] * 16))
    assert project.run(1, "--workers", "1") == 0, project.text
    index = SceneIndex.load(project.out / "scene_index.json")
    assert set(index.accepted) == {"walk", "run"} == set(index.entries)
    assert {entry.depth_kind for entry in index.entries.values()} == {"depth"}
    assert "have depth with them" not in project.text and "not read" not in project.text
    np.savez(project.raw / "run_depths.npz", depths=np.stack([slanted_depth() * 2] * 16))
    assert project.run(1, "--workers", "1") == 0 and "1 checked, 1 unchanged" in project.text
