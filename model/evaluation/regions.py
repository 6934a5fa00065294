"""Where in a picture an error lies: at occlusions, at highlights, and at which blur radius.

A whole picture hides what matters: most of it is smooth, and every method is right there. The occlusion band is where a lens
sees around edges; the reach of highlights is where light beyond white spreads that the frame does not hold.

Shape letters: H, W = picture.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

STEP_PX = 1.0  # neighbouring pixels whose defocus differs by more are a discontinuity
CLIPPED = 0.98  # encoded value from which a pixel counts as a highlight
RADIUS_BINS_PX = (0.5, 2.0, 5.0, 10.0)  # edges; the last bin is open
BIN_NAMES = ("radius_0_0.5", "radius_0.5_2", "radius_2_5", "radius_5_10", "radius_10_up")


def occlusion_band(defocus: Tensor) -> Tensor:
    """(1, H, W) bool: within R px of a discontinuity, R the larger of the two unsigned radii that meet there.

    Args:
        defocus: (1, H, W) signed radius of the true depth, px.
    """
    at_edge = torch.zeros_like(defocus)
    for dim in (-2, -1):
        n = defocus.shape[dim]
        first, second = defocus.narrow(dim, 0, n - 1), defocus.narrow(dim, 1, n - 1)
        larger = torch.maximum(first.abs(), second.abs()) * ((first - second).abs() > STEP_PX)
        for start in (0, 1):
            part = at_edge.narrow(dim, start, n - 1)
            part.copy_(torch.maximum(part, larger))
    return _within(at_edge)


def highlight_reach(frame: Tensor, defocus: Tensor) -> Tensor:
    """(1, H, W) bool: clipped pixels and all that their discs reach.

    Args:
        frame: (3, H, W) sRGB in [0, 1].
        defocus: (1, H, W) signed radius, px.
    """
    clipped = frame.amax(0, keepdim=True) >= CLIPPED
    return _within(torch.where(clipped, defocus.abs().clamp(min=0.5), 0.0))


def regions_of(frame: Tensor, defocus: Tensor) -> dict[str, Tensor]:
    """Name -> (1, H, W) bool: "band", "highlights", and the radius bins, which share the picture out."""
    size = defocus.abs()
    edges = (-1.0, *RADIUS_BINS_PX, math.inf)
    bins = {name: (size > edges[i]) & (size <= edges[i + 1]) for i, name in enumerate(BIN_NAMES)}
    return {"band": occlusion_band(defocus), "highlights": highlight_reach(frame, defocus), **bins}


def _within(reach_px: Tensor) -> Tensor:
    """Pixels within a square of so many px around those where `reach_px` is > 0."""
    found = torch.zeros_like(reach_px, dtype=torch.bool)
    for reach in range(1, math.ceil(float(reach_px.max())) + 1):
        seeds = (reach_px > reach - 1).to(reach_px.dtype)
        rows = F.max_pool2d(seeds[None], (1, 2 * reach + 1), stride=1, padding=(0, reach))
        found |= F.max_pool2d(rows, (2 * reach + 1, 1), stride=1, padding=(reach, 0))[0] > 0
    return found
