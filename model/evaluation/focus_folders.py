"""Photographs of others with a label of their blur: binary masks, maps of sigma, or a second photograph that is sharp.

    masks    CUHK, DUT, CTCUG, EBD: a mask beside every photograph, in focus or not
    sigma    RTF, SYNDOF: a map of the Gaussian's standard deviation, in pixels times a factor
    pairs    RealBokeh: the same scene at f/22; the radius that makes it most like the photograph is the reference

Special: photographs and labels are matched by their names without endings, in two folders. Everything is brought to one width
first, the one that networks work at; radii shrink with it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from model.data.realbokeh import RealPair, find_pairs
from pipeline.errors import InputError, UsageError
from pipeline.media.convert import image_to_tensor
from pipeline.media.depth_readers import read_map
from pipeline.media.images import PICTURE_SUFFIXES, Picture, natural_key, read_picture
from pipeline.optics import render_lens_blur

DISC_OF_SIGMA = 2.0  # radius of the disc whose variance along an axis is that of the Gaussian
BLURRED_PX = 2.0  # stands for "out of focus" where a mask says no more
MASK_LEVEL = 127
CANDIDATES_PX = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.5, 7.0, 9.0, 12.0)
REFERENCE_WINDOW_PX = 9
TELLING = 2.0 / 255  # candidates that differ by less say nothing

FloatMap = npt.NDArray[np.float32]
BoolMap = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Marked:
    """A photograph and what is known of it, at the working width.

    Args:
        photo: (H, W, 3) uint8.
        radius_px: (H, W) the label; of a mask 0 and BLURRED_PX.
        known: (H, W) where there is a label.
        graded: the radii are measured, and not only in focus or out of it.
    """

    photo: Picture
    radius_px: FloatMap
    known: BoolMap
    graded: bool


@dataclass(frozen=True, kw_only=True)
class MarkedPhoto:
    """Its name and a way to read it; `read(width)` raises InputError for a file that cannot be used."""

    name: str
    read: Callable[[int], Marked]


def find_masks(images: Path, masks: Path, white_is_sharp: bool) -> list[MarkedPhoto]:
    """Photographs with a binary mask each.

    Raises:
        UsageError: no such folder, or not one photograph with a mask.
    """
    read = partial(_read_mask, white_is_sharp=white_is_sharp)
    return [MarkedPhoto(name=photo.stem, read=partial(read, photo, mask)) for photo, mask in _matched(images, masks)]


def find_sigmas(images: Path, maps: Path, px_per_level: float) -> list[MarkedPhoto]:
    """Photographs with a map of sigma each, an .npy file or a picture whose grey levels are sigma / px_per_level.

    Raises:
        UsageError: no such folder, or not one photograph with a map.
    """
    read = partial(_read_sigma, px_per_level=px_per_level)
    return [MarkedPhoto(name=photo.stem, read=partial(read, photo, found)) for photo, found in _matched(images, maps)]


def find_real_pairs(root: Path, split: str) -> list[MarkedPhoto]:
    """RealBokeh's photographs; UsageError where there are none."""
    return [MarkedPhoto(name=pair.name, read=partial(_read_pair, pair)) for pair in find_pairs(root, split).pairs]


def _matched(images: Path, labels: Path) -> Iterator[tuple[Path, Path]]:
    for folder in (images, labels):
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}")
    by_stem = {path.stem: path for path in labels.iterdir() if path.suffix.lower() in (*PICTURE_SUFFIXES, ".npy")}
    photos = [path for path in images.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES]
    pairs = [(path, by_stem[path.stem]) for path in photos if path.stem in by_stem]
    if not pairs:
        raise UsageError(
            f"{images} holds {len(photos)} photographs and {labels} {len(by_stem)} labels, of which none has the name of "
            "a photograph (without its ending)"
        )
    return iter(sorted(pairs, key=lambda pair: natural_key(pair[0].name)))


