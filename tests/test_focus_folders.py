"""Photographs of others with masks, maps of sigma or a sharp companion: what is read, what is refused, what is measured."""

from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import texture

from model.evaluation.focus_baselines import FocusBaselines
from model.evaluation.focus_folders import find_masks, find_sigmas, reference_radius
from model.focusmamba import FocusMamba, FocusMambaConfig
from model.focusmamba.folders import add_folder_flags, folder_photos, measure_photo
from pipeline.arguments import ArgumentParser
from pipeline.errors import InputError, UsageError
from pipeline.media.convert import image_to_tensor, tensor_to_image
from pipeline.optics import render_lens_blur

TINY = FocusMambaConfig(channels=16, heads=2, head_dim=8, blocks=1, stem_channels=8, middle_channels=8)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two photographs, sharp on the left, with a mask and a map of sigma each."""
    for name in ("image", "gt", "sigma"):
        (tmp_path / name).mkdir()
    left = np.zeros((64, 96), np.uint8)
    left[:, :48] = 255
    for number in (1, 2):
        sharp = texture(64, 96)
        photo = np.where(left[..., None] > 0, sharp, cv2.GaussianBlur(sharp, (0, 0), 3.0))
        cv2.imwrite(str(tmp_path / "image" / f"{number:02d}.jpg"), photo, [cv2.IMWRITE_JPEG_QUALITY, 95])
        cv2.imwrite(str(tmp_path / "gt" / f"{number:02d}.png"), left)
        np.save(tmp_path / "sigma" / f"{number:02d}.npy", np.where(left > 0, 0.0, 1.5))
    return tmp_path


def flags(*given: object) -> Namespace:
    parser = ArgumentParser()
    add_folder_flags(parser)
    return parser.parse_args([str(one) for one in given])


def test_masks_are_read_either_way_and_at_the_working_width(tree: Path):
    first, second = find_masks(tree / "image", tree / "gt", white_is_sharp=True)
    assert (first.name, second.name) == ("01", "02")
    marked = first.read(48)
    assert marked.photo.shape == (32, 48, 3) and not marked.graded
    assert float(marked.radius_px[:, :24].max()) == 0 and float(marked.radius_px[:, 24:].min()) > 1
    turned = find_masks(tree / "image", tree / "gt", white_is_sharp=False)[0].read(0)
    assert turned.photo.shape == (64, 96, 3) and float(turned.radius_px[:, :48].min()) > 1


def test_sigma_becomes_the_radius_of_a_disc_at_the_working_width(tree: Path):
    (marked, _) = (one.read(48) for one in find_sigmas(tree / "image", tree / "sigma", 2.0))
    # sigma 1.5 * 2 px at full width is a disc of radius 6 px, 3 px at half of it
    assert marked.graded and float(marked.radius_px[:, 24:].mean()) == pytest.approx(3.0)
    levels = np.full((64, 96), 6000, np.uint16)
    cv2.imwrite(str(tree / "sigma" / "01.png"), levels)
    (tree / "sigma" / "01.npy").unlink()
    assert float(find_sigmas(tree / "image", tree / "sigma", 0.001)[0].read(0).radius_px.mean()) == pytest.approx(12.0)


def test_the_radius_that_makes_a_sharp_picture_its_photograph_is_found_despite_exposure():
    sharp = texture(40, 64)
    signed = torch.full((1, 1, 40, 64), 1.5)
    signed[..., 32:] = 4.0
    photo = tensor_to_image(render_lens_blur(image_to_tensor(sharp)[None], signed)[0] * 0.8)
    radius, known = reference_radius(sharp, photo)
    assert known.mean() > 0.9
    assert float(np.median(radius[8:-8, 6:24])) == 1.5 and float(np.median(radius[8:-8, 40:58])) == 4.0
    flat = np.full((32, 32, 3), 90, np.uint8)
    assert not reference_radius(flat, flat)[1].any(), "without texture nothing is known"


def test_every_folder_is_a_row_of_the_table(tree: Path):
    given = flags(
        "--masks", f"CUHK={tree / 'image'},{tree / 'gt'}", "--sigma_maps", f"RTF={tree / 'image'},{tree / 'sigma'}"
    )  # fmt: skip
    photos = [np.random.default_rng(0).random((32, 48, 3)).astype(np.float32)]
    baselines = FocusBaselines.fit(photos, [np.full((32, 48), 2.0, np.float32)])
    torch.manual_seed(0)
    net = FocusMamba(TINY).eval()
    found = {
        suffix: measure_photo(net, photo, suffix, 96, baselines, "cpu")
        for suffix, photo in folder_photos(given, "test")
    }
    assert set(found) == {", CUHK", ", RTF"}
    mask, graded = found[", CUHK"].tallies, found[", RTF"].tallies
    assert {"focusmamba, CUHK", "constant, CUHK", "Zhuo-Sim, CUHK"} <= set(mask)
    assert mask["Laplacian energy, CUHK"].mean("auroc") > 0.9 and mask["focusmamba, CUHK"].mean("mae_px") is None
    assert graded["constant, RTF"].mean("mae_px") == pytest.approx(1.5)  # 2 px against 0 and 3
    assert len(found[", CUHK"].images) == 4


def test_what_cannot_be_measured_on_is_named(tree: Path):
    for given, message in (
        (("--masks", f"{tree}/image,{tree}/gt"), "takes NAME=VALUE"),
        (("--masks", f"A={tree}/image"), "two folders"),
        (("--masks", f"A={tree}/image,{tree}/none"), "there is no folder"),
        (("--blur_masks", f"A={tree}/image,{tree}"), "of which none has the name"),
        (("--sigma_unit", 0), "--sigma_unit must be finite and > 0"),
        (("--folder_width", 8), "--folder_width must be 0 or at least 32"),
        (("--realbokeh", tree), "has no test/in"),
    ):
        with pytest.raises(UsageError, match=message):
            list(folder_photos(flags(*given), "test"))
    cv2.imwrite(str(tree / "gt" / "01.png"), np.zeros((96, 64), np.uint8))
    with pytest.raises(InputError, match="of another shape than its photograph"):
        find_masks(tree / "image", tree / "gt", white_is_sharp=True)[0].read(0)
    np.save(tree / "sigma" / "01.npy", np.full((64, 96), np.nan))
    with pytest.raises(InputError, match="finite numbers >= 0"):
        find_sigmas(tree / "image", tree / "sigma", 1.0)[0].read(0)
