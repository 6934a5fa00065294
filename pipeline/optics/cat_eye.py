"""Cat's eyes: towards the corners the barrel's front rim shades part of the opening, and highlights become lemons.

Special: mechanical vignetting as it is. A place in the picture sees the rim displaced in proportion to its distance from the
middle, away from the side it lies on; what both discs let through is the opening there (`Aperture.rim`). The picture is
rendered in overlapping tiles, each with the opening of its middle; a disc that reaches into the next has a little of either
shape. What is left out is that corners get darker: the picture given has been taken through some lens already.

Shape letters: B = samples; H, W = picture.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.optics.aperture import FARTHEST_RIM, Aperture
from pipeline.optics.lens import OpticsError
from pipeline.optics.render import DEFAULT_APERTURE, render_lens_blur

_TILES = 5  # along the longer side: from one to the next an outline moves by a fifth of the radius at most
_FADE = 0.25  # of a tile, on which neighbours are blended


@dataclass(frozen=True)
class _Span:
    """Along one axis: the stretch a tile gives pixels for, and the weights of these pixels, which sum to 1 over the tiles."""

    start: int
    stop: int
    middle: float
    weight: Tensor


def render_cat_eye(
    image: Tensor,
    defocus_px: Tensor,
    *,
    amount: float,
    order: Tensor | None = None,
    aperture: Aperture = DEFAULT_APERTURE,
) -> Tensor:
    """`render_lens_blur` with an opening that is shaded towards the corners.

    Args:
        image: (B, 3, H, W) sRGB in [0, 1]; the full frame, since its middle is the optical axis.
        defocus_px, order, aperture: as for `render_lens_blur`.
        amount: how far the rim is displaced in the corners, in radii of the opening; 0 renders the plain way.

    Returns:
        (B, 3, H, W) photograph.

    Raises:
        OpticsError: amount is not in [0, 0.95], or as `render_lens_blur`.
    """
    if not 0 <= amount <= FARTHEST_RIM:
        raise OpticsError(f"amount must be in [0, {FARTHEST_RIM}], got {amount}")
    if amount == 0:
        return render_lens_blur(image, defocus_px, order=order, aperture=aperture)
    height, width = image.shape[-2:]
    tile = math.ceil(max(height, width) / _TILES)
    halo = (
        math.ceil(1.25 * float(defocus_px.detach().abs().max())) + 16
    )  # what reaches a tile, and what it is filled from
    total = torch.zeros_like(image)
    for rows in _spans(height, tile, image):
        for columns in _spans(width, tile, image):
            rim = _rim(columns.middle, rows.middle, (width, height), amount)
            # Half-resolution layers keep their grid when a tile begins at an even pixel.
            top, left = (max(0, span.start - halo) // 2 * 2 for span in (rows, columns))
            inside = (slice(top, rows.stop + halo), slice(left, columns.stop + halo))
            part = render_lens_blur(
                image[..., inside[0], inside[1]],
                defocus_px[..., inside[0], inside[1]],
                order=None if order is None else order[..., inside[0], inside[1]],
                aperture=replace(aperture, rim=rim),
            )
            own = part[..., rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            weight = rows.weight[:, None] * columns.weight
            total[..., rows.start : rows.stop, columns.start : columns.stop] += own * weight
    return total


def _rim(column: float, row: float, size: tuple[int, int], amount: float) -> tuple[float, float]:
    """Centre of the rim (right, up) as seen from a place.

    The rim stands before the opening, on the side of the scene: light from the right that passes the opening at u passed
    the rim's plane at u plus something to the right, so the part of the opening that is left lies to the left.
    """
    width, height = size
    scale = 2 * amount / math.hypot(width, height)
    return (round((width / 2 - column) * scale, 6), round((row - height / 2) * scale, 6))


def _spans(length: int, tile: int, like: Tensor) -> Iterator[_Span]:
    """Tiles along an axis, each reaching into its neighbours by the width of the blend."""
    count = max(1, round(length / tile))
    fade = length / count * _FADE
    edges = [length * number / count for number in range(count + 1)]
    pixels = torch.arange(length, dtype=like.dtype, device=like.device) + 0.5
    for number in range(count):
        low, high = edges[number], edges[number + 1]
        weight = torch.ones_like(pixels)
        if number > 0:
            weight = weight * ((pixels - low) / fade + 0.5).clamp(0, 1)
        if number < count - 1:
            weight = weight * (0.5 - (pixels - high) / fade).clamp(0, 1)
        start, stop = max(0, math.floor(low - fade / 2)), min(length, math.ceil(high + fade / 2))
        yield _Span(start, stop, (low + high) / 2, weight[start:stop])
