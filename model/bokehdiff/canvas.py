"""Pictures on the canvas of a pair: a background that fills it, and a cut-out somewhere on it. Shapes are kept."""

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.media.convert import image_to_unit
from pipeline.media.images import read_cutout, read_picture

Floats = npt.NDArray[np.float32]


@lru_cache(maxsize=64)
def background(path: Path) -> npt.NDArray[np.uint8]:
    return read_picture(path)[0]


@lru_cache(maxsize=64)
def cutout(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Cropped to where it is."""
    picture, alpha = read_cutout(path)
    rows, columns = (np.nonzero(alpha.any(axis=axis))[0] for axis in (1, 0))
    where = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return picture[where], alpha[where]


def filling(picture: npt.NDArray[np.uint8], side: int, rng: np.random.Generator, flip: bool) -> Floats:
    """A square window of the picture, its shape kept."""
    height, width = picture.shape[:2]
    scale = side / min(height, width)
    size = (max(side, round(width * scale)), max(side, round(height * scale)))
    resized = _resized(image_to_unit(picture), size)
    left, top = int(rng.integers(size[0] - side + 1)), int(rng.integers(size[1] - side + 1))
    window = resized[top : top + side, left : left + side]
    return window[:, ::-1] if flip and rng.random() < 0.5 else window


def placed(
    piece: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]], side: int, rng: np.random.Generator, flip: bool
) -> tuple[Floats, Floats]:
    """The cut-out somewhere on a canvas, and its alpha."""
    picture: Floats = image_to_unit(piece[0])
    alpha: Floats = np.asarray(piece[1], np.float32) / np.float32(255)
    if flip and rng.random() < 0.5:
        picture, alpha = picture[:, ::-1], alpha[:, ::-1]
    height, width = alpha.shape
    scale = float(rng.uniform(0.5, 1)) * side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Where it is transparent a cut-out often is black: weigh by alpha, or edges darken as it shrinks.
    weighed, alpha = _resized(picture * alpha[..., None], size), _resized(alpha, size)
    picture = np.asarray(weighed / np.maximum(alpha, np.float32(1e-4))[..., None], np.float32)
    left, top = (round(side / 2 - length / 2 + float(rng.uniform(-1, 1)) * side / 4) for length in size)
    canvas, cover = np.zeros((side, side, 3), np.float32), np.zeros((side, side), np.float32)
    into = np.s_[max(0, top) : min(side, top + size[1]), max(0, left) : min(side, left + size[0])]
    of = np.s_[max(0, -top) : min(size[1], side - top), max(0, -left) : min(size[0], side - left)]
    canvas[into], cover[into] = np.clip(picture[of], 0, 1), np.clip(alpha[of], 0, 1)
    return canvas, cover


def _resized(values: Floats, size: tuple[int, int]) -> Floats:
    smaller = size[0] < values.shape[1]
    resized = cv2.resize(values, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return np.asarray(np.clip(resized, 0, 1), np.float32)
