"""Defocus cut into layers: fixed radii, the weights between them, and the two grids the layers are blurred on.

Special: the radii are absolute and never depend on the picture, and a pixel is shared by its two neighbouring layers with
linear weights that add up to 1. So the blur is continuous in depth and a static scene renders to identical frames. Small
radii live on the full grid in tiles, large ones on a half-resolution grid; both skip tiles that a layer does not touch.

Shape letters: H, W = picture; h, w = half-resolution grid; N = tiles; C = channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SHARP_PX = 0.5  # radii up to this are not blurred at all
# Layers on the full grid. Nearer layers hide farther ones between the groups, not within them.
FULL_GRID_PX = ((1.0, 1.5, 2.0), (2.5, 3.0, 4.0), (5.0, 6.0), (7.0, 8.0))
HIDDEN_GRID_PX = (2.0, 4.0, 6.0, 8.0)  # hidden surfaces are a smooth guess and stay on the half grid
HALF_GROUP = 3  # layers of the half grid that share an inverse FFT
HALF_TILE = 32  # full-resolution pixels; small enough that a tile of a slanted surface touches few layers
FULL_TILE = 64
FULL_HALO = 10  # at least the reach of the largest full-grid kernel, and 64 + 20 = 84 suits the FFT


@dataclass(frozen=True)
class Knot:
    """One layer: its radius and the neighbouring radii where its weight has fallen to zero."""

    below: float
    radius: float
    above: float

    def weight(self, radius_px: Tensor) -> Tensor:
        """Linear hat over unsigned or sign-corrected radii, any shape; 1 at `radius`, 0 outside (below, above)."""
        rising = self._share(radius_px, self.below, self.radius)
        falling = 1 - self._share(radius_px, self.radius, self.above)
        return torch.where(radius_px < self.radius, rising, falling)

    @staticmethod
    def _share(radius_px: Tensor, low: float, high: float) -> Tensor:
        """How much of a radius in [low, high] the larger disc gets.

        Linear in the brightness of the discs, not in their energy: then half the height of the mixture moves evenly from
        one edge to the other. Clamped to [0, 1] outside.
        """
        t = ((radius_px - low) / (high - low)).clamp(0, 1)
        return t * high**2 / (low**2 + t * (high**2 - low**2))


@dataclass(frozen=True)
class Grid:
    """All layers up to a radius.

    Args:
        full: groups of layers on the full grid, by increasing radius.
        half: groups of layers on the half grid.
        hidden: on the half grid, for hidden surfaces whose visible part is on the full grid; one group.
    """

    full: list[list[Knot]]
    half: list[list[Knot]]
    hidden: list[list[Knot]]


def radius_grid(max_radius_px: float) -> Grid:
    """Layers up to a radius; a larger maximum only appends.

    The step is 1 px to r = 12, then r/12 up to 2 px. With edges as soft as the step, the half height of a mixed disc lies
    within 0.2 px of the requested radius.

    Args:
        max_radius_px: largest unsigned radius that occurs.

    Example:
        >>> [knot.radius for knot in radius_grid(10.0).half[0]]
        [8.5, 9.5, 10.5]
    """
    fixed = [radius for group in FULL_GRID_PX for radius in group]
    radii = [SHARP_PX, *fixed, fixed[-1] + 0.5]  # half a step where the softer half grid takes over
    while radii[-1] < max_radius_px or len(radii) < len(fixed) + 3:
        radii.append(radii[-1] + min(2.0, max(1.0, radii[-1] / 12)))
    radii.append(radii[-1] + 2.0)
    knots = [Knot(*radii[i : i + 3]) for i in range(len(radii) - 2)]
    full, start = [], 0
    for group in FULL_GRID_PX:
        full.append(knots[start : start + len(group)])
        start += len(group)
    coarse = [1.0, *HIDDEN_GRID_PX, knots[start].radius]
    hidden = [Knot(*coarse[i : i + 3]) for i in range(len(coarse) - 2)]
    rest = knots[start:]
    half = [rest[i : i + HALF_GROUP] for i in range(0, len(rest), HALF_GROUP)]
    return Grid(full=full, half=half, hidden=[hidden])


class Tiles:
    """A picture cut into overlapping tiles, with the range of a map per tile so that layers can skip tiles.

    Args:
        planes: (C, H, W) values; the last channel is the signed radius.
        tile: edge of a tile in pixels.
        halo: how far tiles reach over each other.
    """

    def __init__(self, planes: Tensor, tile: int, halo: int) -> None:
        height, width = planes.shape[-2:]
        self.rows, self.columns = -(-height // tile), -(-width // tile)
        below, right = self.rows * tile - height, self.columns * tile - width
        padded = mirror(planes, (halo, below + halo), (halo, right + halo))
        windows = padded.unfold(1, tile + 2 * halo, tile).unfold(2, tile + 2 * halo, tile)
        self.data = windows.permute(1, 2, 0, 3, 4).reshape(-1, planes.shape[0], tile + 2 * halo, tile + 2 * halo)
        radius = self.data[:, -1].detach().flatten(1)
        self.low, self.high = radius.amin(1), radius.amax(1)

    def touching(self, knots: list[Knot], sign: int) -> dict[Knot, Tensor]:
        """The layers of one sign that have any pixel, each with the indices of its tiles; one device sync in all."""
        low, high = (self.low, self.high) if sign > 0 else (-self.high, -self.low)
        bounds = self.low.new_tensor([[knot.below, knot.above] for knot in knots])
        mask = (high[None] > bounds[:, :1]) & (low[None] < bounds[:, 1:])
        rows = zip(knots, mask.cpu(), strict=True)
        return {knot: row.nonzero()[:, 0].to(self.low.device) for knot, row in rows if bool(row.any())}

    def assemble(self, tiles: Tensor, index: Tensor | None = None) -> Tensor:
        """(N, C, t, t) tiles without halo, or those at `index` with zeros elsewhere -> (C, rows*t, columns*t)."""
        _, channels, edge, _ = tiles.shape
        if index is not None and len(index) < self.rows * self.columns:
            tiles = tiles.new_zeros((self.rows * self.columns, channels, edge, edge)).index_copy_(0, index, tiles)
        grid = tiles.reshape(self.rows, self.columns, channels, edge, edge)
        return grid.permute(2, 0, 3, 1, 4).reshape(channels, self.rows * edge, self.columns * edge)


def mirror(planes: Tensor, vertical: tuple[int, int], horizontal: tuple[int, int]) -> Tensor:
    """Continue a picture beyond its border by reflection, any number of times.

    The lens sees light from outside the frame. Its mirror image keeps the mean brightness of the neighbourhood, which a
    repeated border pixel would not where it is a highlight, and dividing by the covered share measured 1 dB worse.

    Args:
        planes: (..., H, W).
        vertical: rows added above and below.
        horizontal: columns added left and right.
    """
    for dim, (before, after) in ((-2, vertical), (-1, horizontal)):
        n = planes.shape[dim]
        if max(before, after) <= n:  # three copies are several times faster than gathering by index
            head = planes.narrow(dim, 0, before).flip(dim)
            planes = torch.cat([head, planes, planes.narrow(dim, n - after, after).flip(dim)], dim)
        else:
            index = torch.arange(-before, n + after, device=planes.device) % (2 * n)
            planes = planes.index_select(dim, torch.where(index < n, index, 2 * n - 1 - index))
    return planes


def halve(planes: Tensor) -> Tensor:
    """Half resolution with the taps 1 3 3 1, the transpose of bilinear enlargement: a point keeps its exact centroid.

    Args:
        planes: (..., 2h+2, 2w+2), one pixel of border on every side.

    Returns:
        (..., h, w) sums scaled by 1/4, so that a constant stays itself.
    """
    for dim in (-2, -1):
        n = planes.shape[dim] // 2 - 1
        a, b, c, d = (_every_second(planes, dim, k, n) for k in range(4))
        planes = (a + d) * 0.125 + (b + c) * 0.375
    return planes


def double(planes: Tensor, height: int, width: int) -> Tensor:
    """Bilinear enlargement by two, cropped to the picture: (C, h, w) -> (C, height, width)."""
    large = torch.nn.functional.interpolate(planes[None], scale_factor=2, mode="bilinear", align_corners=False)
    return large[0, :, :height, :width]


def _every_second(planes: Tensor, dim: int, start: int, count: int) -> Tensor:
    index = [slice(None)] * planes.dim()
    index[dim] = slice(start, start + 2 * count - 1, 2)
    return planes[tuple(index)]
