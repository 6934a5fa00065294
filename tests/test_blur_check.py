"""Phase 6 --check_blur and phase 1 --check_blur: what a wrong render looks like, and that right ones pass."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import Project, moving_frames, slanted_depth, write_scene

from pipeline.media.convert import image_to_tensor, tensor_to_image
from pipeline.optics import Aperture, Lens, defocus_px, px_per_mm, render_lens_blur
from pipeline.optics.estimate import blurred_share
from pipeline.phases.blur_check import BlurFrame, check_frame, check_set, frames_to_check, others_of

SIZE = (96, 64)
LENS = Lens(f_m=0.05, f_number=1.1, focus_m=3.0)
PX_PER_MM = px_per_mm(SIZE[0])
SHARP = moving_frames(6, size=SIZE, seed=3)
DEPTH = slanted_depth(SIZE)


def radii(lens: Lens = LENS) -> np.ndarray:
    return defocus_px(torch.from_numpy(DEPTH), lens, PX_PER_MM).numpy()


def photograph(number: int, signed_px: np.ndarray, aperture: Aperture | None = None) -> np.ndarray:
    image, order = image_to_tensor(SHARP[number])[None], torch.from_numpy(DEPTH)[None, None]
    signed = torch.from_numpy(signed_px)[None, None]
    return tensor_to_image(render_lens_blur(image, signed, order=order, aperture=aperture or Aperture())[0])


def frame(number: int, photo: np.ndarray) -> BlurFrame:
    return BlurFrame(sharp=SHARP[number], photo=photo, signed_px=radii(), depth_m=DEPTH)


@pytest.mark.parametrize("aperture", [Aperture(), Aperture(blades=5, rotation_deg=20)])
def test_the_right_blur_passes_through_any_opening(aperture: Aperture):
    found = check_frame(frame(2, photograph(2, radii(), aperture)), {1: frame(1, SHARP[1]), 3: frame(3, SHARP[3])})
    assert found.judged and found.agreement > 0.97 and abs(found.bias) < 0.1 and found.closer_frame is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: radii() * 0, "less than it says"),
        (lambda: radii() * 2.5, "more than it says"),
        (lambda: np.full_like(radii(), float(np.abs(radii()).mean())), "worst in frame"),
        (lambda: radii(Lens(f_m=0.05, f_number=1.1, focus_m=1.3)), "worst in frame"),
    ],
    ids=["no guidance", "too strong", "one radius for all", "other focus distance"],
)
def test_a_wrong_radius_is_found(wrong, said: str):
    found = check_set(lambda number: frame(number, photograph(number, wrong())), 3)
    (problem,) = found.problems()
    assert "the blur is the label's at" in problem and said in problem


def test_pictures_in_another_order_are_found_and_named():
    found = check_set(lambda number: frame(number, photograph(5 - number, radii())), 6)
    assert any("frame 0 shows frame 5" in problem for problem in found.problems())


def test_a_scene_without_texture_is_not_judged():
    grey = np.full((64, 96, 3), 128, np.uint8)
    found = check_set(lambda n: BlurFrame(sharp=grey, photo=grey, signed_px=radii(), depth_m=DEPTH), 3)
    assert not found.judged and not found.problems() and np.isnan(found.agreement)


def test_frames_are_spread_and_held_against_those_they_may_be_mistaken_for():
    assert frames_to_check(11) == [0, 5, 10] and frames_to_check(2) == [0, 1] and frames_to_check(1) == [0]
    assert others_of(0, 11) == [1, 10] and others_of(5, 11) == [4, 6]


def test_phase_6_finds_a_shuffled_set_and_passes_the_right_one(project: Project):
    frames = moving_frames(6, size=SIZE, seed=5)
    write_scene(project.raw, "film", frames)
    for phase, more in (
        (1, ["--min_frames", "6"]),
        (2, ["--engine", "none"]),
        (3, []),
        (4, ["--lens_prior", "visible"]),
        (4, ["--lens_prior", "visible", "--confirm"]),
        (5, ["--num_sets", "1"]),
    ):
        assert project.run(phase, *more) == 0, project.text
    assert project.run(6, "--check_blur") == 0, project.text
    report = json.loads((project.out / "validation_report.json").read_text())["scenes"]["film"]
    assert report["blur"][0]["agreement"] > 0.95 and report["blur"][0]["frames"] == [0, 2, 5]
    assert project.run(6, "--check_blur", "--if_changed") == 0 and "nothing changed" in project.text
    folder = next(project.out.glob("film/bokeh_renders/set_00"))
    pictures = [path.read_bytes() for path in sorted(folder.glob("*.png"))]
    for path, data in zip(sorted(folder.glob("*.png")), reversed(pictures), strict=True):
        path.write_bytes(data)
    assert project.run(6) == 0, "files, labels and sizes are what they should be"
    assert project.run(6, "--check_blur") == 3
    assert "set 0: pictures stand at other frames' places" in project.text
    assert "frame 0 shows frame 5" in project.text and "05_render_and_labels.py" in project.text


def test_phase_1_notes_optical_blur_and_rejects_nothing(project: Project):
    ink = np.zeros((240, 320, 3), np.uint8)
    for x in range(10, 320, 20):
        ink[20:220, x : x + 8] = 255
    near = np.arange(320)[None, :, None] < 40
    sharp, shallow = ink, np.where(near, ink, cv2.GaussianBlur(ink, (0, 0), 3.0))
    assert blurred_share(sharp.astype(np.float32) / 255) < 0.01
    assert blurred_share(shallow.astype(np.float32) / 255) > 0.2
    assert blurred_share(np.full((32, 32, 3), 0.5, np.float32)) == 0
    write_scene(project.raw, "sharp", [sharp] * 4, depth=False)
    write_scene(project.raw, "shallow", [shallow] * 4, depth=False)
    assert project.run(1, "--min_frames", "4", "--check_blur") == 0
    noted = [line for line in project.text.splitlines() if "out of focus" in line]
    assert len(noted) == 1 and "shallow" in noted[0]
    index = json.loads(next(Path(project.out).glob("scene_index.json")).read_text())
    assert "rejected" not in project.text.split("0 rejected")[0] and "shallow" in json.dumps(index)
