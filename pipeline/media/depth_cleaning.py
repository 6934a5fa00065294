"""Depth made fit for a lens: holes filled, rounding smoothed, and edges without pixels that lie on neither side.

Special: a renderer takes depth at its word, and a strong lens shows every fault of it: the steps of 8-bit disparity
as contour lines, and a soft edge between a near and a far surface as a sharp thread wherever it crosses the focus.

Shape letters: H, W = picture.
"""

from typing import Any

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from pipeline.errors import InputError
from pipeline.media.delivered_depth import DeliveredDepth
from pipeline.media.depth_files import Depth
from pipeline.media.depth_readers import MAP_SUFFIXES, read_map

NEAREST_M, FARTHEST_M = 0.01, 1000.0  # as phase 3 stores it: beyond is sky
_PASSES, _SIGMA_PX = 6, 3.0
_EDGE_PX, _AROUND_PX = 7, 13  # soft edges of estimated depth are a few pixels wide
_SLOPE = 1.4  # of a slope the wider window sees 13 / 7 = 1.86 times as much, of an edge as much


def filled(depth_m: Depth) -> Depth:
    """Unknown pixels (NaN, <= 0) take the depth of the nearest known one; clamped to [0.01, 1000] m, infinity too.

    Args:
        depth_m: (H, W) metres.

    Raises:
        InputError: nothing is known.
    """
    known = depth_m > 0
    if not known.any():
        raise InputError("a depth map without any valid pixel")
    if not known.all():
        rows, columns = distance_transform_edt(~known, return_distances=False, return_indices=True)
        depth_m = depth_m[rows, columns]
    return np.clip(depth_m, NEAREST_M, FARTHEST_M).astype(np.float32, copy=False)


def rounding_step(depth: DeliveredDepth) -> float:
    """The step of 8-bit disparity in 1/m; 0 for depth that is finer, or not linear in its inverse."""
    path = depth.files()[0]
    if depth.kind == "depth" or path.suffix.lower() not in MAP_SUFFIXES or read_map(path).dtype != np.uint8:
        return 0.0
    low, high = depth.statement.metres(np.array([[100, 101]], np.uint8))[0].tolist()
    return abs(1 / low - 1 / high)


def unrounded(depth_m: Depth, step: float) -> Depth:
    """Depth that was rounded in inverse metres becomes smooth again, as far as the rounding leaves open.

    Blurred again and again, each time held within half a step of what was delivered: slopes become slopes, and an edge stays
    where it is.

    Args:
        depth_m: (H, W) metres, finite.
        step: of the rounding, 1/m.
    """
    given: Any = (1 / depth_m).astype(np.float32)
    smooth = given
    for _ in range(_PASSES):
        smooth = np.clip(cv2.GaussianBlur(smooth, (0, 0), _SIGMA_PX), given - step / 2, given + step / 2)
    return (1 / smooth).astype(np.float32)


def crisp(depth_m: Depth, smallest: float) -> Depth:
    """Pixels in the middle of a soft edge go to the side that they are closer to.

    Args:
        depth_m: (H, W) metres, finite.
        smallest: a step of inverse depth, 1/m, from which on it shows.

    Returns:
        (H, W) metres; slopes and everything else unchanged.
    """
    inverse: Any = (1 / depth_m).astype(np.float32)
    low, high = _ends(inverse, _EDGE_PX)
    wide_low, wide_high = _ends(inverse, _AROUND_PX)
    edge = (high - low > smallest) & (wide_high - wide_low < _SLOPE * (high - low))
    nearer_side = np.where(inverse - low < high - inverse, low, high)
    return np.where(edge, 1 / nearer_side, depth_m).astype(np.float32)


def _ends(values: Any, side_px: int) -> tuple[Any, Any]:
    window = np.ones((side_px, side_px), np.uint8)
    return cv2.erode(values, window), cv2.dilate(values, window)
