"""Sheets of images for people: a row per clip, with names above the columns."""

from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt

from pipeline.media.images import Picture, encode_png

_GAP = 4
_HEADER = 22
SHEET_ROWS = 8  # that an evaluation shows
_MAX_WIDTH = 480  # of one image


def colour_depth(depth_m: npt.NDArray[np.float32], near_m: float = 0.5, far_m: float = 100.0) -> Picture:
    """(H, W) metres -> colours of log depth with fixed ends, so that two sheets can be compared: bright is near."""
    share = np.log(np.clip(depth_m, near_m, far_m) / near_m) / np.log(far_m / near_m)
    lookup = np.asarray(matplotlib.colormaps["magma"](np.arange(256), bytes=True)[:, :3], np.uint8)
    return lookup[np.rint((1 - share) * 255).astype(np.uint8)]


def sheet_png(rows: Sequence[tuple[str, Sequence[Picture]]], columns: Sequence[str]) -> bytes:
    """A PNG of labelled rows.

    Args:
        rows: (label, one image per column).
        columns: headings.
    """
    bands = []
    for label, images in rows:
        assert len(images) == len(columns), "one image per column"
        small = [_fit(image) for image in images]
        height = max(image.shape[0] for image in small)
        texts = [f"{column}   {label}" if number == 0 else column for number, column in enumerate(columns)]
        bands.append(np.hstack([_titled(image, text, height) for image, text in zip(small, texts, strict=True)]))
    width = max(band.shape[1] for band in bands)
    padded = [np.pad(band, ((0, 0), (0, width - band.shape[1]), (0, 0)), constant_values=20) for band in bands]
    return encode_png(np.vstack(padded))


def _fit(image: Picture) -> Picture:
    height, width = image.shape[:2]
    if width <= _MAX_WIDTH:
        return image
    size = (_MAX_WIDTH, max(1, round(height * _MAX_WIDTH / width)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _titled(image: Picture, text: str, height: int) -> Picture:
    canvas = np.full((height + _HEADER + _GAP, image.shape[1] + _GAP, 3), 20, np.uint8)
    canvas[_HEADER : _HEADER + image.shape[0], : image.shape[1]] = image
    cv2.putText(canvas, text, (3, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (225, 225, 225), 1, cv2.LINE_AA)
    return canvas
