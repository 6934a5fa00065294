"""Regions of interest for focus training: a random box, or the box that attracts the eye.

Saliency is the spectral residual (Hou and Zhang, CVPR 2007): what is left of the log amplitude spectrum after its local
mean is taken away, back in the image. It needs no weights and takes a millisecond on a 64-pixel image.
"""

from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError
from pipeline.media.images import Picture

RoiKind = Literal["full", "random", "saliency"]
_SALIENCY_WIDTH = 64
_SIZE_RANGE = (0.2, 0.6)  # of each side, for random boxes and saliency boxes alike
_CANDIDATES = 16  # a saliency box is chosen among this many sizes


def check_kind(kind: str) -> None:
    """UsageError unless `kind` is one of RoiKind."""
    if kind not in get_args(RoiKind):
        raise UsageError(f"roi must be one of {', '.join(get_args(RoiKind))}, got {kind!r}")


def choose_box(kind: RoiKind, frame: Picture, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A box in a frame: (left, top, right, bottom) in pixels, half-open, never empty.

    Args:
        kind: "full" the frame; "random" a box with sides of 20 to 60 % of the frame's, anywhere; "saliency" the one among
            random sizes with the most saliency for its area.
        frame: (H, W, 3) uint8.
        rng: everything random comes from it.
    """
    check_kind(kind)
    height, width = frame.shape[:2]
    if kind == "full":
        return 0, 0, width, height
    if kind == "random":
        box_width, box_height = _draw_size(width, height, rng)
        left, top = int(rng.integers(width - box_width + 1)), int(rng.integers(height - box_height + 1))
        return left, top, left + box_width, top + box_height
    table = np.pad(saliency(frame).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    best, box = -1.0, (0, 0, width, height)
    for _ in range(_CANDIDATES):
        box_width, box_height = _draw_size(width, height, rng)
        sums = table[box_height:, box_width:] - table[:-box_height, box_width:]
        sums = sums - table[box_height:, :-box_width] + table[:-box_height, :-box_width]
        top, left = (int(i) for i in np.unravel_index(int(sums.argmax()), sums.shape))
        # The root of the area: a small box does not win with one bright spot, nor a large one by its size.
        score = float(sums[top, left]) / (box_width * box_height) ** 0.5
        if score > best:
            best, box = score, (left, top, left + box_width, top + box_height)
    return box


def _draw_size(width: int, height: int, rng: np.random.Generator) -> tuple[int, int]:
    shares = rng.uniform(*_SIZE_RANGE, size=2)
    return max(1, round(width * shares[0])), max(1, round(height * shares[1]))


def saliency(frame: Picture) -> npt.NDArray[np.float64]:
    """(H, W) in [0, 1], 1 at the most salient pixel; zero for an image without any structure."""
    height, width = frame.shape[:2]
    small_size = (_SALIENCY_WIDTH, max(2, round(_SALIENCY_WIDTH * height / width)))
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    small = np.asarray(cv2.resize(grey, small_size, interpolation=cv2.INTER_AREA), np.float64)
    if np.ptp(small) < 1:
        return np.zeros((height, width))
    spectrum = np.fft.fft2(small)
    log_amplitude = np.log(np.abs(spectrum) + 1e-9)
    residual = log_amplitude - cv2.blur(log_amplitude, (3, 3), borderType=cv2.BORDER_REFLECT)
    found = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    smooth = cv2.GaussianBlur(found, (0, 0), 2.5)
    full = np.asarray(cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR), np.float64)
    return full / max(float(full.max()), 1e-12)
