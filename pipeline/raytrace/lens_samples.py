"""Where rays cross the lens: strata of equal area on the disc or polygon, one per sample, jittered per pixel."""

import math
from functools import lru_cache

import numpy as np
import torch

from pipeline.optics import Aperture
from pipeline.raytrace.geometry import F32, F64


def strata(count: int) -> F64:
    """Split the unit square into `count` cells of equal area, nearly square, for any count.

    Args:
        count: how many, >= 1.

    Returns:
        (count, 4) x, y, width, height of each cell, row by row; the areas are all 1 / count.
    """
    rows = max(1, math.isqrt(count))
    per_row = [count // rows + (1 if row < count % rows else 0) for row in range(rows)]
    cells, y = [], 0.0
    for number in per_row:
        height = number / count
        cells += [(column / number, y, 1 / number, height) for column in range(number)]
        y += height
    return np.array(cells, dtype=np.float64)


@lru_cache(maxsize=32)
def _angles(aperture: Aperture) -> tuple[F64, F64]:
    """Cumulative area of the opening over the angle: 4,097 angles in [0, 2 pi] and shares in [0, 1]."""
    angle = np.linspace(0, 2 * np.pi, 4097)
    radius = aperture.outline(torch.from_numpy(angle)).numpy()
    slices = (radius[1:] ** 2 + radius[:-1] ** 2) / 2
    share = np.concatenate([[0.0], np.cumsum(slices)])
    return angle, share / share[-1]


def opening_area(aperture: Aperture) -> float:
    """Area of the opening in units of the full radius squared: pi for a disc."""
    angle, _ = _angles(aperture)
    radius = aperture.outline(torch.from_numpy(angle)).numpy()
    return float(np.trapezoid(radius**2 / 2, angle))


def to_opening(a: F32, b: F32, aperture: Aperture) -> tuple[F32, F32]:
    """Map the unit square onto the opening so that equal areas stay equal.

    The concentric map (Shirley and Chiu 1997) brings square cells to the disc without long thin ones; a polygon then
    re-spaces the angles by the area under its outline and scales the radius by the outline.

    Args:
        a, b: any shape, in [0, 1].
        aperture: disc or polygon.

    Returns:
        Two arrays, x right and y up as seen in the picture, in units of the full opening's radius.
    """
    u, v = 2 * a - 1, 2 * b - 1
    wide = np.abs(u) > np.abs(v)
    radius = np.where(wide, u, v)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(wide, v, u) / radius
    quarter = np.float32(np.pi / 4) * np.nan_to_num(ratio)
    angle = np.where(wide, quarter, np.float32(np.pi / 2) - quarter).astype(np.float32)
    if aperture.blades:
        angle = np.where(radius < 0, angle + np.float32(np.pi), angle) % np.float32(2 * np.pi)
        grid, share = _angles(aperture)
        angle = np.interp(angle / (2 * np.pi), share, grid).astype(np.float32)
        radius = np.abs(radius) * aperture.outline(torch.from_numpy(angle)).numpy()
    return (radius * np.cos(angle)).astype(np.float32), (radius * np.sin(angle)).astype(np.float32)


def inside(cells: F64, rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[F32, F32]:
    """A random point in each stratum for every pixel: x and y, each (count, H, W), for cells (count, 4)."""
    x, y, w, h = (cells[:, i].astype(np.float32)[:, None, None] for i in range(4))
    return x + w * rng.random(shape, dtype=np.float32), y + h * rng.random(shape, dtype=np.float32)
