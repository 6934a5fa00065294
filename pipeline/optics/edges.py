"""Pixels on a silhouette hold light of two surfaces but have one depth: split them into a near and a far part.

Special: without it a blurred foreground leaves a dotted ghost of its outline on the sharp background, and a sharp
foreground gets stairs against a blurred one. The two parts always mix to the pixel they came from, so whatever stays in
focus stays as it was. Not a matting network: both colours come from clean pixels within two pixels of the edge.

Shape letters: H, W = picture; E = mixed pixels; K = pixels of the window.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.optics.layers import Ladder

WINDOW = 2  # clean pixels lie one step beyond the mixed ones; a wider window measured no better
# Second difference of defocus across a pixel, px: a surface below the first, an edge above the second.
STEP_PX = (0.5, 1.5)
NOISE = 0.05  # contrast, as a share of the brighter colour, that texture alone can have


@dataclass(frozen=True)
class Surface:
    """One sample of light per pixel.

    Args:
        light: (3, H, W) linear colour.
        defocus: (1, H, W) signed radius, px.
        weight: (1, H, W) share of the pixel, in [0, 1].
    """

    light: Tensor
    defocus: Tensor
    weight: Tensor

    def samples(self, ladder: Ladder) -> tuple[Tensor, Tensor, Tensor]:
        """What layers are made from: weight (1, H, W), light * weight (3, H, W), ladder position (1, H, W)."""
        return self.weight, self.light * self.weight, ladder.climb(self.defocus)


def split_mixed(light: Tensor, defocus: Tensor) -> tuple[Surface, Surface | None]:
    """Separate the light of the two surfaces that meet in a pixel.

    The share of the near surface follows from where the pixel's colour lies between the clean colours on both sides;
    the side that holds the pixel's centre has at least half of it. Where the two colours do not differ, the pixel
    stays whole.

    Args:
        light: (3, H, W) linear light.
        defocus: (1, H, W) signed radius, px.

    Returns:
        The surface at the pixel's own depth, and the rest of the mixed pixels at the depth of the other surface, or
        None if no pixel is mixed. weight * light of both add up to `light`.
    """
    whole = Surface(light, defocus, torch.ones_like(defocus))
    edge = edge_strength(defocus)
    at = edge.detach().flatten().nonzero()[:, 0]
    if not at.numel():
        return whole, None

    around = torch.stack([defocus.flatten()[_beside(at, defocus, y, x)] for y in (-1, 0, 1) for x in (-1, 0, 1)])
    low, high, own = around.amin(0), around.amax(0), defocus.flatten()[at]
    near_light, far_light, clean = _clean_light(light, defocus, edge, low, high, at)
    mixed = light.flatten(1)[:, at]
    step = near_light - far_light
    contrast = (step**2).sum(0)
    alpha = ((mixed - far_light) * step).sum(0) / (contrast + 1e-6)
    is_near = own - low < high - own
    # a straight edge that leaves the centre to one surface leaves it half of the pixel
    other = torch.where(is_near, 1 - alpha, alpha).clamp(0, 0.5)
    scale = torch.maximum(near_light.amax(0), far_light.amax(0))
    sure = contrast / (contrast + (NOISE * scale) ** 2 + 1e-6)  # similar colours tell nothing about the share
    other = other * sure * clean * edge.flatten()[at]
    other_light = torch.where(is_near, far_light, near_light)
    other_light = torch.minimum(other_light, mixed / other.clamp(min=1e-3))  # nothing negative may remain
    other_defocus = torch.where(is_near, high, low)

    def full(values: Tensor, rest: Tensor) -> Tensor:
        return rest.flatten(1).index_copy(1, at, values).reshape(rest.shape)

    weight = full(other[None], torch.zeros_like(defocus))
    second = full(other_light, light)
    own_light = (light - weight * second) / (1 - weight)
    return (
        Surface(own_light, defocus, 1 - weight),
        Surface(second, full(other_defocus[None], defocus), weight),
    )


def edge_strength(defocus: Tensor) -> Tensor:
    """(1, H, W) in [0, 1]: 0 on planes of any slant, 1 on both sides of a step, from the second differences."""
    height, width = defocus.shape[-2:]
    padded = torch.nn.functional.pad(defocus[None], (1, 1, 1, 1), mode="replicate")[0]
    bend = torch.zeros_like(defocus)
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        before = padded[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]
        after = padded[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        bend = torch.maximum(bend, (before + after - 2 * defocus).abs())
    return ((bend - STEP_PX[0]) / (STEP_PX[1] - STEP_PX[0])).clamp(0, 1)


def _beside(at: Tensor, planes: Tensor, down: int, right: int) -> Tensor:
    """Flat indices of the pixels that many rows and columns away from `at`, the border's own beyond the border."""
    height, width = planes.shape[-2:]
    return (at // width + down).clamp(0, height - 1) * width + (at % width + right).clamp(0, width - 1)


def _clean_light(
    light: Tensor, defocus: Tensor, edge: Tensor, low: Tensor, high: Tensor, at: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean colours of the unmixed pixels around `at` (E flat indices) whose defocus is near `low` and near `high` (E).

    Returns:
        (3, E) near colours, (3, E) far colours, and (E) confidence in [0, 1]: 0 where either side has no clean pixel.
    """
    # One row per pixel, so that a gathered pixel is one piece of memory: measured twice as fast as five planes.
    pixels = torch.cat([1 - edge, defocus, torch.ones_like(edge), light]).flatten(1).T.contiguous()
    reach = 0.5 * (high - low)
    sums = [light.new_zeros((len(at), 4)) for _ in range(2)]
    for down in range(-WINDOW, WINDOW + 1):
        for right in range(-WINDOW, WINDOW + 1):
            found = pixels.index_select(0, _beside(at, defocus, down, right))
            clean = found[:, 0] / (1 + down * down + right * right)
            for k, target in enumerate((low, high)):
                share = clean * (1 - (found[:, 1] - target).abs() / reach).clamp(min=0)
                sums[k] = torch.addcmul(sums[k], share[:, None], found[:, 2:])
    near, far = ((total[:, 1:] / total[:, :1].clamp(min=1e-6)).T for total in sums)
    return near, far, (5 * torch.minimum(sums[0][:, 0], sums[1][:, 0])).clamp(max=1)