def _sized(photo: Picture, width: int) -> tuple[Picture, float]:
    """The photograph at no more than this width (0 for its own), and the factor of its radii."""
    height, full = photo.shape[:2]
    scale = min(1.0, width / full) if width else 1.0
    if scale == 1.0:
        return photo, scale
    size = (round(full * scale), max(4, round(height * scale)))
    return np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def _label_like(label: npt.NDArray[np.generic], photo: Picture, path: Path) -> FloatMap:
    """(h, w) of the photograph's shape, picked and not averaged: between two labels there is no third."""
    ratio = (label.shape[1] / label.shape[0]) / (photo.shape[1] / photo.shape[0])
    if not 0.97 < ratio < 1.03:
        raise InputError(
            f"{path} is {label.shape[1]}x{label.shape[0]}, of another shape than its photograph, "
            f"{photo.shape[1]}x{photo.shape[0]}"
        )
    size = (photo.shape[1], photo.shape[0])
    return np.asarray(cv2.resize(label.astype(np.float32), size, interpolation=cv2.INTER_NEAREST_EXACT), np.float32)


def _read_mask(photo_path: Path, mask_path: Path, width: int, *, white_is_sharp: bool) -> Marked:
    photo, _ = _sized(read_picture(photo_path)[0], width)
    white = _label_like(read_picture(mask_path)[0].max(axis=2), photo, mask_path) > MASK_LEVEL
    radius = np.where(white == white_is_sharp, 0.0, BLURRED_PX).astype(np.float32)
    return Marked(photo=photo, radius_px=radius, known=np.ones_like(white), graded=False)


def _read_levels(path: Path) -> npt.NDArray[np.generic]:
    """(H, W) numbers of an .npy file or grey levels of a picture, 16-bit ones included."""
    try:
        if path.suffix.lower() == ".npy":
            values = read_map(path)
        else:
            with Image.open(path) as image:
                values = np.asarray(
                    image if image.mode in ("L", "F") or image.mode.startswith("I") else image.convert("L")
                )
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if values.ndim != 2 or not np.isfinite(values).all() or values.min() < 0:
        raise InputError(f"{path} must hold an (H, W) map of finite numbers >= 0, got shape {values.shape}")
    return np.asarray(values)


def _read_sigma(photo_path: Path, map_path: Path, width: int, *, px_per_level: float) -> Marked:
    photo, scale = _sized(read_picture(photo_path)[0], width)
    sigma = _label_like(_read_levels(map_path), photo, map_path) * px_per_level
    radius = (DISC_OF_SIGMA * scale * sigma).astype(np.float32)
    return Marked(photo=photo, radius_px=radius, known=np.ones(radius.shape, bool), graded=True)


def _read_pair(pair: RealPair, width: int) -> Marked:
    sharp, photo = (_sized(read_picture(path)[0], width)[0] for path in (pair.sharp_path, pair.bokeh_path))
    if sharp.shape != photo.shape:
        raise InputError(f"{pair.bokeh_path} and {pair.sharp_path} differ in size")
    radius, known = reference_radius(sharp, photo)
    return Marked(photo=photo, radius_px=radius, known=known, graded=True)


@torch.inference_mode()
def reference_radius(sharp: Picture, photo: Picture) -> tuple[FloatMap, BoolMap]:
    """The radius at which a sharp picture becomes most like a photograph of the same scene, place by place.

    Exposure and vignetting differ between two apertures, so local means are made equal first. A wrong radius near an
    occlusion edge is part of this reference: it knows one blur at a place.

    Args:
        sharp, photo: (H, W, 3) uint8.

    Returns:
        (H, W) radius in pixels, and where the candidates differ enough for it to be believed.
    """
    frame, target = (image_to_tensor(one)[None] for one in (sharp, photo))
    size = frame.shape[-2:]
    differences = []
    for radius in CANDIDATES_PX:
        made = render_lens_blur(frame, torch.full((1, 1, *size), radius)) if radius else frame
        made = made * (_mean(target, 31) + 1e-3) / (_mean(made, 31) + 1e-3)
        differences.append(_mean((made - target).abs().mean(1, keepdim=True), REFERENCE_WINDOW_PX)[0, 0])
    stacked = torch.stack(differences)
    known = (stacked.amax(0) - stacked.amin(0)) > TELLING
    radii = torch.tensor(CANDIDATES_PX)[stacked.argmin(0)]
    return radii.numpy(), known.numpy()


def _mean(planes: torch.Tensor, window: int) -> torch.Tensor:
    return functional.avg_pool2d(planes, window, stride=1, padding=window // 2, count_include_pad=False)
