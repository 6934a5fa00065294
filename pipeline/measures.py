"""How alike two images are, for phases, ray tracer and networks alike: one PSNR."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt


def psnr_of_mse(mse: float, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio, 10 log10(peak^2 / mse), in dB; infinity for equal images."""
    return math.inf if mse == 0 else -10 * math.log10(mse / peak**2)


def psnr(first: npt.NDArray[Any], second: npt.NDArray[Any], peak: float = 1.0) -> float:
    """PSNR of two arrays of one shape, their squared error averaged in float64, in dB; infinity when they are equal.

    Args:
        first, second: of one shape, in [0, peak].
        peak: 255 for uint8 levels.
    """
    return psnr_of_mse(float(np.mean((first.astype(np.float64) - second) ** 2)), peak)
