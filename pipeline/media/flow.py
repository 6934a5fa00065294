"""Optical flow between two frames, and where it can be believed: for averaging over time, and for comparing over time."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.media.images import Picture

FloatMap = npt.NDArray[np.float32]

# Forward-backward mismatch that is still the same point: 0.05 of the motion plus half a pixel
# (Sundaram, Brox, Keutzer, ECCV 2010, use 0.01 of the squared motion + 0.5).
CONSISTENCY_SHARE = 0.05
CONSISTENCY_PX = 0.5
# Raw colours that differ by more than this after warping (8-bit values, 3x3 mean) are not the same point.
COLOUR_TOLERANCE = 12


@dataclass(frozen=True)
class Flow:
    """Motion from one frame to another, px, and where it can be believed."""

    vectors: FloatMap  # (H, W, 2): the point at x in the first frame is at x + vectors(x) in the second
    trusted: npt.NDArray[np.bool_]  # (H, W)


def _estimate(first: Any, second: Any) -> FloatMap:
    # One object per call and one thread: DIS cuts the picture into one stripe per thread, which changes the result.
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow: FloatMap = dis.calc(first, second, None)
    return flow


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> tuple[FloatMap, FloatMap]:
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x, y


def _targets(vectors: FloatMap) -> tuple[FloatMap, FloatMap]:
    x, y = _grid(*vectors.shape[:2])
    return x + vectors[..., 0], y + vectors[..., 1]


def warp(picture: npt.NDArray[Any], vectors: FloatMap) -> npt.NDArray[Any]:
    """Pull `picture` onto the frame that `vectors` starts from. Cubic: linear weights would soften every warp."""
    return cv2.remap(picture, *_targets(vectors), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def flow_pair(first: Picture, second: Picture) -> tuple[Flow, Flow]:
    """Optical flow in both directions with its trust mask.

    Args:
        first, second: (H, W, 3) uint8 *raw* frames: the engine's own flicker must not steer the flow.

    Returns:
        flow first -> second and second -> first. A pixel is trusted where the way there and back returns to within
        0.5 px + 5 % of the motion, the target lies inside the frame, and the colours agree.
    """
    grey_first, grey_second = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second))
    forward, backward = _estimate(grey_first, grey_second), _estimate(grey_second, grey_first)
    return (
        Flow(forward, _trusted(first, second, forward, backward)),
        Flow(backward, _trusted(second, first, backward, forward)),
    )


def _trusted(first: Picture, second: Picture, there: FloatMap, back: FloatMap) -> npt.NDArray[np.bool_]:
    height, width = there.shape[:2]
    x, y = _targets(there)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    returned: Any = cv2.remap(back, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    returned += there
    mismatch = cv2.magnitude(*cv2.split(returned))
    motion = cv2.magnitude(*cv2.split(there))
    warped = cv2.remap(cv2.blur(second, (3, 3)), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    red, green, blue = cv2.split(cv2.absdiff(warped, cv2.blur(first, (3, 3))))
    agrees = cv2.max(cv2.max(red, green), blue) <= COLOUR_TOLERANCE
    trusted: npt.NDArray[np.bool_] = inside & (mismatch <= CONSISTENCY_PX + CONSISTENCY_SHARE * motion) & agrees
    return trusted
