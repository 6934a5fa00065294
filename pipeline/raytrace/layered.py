"""Pictures on planes through the lens: a cut-out before a background, the truth for training pairs made on the fly.

Each ray picks a point of the opening and a point of the pixel, meets the planes from the nearest on, and gathers linear light
by their alpha. What it is not: light that planes reflect, or anything that is not in the pictures; beyond their margin the
outermost pixels go on.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.optics import Aperture, Lens, disparity_gain_px
from pipeline.raytrace.geometry import F32
from pipeline.raytrace.lens_samples import inside, strata, to_opening
from pipeline.raytrace.render import check_counts
from pipeline.raytrace.world import RaytraceError
from pipeline.seeds import stable_seed

_RAYS_PER_BATCH = 250_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Plane:
    """A picture in space as the pinhole sees it. Disparity that is affine in the picture is a flat plane in space.

    Args:
        linear: (H, W, 3) float32 linear light, the margin on each side included.
        alpha: (H, W) float32 in [0, 1]; None for a plane that hides all behind it.
        disparity: 1 / depth in the middle of the picture, 1/m, >= 0.
        slope: change of it per pixel to the right and down, 1/m; (0, 0) faces the camera.
    """

    linear: F32
    alpha: F32 | None = None
    disparity: float
    slope: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.linear.ndim != 3 or self.linear.shape[2] != 3:
            raise RaytraceError(f"linear must be (H, W, 3), got {self.linear.shape}")
        if self.alpha is not None:
            if self.alpha.shape != self.linear.shape[:2]:
                raise RaytraceError(f"alpha must be {self.linear.shape[:2]} as its picture, got {self.alpha.shape}")
            if not (self.alpha.min() >= 0 and self.alpha.max() <= 1):
                raise RaytraceError(f"alpha must be in [0, 1], got {self.alpha.min():g} to {self.alpha.max():g}")
        if self.range()[0] < 0 or not math.isfinite(self.disparity):
            raise RaytraceError(f"disparity must be >= 0 all over the picture, got {self.range()[0]:g} at its least")

    def range(self) -> tuple[float, float]:
        """Least and largest disparity over the picture, 1/m."""
        height, width = self.linear.shape[:2]
        reach = abs(self.slope[0]) * width / 2 + abs(self.slope[1]) * height / 2
        return self.disparity - reach, self.disparity + reach


def render_layers(
    planes: Sequence[Plane],
    lens: Lens,
    aperture: Aperture | None = None,
    *,
    px_per_mm: float,
    margin_px: int,
    samples: int = 256,
    seed: int = 0,
    workers: int = 2,
) -> F32:
    """What the lens records of planes, linear light.

    A point with defocus c (`defocus_px`) is seen c u px away through the lens point u, so a pixel at q sees, of a plane with
    disparity d(x) = d0 + b x, the point x with x + K (1/S - d(x)) u = q: linear in x, solved exactly.

    Args:
        planes: from the nearest to the farthest, pictures of one size; the last has no alpha.
        lens: focused at S; K is its `disparity_gain_px`.
        aperture: shape of the opening, a disc if None.
        px_per_mm: of the full frame.
        margin_px: how much larger than the photograph the pictures are on each side; the largest blur radius is enough.
        samples: rays per pixel, >= 1, stratified over the opening and, independently, over the pixel.
        seed: of the jitter within strata.
        workers: threads; the result does not depend on it.

    Returns:
        (H - 2 margin, W - 2 margin, 3) float32 linear light.

    Raises:
        RaytraceError: planes of different sizes, in the wrong order, or none that hides what is behind it.
    """
    height, width = _checked(planes, margin_px)
    check_counts(width=width, height=height, samples=samples, workers=workers)
    opening, gain_px = aperture or Aperture(), disparity_gain_px(lens, px_per_mm)
    lens_cells = strata(samples)
    order = np.random.Generator(np.random.PCG64(stable_seed("layers", seed, samples))).permutation(samples)
    pixel_cells = lens_cells[order]
    batch = max(1, _RAYS_PER_BATCH // (width * height))
    # From the middle of the picture, x right and y down, px.
    columns = np.arange(width, dtype=np.float32)[None, None, :] - width / 2
    rows = np.arange(height, dtype=np.float32)[None, :, None] - height / 2

    def trace(start: int) -> F32:
        chosen = slice(start, min(samples, start + batch))
        rng = np.random.Generator(np.random.PCG64(stable_seed("layers", seed, samples, start)))
        size = (chosen.stop - start, height, width)
        right, up = to_opening(*inside(lens_cells[chosen], rng, size), opening)
        sub_x, sub_y = inside(pixel_cells[chosen], rng, size)
        at = (columns + sub_x, rows + sub_y)
        light = np.zeros((*size, 3), np.float32)
        passing = np.ones(size, np.float32)
        for plane in planes:
            index = _seen(plane, at, (right, -up), 1 / lens.focus_m, gain_px)
            share = passing if plane.alpha is None else passing * plane.alpha[index]
            light += share[..., None] * plane.linear[index]
            passing = passing - share
        return light.sum(axis=0)

    picture = np.zeros((height, width, 3), np.float32)
    with ThreadPoolExecutor(workers) as pool:
        for part in pool.map(trace, range(0, samples, batch)):  # in order: sums do not depend on timing
            picture += part
    return picture / np.float32(samples)


def _seen(
    plane: Plane, at: tuple[F32, F32], lens_point: tuple[F32, F32], focus: float, gain_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) of the plane's pixel that each ray meets."""
    (x, y), (u, v), (b, c) = at, lens_point, plane.slope
    defocus = np.float32(gain_px * (focus - plane.disparity))
    along = np.float32(gain_px) * (b * u + c * v)
    slant = (b * x + c * y - defocus * (b * u + c * v)) / (1 - along)  # disparity there, less that of the middle
    shift = defocus - np.float32(gain_px) * slant
    height, width = plane.linear.shape[:2]
    row = np.floor(y - shift * v + height / 2).astype(np.intp)
    column = np.floor(x - shift * u + width / 2).astype(np.intp)
    return np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)


def _checked(planes: Sequence[Plane], margin_px: int) -> tuple[int, int]:
    """(height, width) of the photograph."""
    if not planes or planes[-1].alpha is not None:
        raise RaytraceError("the last of the planes must hide what is behind it: it must have no alpha")
    sizes = {plane.linear.shape[:2] for plane in planes}
    if len(sizes) != 1:
        raise RaytraceError(f"the planes' pictures must be of one size, got {sorted(sizes)}")
    for nearer, farther in pairwise(planes):
        if nearer.range()[0] < farther.range()[1]:
            raise RaytraceError(
                f"planes must be given from the nearest and must not cross: one reaches back to {nearer.range()[0]:g} 1/m, "
                f"the next forward to {farther.range()[1]:g} 1/m"
            )
    height, width = (side - 2 * margin_px for side in sizes.pop())
    if margin_px < 0 or height < 1 or width < 1:
        raise RaytraceError(f"margin_px must be >= 0 and leave a photograph, got {margin_px}")
    return height, width
