"""Colour and orientation of picture files, and folders of frames: nothing is converted or skipped without a word."""

import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Project, moving_frames, slanted_depth
from media_clips import moving, write_clip
from PIL import Image, ImageCms, PngImagePlugin

from pipeline.errors import InputError, UsageError
from pipeline.media.color import matrix_to_709
from pipeline.media.frame_folder import look_at
from pipeline.media.images import PICTURE_SUFFIXES, picture_size, read_picture
from pipeline.media.video_io import open_timed
from pipeline.storage.scene import SceneIndex

P3_TO_XYZ_D50 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))  # by column
ADOBE_TO_XYZ_D50 = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


def icc_profile(columns: tuple[tuple[float, ...], ...], gamma: float, name: str) -> bytes:
    """A matrix and curve profile (ICC.1, version 2) of these primaries and one gamma."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    text = name.encode()
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" * 79}
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    for letter, column in zip(b"rgb", columns, strict=True):
        tags[bytes([letter]) + b"XYZ"] = b"XYZ \0\0\0\0" + b"".join(map(fixed, column))
        tags[bytes([letter]) + b"TRC"] = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    table, data = struct.pack(">I", len(tags)), b""
    for key, value in tags.items():
        value += b"\0" * (-len(value) % 4)
        table += key + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(value))
        data += value
    header = struct.pack(
        ">I4xI4s4s4s12x4s", 128 + len(table) + len(data), 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp"
    )
    header = header.ljust(68, b"\0") + b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    return header.ljust(128, b"\0") + table + data


def patch(color: tuple[int, int, int]) -> Image.Image:
    return Image.fromarray(np.full((32, 32, 3), color, np.uint8))


@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 2), (".jpg", 4), (".tif", 2), (".webp", 4)])
def test_display_p3_becomes_srgb(tmp_path: Path, suffix: str, tolerance: int):
    """Against the matrix of the primaries, which no profile has a part in."""
    color = (180, 100, 80)
    path = tmp_path / f"p3{suffix}"
    patch(color).save(path, icc_profile=icc_profile(P3_TO_XYZ_D50, 2.2, "Display P3"), quality=100)
    light = matrix_to_709(12) @ (np.array(color) / 255) ** 2.2
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    found, notes = read_picture(path)
    assert np.abs(found[16, 16] - expected).max() <= tolerance and found[16, 16, 0] > color[0]
    assert notes == ["Display P3 converted to sRGB"]


def test_adobe_rgb_and_grey_and_cmyk(tmp_path: Path):
    profile = icc_profile(ADOBE_TO_XYZ_D50, 2.19921875, "Adobe RGB (1998)")
    patch((80, 160, 80)).save(tmp_path / "a.jpg", icc_profile=profile, quality=100)
    found, notes = read_picture(tmp_path / "a.jpg")
    assert found[16, 16, 0] < 60 and notes == ["Adobe RGB (1998) converted to sRGB"]
    patch((80, 160, 80)).convert("L").save(tmp_path / "g.png", icc_profile=profile)
    grey, notes = read_picture(tmp_path / "g.png")
    assert np.ptp(grey[16, 16].astype(int)) <= 1 and "greyscale repeated to RGB" in notes
    patch((80, 160, 80)).convert("CMYK").save(tmp_path / "c.jpg", quality=100)
    assert read_picture(tmp_path / "c.jpg")[1] == ["CMYK converted without a profile"]


def test_a_profile_that_is_srgb_changes_no_byte(tmp_path: Path):
    frame = moving_frames(1)[0]
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name in ("s.png", "s.tif"):
        Image.fromarray(frame).save(tmp_path / name, icc_profile=profile)
        found, notes = read_picture(tmp_path / name)
        assert np.array_equal(found, frame) and notes == []
    Image.fromarray(frame).save(tmp_path / "x.png", icc_profile=b"no profile at all")
    with pytest.raises(InputError, match=r"x.png: its ICC profile cannot be read"):
        read_picture(tmp_path / "x.png")


def png_with(chunk: bytes, data: bytes, path: Path, color: tuple[int, int, int] = (120, 120, 120)) -> Path:
    info = PngImagePlugin.PngInfo()
    info.add(chunk, data)
    patch(color).save(path, pnginfo=info)
    return path


def test_code_points_and_gamma_of_png(tmp_path: Path):
    assert read_picture(png_with(b"cICP", bytes((1, 13, 0, 1)), tmp_path / "srgb.png"))[1] == []
    found, notes = read_picture(png_with(b"cICP", bytes((12, 13, 0, 1)), tmp_path / "p3.png", (180, 100, 80)))
    assert found[16, 16, 0] > 180 and notes == ["Display P3 converted to sRGB"]
    with pytest.raises(InputError, match=r"it is HDR \(PQ, BT.2020\)"):
        read_picture(png_with(b"cICP", bytes((9, 16, 0, 1)), tmp_path / "hdr.png"))
    usual = read_picture(png_with(b"gAMA", struct.pack(">I", 45455), tmp_path / "usual.png"))
    assert usual[0][0, 0, 0] == 120 and usual[1] == []
    linear, notes = read_picture(png_with(b"gAMA", struct.pack(">I", 100000), tmp_path / "linear.png"))
    assert linear[0, 0, 0] == round(255 * (1.055 * (120 / 255) ** (1 / 2.4) - 0.055)) and notes == [
        "gamma 1 converted to sRGB"
    ]


def test_avif_is_read_and_hdr_avif_refused(tmp_path: Path):
    patch((10, 200, 30)).save(tmp_path / "a.avif", quality=90)
    assert np.abs(read_picture(tmp_path / "a.avif")[0][16, 16] - np.array((10, 200, 30))).max() < 12
    data = bytearray((tmp_path / "a.avif").read_bytes())
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">HH", 9, 16)
    (tmp_path / "hdr.avif").write_bytes(data)
    with pytest.raises(InputError, match="it is HDR"):
        read_picture(tmp_path / "hdr.avif")


def test_every_exif_orientation(tmp_path: Path):
    frame = moving(1, (64, 40))[0]
    turns = {
        1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2), 6: lambda p: np.rot90(p, 3), 7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
        8: lambda p: np.rot90(p, 1),
    }  # fmt: skip
    for orientation, turn in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(frame).save(tmp_path / "f.png", exif=exif)
        found, notes = read_picture(tmp_path / "f.png")
        assert np.array_equal(found, turn(frame)), orientation
        assert len(notes) == (orientation != 1) and picture_size(tmp_path / "f.png") == found.shape[1::-1]


def test_only_the_first_of_several_pictures_is_said(tmp_path: Path):
    pictures = [patch((value, 0, 0)) for value in (0, 100, 200)]
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:])
    assert read_picture(tmp_path / "a.webp")[1] == ["only the first of several pictures in the file is read"]


# --- folders -----------------------------------------------------------------------------------------------------------


def folder_with(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if Path(name).suffix.lower() in PICTURE_SUFFIXES:
            Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / name)
        else:
            (folder / name).write_text("?")
    return folder


def test_what_is_not_read_is_counted_and_named(tmp_path: Path):
    folder = folder_with(
        tmp_path / "a", *(f"{n}.png" for n in range(5)), "x.HEIC", "y.heic", "notes.txt", "clip.mp4", "0.gif"
    )
    (folder / "masks").mkdir()
    (folder / "depth").mkdir()
    notes = "\n".join(look_at(folder).notes)
    for told in ("2 .heic (HEIC; convert", "1 .txt: notes.txt", "1 .mp4: clip.mp4", "1 .gif", "1 folder: masks"):
        assert told in notes, told
    assert "depth" not in notes


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((0, 1, 2, 3, 7, 8), "3 frames are missing in 1 gaps of the numbers, from 4"),
        ((0, 5, 10, 15, 30, 35), "2 frames are missing in 1 gaps of the numbers, from 20"),
        ((1, 2, 4, 5, 7, 8, 9, 10), "2 frames are missing in 2 gaps of the numbers, from 3, 6"),
        ((0, 5, 10, 15), None),
        ((1627384923, 1627384961, 1627385002, 1627385039, 99999999999), None),
    ],
)
def test_gaps_in_the_numbers(tmp_path: Path, numbers: tuple[int, ...], said: str | None):
    notes = look_at(folder_with(tmp_path / "a", *(f"shot2_{n:05d}.png" for n in numbers))).notes
    assert (said is None and notes == ()) or (said is not None and said in notes[0])


def test_twins_and_broken_links_are_refused_by_both_readers(tmp_path: Path, project: Project):
    folder = folder_with(project.raw / "twins", *(f"{n:03d}.png" for n in range(16)), "004.JPG")
    with pytest.raises(UsageError, match=r"several pictures called 004 \(004.JPG, 004.png\)"):
        open_timed(folder, 24)
    linked = folder_with(project.raw / "linked", *(f"{n:03d}.png" for n in range(16)))
    os.symlink("objects/none", linked / "016.png")
    with pytest.raises(InputError, match=r"016.png is without content"):
        open_timed(linked, 24)
    assert project.run(1, "--workers", "1") == 1
    entries = SceneIndex.load(project.out / "scene_index.json").entries
    assert "several pictures called 004" in entries["twins"].reasons[0]
    assert "016.png is without content" in entries["linked"].reasons[0]


def test_folders_without_frames_say_what_to_do(tmp_path: Path):
    videos = folder_with(tmp_path / "videos")
    write_clip(videos / "a.mp4", moving(2), codec="libx264")
    with pytest.raises(InputError, match=r"no frames but videos \(a.mp4\).*--raw_root .*videos"):
        look_at(videos)
    folder_with(tmp_path / "outer" / "inner", "0.png")
    with pytest.raises(InputError, match=r"folders with some: inner; --raw_root .*outer"):
        look_at(tmp_path / "outer")
    with pytest.raises(InputError, match=r"holds no frames; allowed are .*1 .cr2 \(camera raw; convert"):
        look_at(folder_with(tmp_path / "raw", "IMG_1.CR2"))


# --- the raw root ------------------------------------------------------------------------------------------------------


def test_a_scene_or_a_file_as_the_root_gets_the_command_that_works(project: Project):
    folder_with(project.raw, *(f"{n}.png" for n in range(16)))
    (project.raw / "disparity").mkdir()
    assert project.run(1) == 2
    assert "is itself a scene (16 frames: 0.png, 1.png, 10.png and 13 more)" in project.text
    assert f"--raw_root {project.raw.parent} --scene {project.raw.name}" in project.text
    project.raw = project.raw / "3.png"
    assert project.run(1) == 2
    assert f"--raw_root {project.raw.parent} --scene 3" in project.text


def test_other_video_endings_and_stray_files(project: Project):
    clip = write_clip(project.root / "clip.mkv", moving(16, (32, 32)), codec="libx264").read_bytes()
    for name in ("a.AVI", "b.m4v", "c.MTS"):
        (project.raw / name).write_bytes(clip)
    folder_with(project.raw, "thumb.png", "notes.txt", "more.txt")
    cv2.imwrite(str(folder_with(project.raw / "still") / "photo.BMP"), np.zeros((32, 32, 3), np.uint8))
    assert project.run(1, "--min_frames", "1", "--workers", "1") == 0
    entries = SceneIndex.load(project.out / "scene_index.json").entries
    assert {name for name, entry in entries.items() if entry.accepted} == {"a", "b", "c", "still"}
    assert "3 names, .png (1), .txt (2): more.txt, notes.txt, thumb.png" in project.text
    assert "0 of 4 scenes have depth with them" in project.text and "a.AVI, b.m4v, c.MTS, still" in project.text


def test_a_still_goes_through_the_phases(project: Project):
    folder = project.raw / "still"
    folder.mkdir()
    Image.fromarray(moving_frames(1)[0]).save(folder / "photo.png")
    np.save(project.raw / "still.depth.npy", slanted_depth()[None])
    assert project.run(1, "--min_frames", "1") == 0, project.text
    for phase in (2, 3, 4):
        assert project.run(phase) == 0, project.text
    assert project.run(4, "--confirm") == 0 and project.run(5, "--num_sets", "1") == 0, project.text
    assert project.run(6) == 0, project.text
