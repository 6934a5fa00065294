"""Forward warping: what one frame knows of a later instant, carried there along its own optical flow.

A backward warp needs the motion *of the instant that is made*, which nobody has measured. The motion of the given frames is
measured, and carrying it along itself, a share t of the way, gives it at the instant; where nothing arrives, that frame did not
see what appears there.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

FloatMap = npt.NDArray[np.float32]

_FULL = 0.5  # weight per pixel from which on a place counts as seen


def splat(values: FloatMap, flow: FloatMap, weight: FloatMap) -> tuple[FloatMap, FloatMap]:
    """Carry values along a flow, bilinearly, as a weighted mean of what arrives.

    Args:
        values: (H, W, C).
        flow: (H, W, 2), where each pixel goes, px.
        weight: (H, W) >= 0: what counts more where several arrive (0 leaves a pixel behind).

    Returns:
        (H, W, C) values, 0 where nothing arrives, and (H, W) the weight that arrived.
    """
    height, width = weight.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + flow[..., 0], y + flow[..., 1]
    left, top = np.floor(x), np.floor(y)
    total = np.zeros(height * width)
    sums = np.zeros((values.shape[-1], height * width))
    for right in (0, 1):
        for down in (0, 1):
            column, row = (left + right).astype(np.int64), (top + down).astype(np.int64)
            share = (1 - abs(x - left - right)) * (1 - abs(y - top - down)) * weight
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (share > 0)
            place, share = row[inside] * width + column[inside], share[inside]
            total += np.bincount(place, share, height * width)
            for channel, summed in enumerate(sums):
                summed += np.bincount(place, share * values[..., channel][inside], height * width)
    mean = np.divide(sums, total, out=np.zeros_like(sums), where=total > 1e-6)
    return mean.T.reshape(values.shape).astype(np.float32), total.reshape(height, width).astype(np.float32)


def fill(values: FloatMap, known: FloatMap) -> FloatMap:
    """Values where `known` is 0 from those around, coarse to fine: a pyramid of weighted means, pulled up and pushed down.

    Args:
        values: (H, W, C).
        known: (H, W) in [0, 1], how far each value is to be believed.
    """
    height, width = known.shape
    if min(height, width) < 2:
        return values
    half = ((width + 1) // 2, (height + 1) // 2)
    weight = cv2.resize(known, half, interpolation=cv2.INTER_AREA)
    pulled: Any = cv2.resize(values * known[..., None], half, interpolation=cv2.INTER_AREA)
    pulled = pulled / np.maximum(weight, 1e-6)[..., None]
    pushed = fill(pulled, np.minimum(weight * 4, 1))  # one of four known pixels is as good as four
    up: Any = cv2.resize(pushed, (width, height), interpolation=cv2.INTER_LINEAR)
    return values * known[..., None] + up * (1 - known[..., None])


def seen(weight: FloatMap) -> FloatMap:
    """(H, W) in [0, 1]: how far a place was reached by what was carried."""
    return np.clip(weight / _FULL, 0, 1)
