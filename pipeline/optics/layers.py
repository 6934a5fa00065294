"""Defocus cut into layers: fixed radii, the weights between them, and the two grids the layers are blurred on.

Special: the radii are absolute and never depend on the picture, and a pixel is shared by its two neighbouring layers
with linear weights that add up to 1. So the blur is continuous in depth and a static scene renders to identical
frames. Small radii live on the full grid in tiles, large ones on a half-resolution grid; both skip tiles that a layer
does not touch.

Shape letters: H, W = picture; h, w = half-resolution grid; N = tiles; C = channels.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

SHARP_PX = 0.5  # radii up to this are not blurred at all
# Layers on the full grid. Nearer layers hide farther ones between the groups, not within them.
FULL_GRID_PX = ((1.0, 1.5, 2.0), (2.5, 3.0, 4.0), (5.0, 6.0), (7.0, 8.0))
HIDDEN_GRID_PX = (2.0, 4.0, 6.0, 8.0)  # hidden surfaces are a smooth guess and stay on the half grid
HIDDEN_SHARP_PX = 1.0
HALF_GROUP = 3  # layers of the half grid that share an inverse FFT
# Edges of the tiles, full-resolution pixels: measured fastest on two CPU cores among 16 to 110.
HALF_TILE = 16
FULL_TILE = 78
FULL_HALO = 9  # the reach of the largest full-grid kernel; 78 + 18 = 96 suits the FFT


class Ladder:
    """Increasing radii as steps 0, 1, 2, ..., and where a radius lies between them.

    Args:
        radii: px; everything up to the first is step 0.
    """

    def __init__(self, radii: list[float]) -> None:
        self.radii = radii

    def climb(self, defocus: Tensor) -> Tensor:
        """Signed radius -> signed position on the ladder, same shape, differentiable.

        Between two steps the position is linear in the brightness of the discs, not in their energy: then half the
        height of the mixture of both moves evenly from one edge to the other.
        """
        steps = torch.tensor(self.radii, dtype=defocus.dtype, device=defocus.device)
        radius = defocus.abs().clamp(self.radii[0], self.radii[-1])
        upper = torch.bucketize(radius.detach(), steps).clamp(min=1)
        low, high = steps[upper - 1], steps[upper]
        t = (radius - low) / (high - low)
        return torch.sign(defocus) * (upper - 1 + t * high**2 / (low**2 + t * (high**2 - low**2)))


def hat(position: Tensor, step: int) -> Tensor:
    """Weight of the layer at a step for pixels at these positions: 1 on it, 0 from the next step on."""
    return (1 - (position - step).abs()).clamp(min=0)


@dataclass(frozen=True)
class Knot:
    """One layer.

    Args:
        radius: px.
        step: its place on the ladder of visible pixels, or -1 if it holds hidden ones only.
        hidden_step: its place on the ladder of hidden pixels, or -1.
    """

    radius: float
    step: int
    hidden_step: int


@dataclass(frozen=True)
class Grid:
    """All layers up to a radius.

    Args:
        full: groups of layers on the full grid, by increasing radius.
        half: groups of layers on the half grid.
        coarse: one group on the half grid, for hidden surfaces whose visible part is on the full grid.
        visible: where visible pixels lie between the layers.
        hidden: where hidden pixels do; they are a guess, and need fewer small radii.
    """

    full: list[list[Knot]]
    half: list[list[Knot]]
    coarse: list[list[Knot]]
    visible: Ladder
    hidden: Ladder


def radius_grid(max_radius_px: float) -> Grid:
    """Layers up to a radius; a larger maximum only appends.

    The step is 1 px to r = 12, then r/12 up to 2 px. With edges as soft as the step, the half height of a mixed disc
    lies within 0.25 px of the requested radius.

    Args:
        max_radius_px: largest unsigned radius that occurs.

    Example:
        >>> [knot.radius for knot in radius_grid(10.0).half[0]]
        [8.5, 9.5, 10.5]
    """
    small = [radius for group in FULL_GRID_PX for radius in group]
    large = [small[-1] + 0.5]  # half a step where the softer half grid takes over
    while large[-1] < max_radius_px or len(large) < HALF_GROUP:
        large.append(large[-1] + min(2.0, max(1.0, large[-1] / 12)))
    hidden_start = 1 + len(HIDDEN_GRID_PX)
    half = [Knot(radius, 1 + len(small) + i, hidden_start + i) for i, radius in enumerate(large)]
    step = itertools.count(1)
    return Grid(
        full=[[Knot(radius, next(step), -1) for radius in group] for group in FULL_GRID_PX],
        half=[half[i : i + HALF_GROUP] for i in range(0, len(half), HALF_GROUP)],
        coarse=[[Knot(radius, -1, 1 + i) for i, radius in enumerate(HIDDEN_GRID_PX)]],
        visible=Ladder([SHARP_PX, *small, *large]),
        hidden=Ladder([HIDDEN_SHARP_PX, *HIDDEN_GRID_PX, *large]),
    )


class Tiles:
    """Surfaces cut into overlapping tiles, so that a layer can skip the tiles it does not touch.

    Args:
        surfaces: (5, H, W) each: weight, light * weight, signed position on the ladder.
        tile: edge of a tile in pixels.
        halo: how far tiles reach over each other.
    """

    def __init__(self, surfaces: list[Tensor], tile: int, halo: int) -> None:
        height, width = surfaces[0].shape[-2:]
        self.rows, self.columns = -(-height // tile), -(-width // tile)
        below, right = self.rows * tile - height, self.columns * tile - width
        edge = tile + 2 * halo
        self.data, self.low, self.high = [], [], []
        for planes in surfaces:
            padded = mirror(planes, (halo, below + halo), (halo, right + halo))
            windows = padded.unfold(1, edge, tile).unfold(2, edge, tile)
            cut = windows.permute(1, 2, 0, 3, 4).reshape(-1, planes.shape[0], edge, edge)
            empty = (cut[:, :1] == 0) * 1e6  # pixels without weight stretch no range
            self.data.append(cut)
            self.low.append((cut[:, -1:] + empty).detach().flatten(1).amin(1))
            self.high.append((cut[:, -1:] - empty).detach().flatten(1).amax(1))

    def touching(self, knots: list[Knot], sign: int) -> list[list[Tensor]]:
        """Indices of the tiles that hold pixels of a layer, per layer and surface; one device sync in all."""
        steps = torch.tensor([knot.step for knot in knots], device=self.low[0].device)[:, None]
        masks = []
        for low, high in zip(self.low, self.high, strict=True):
            near, far = (low, high) if sign > 0 else (-high, -low)
            masks.append((far[None] > steps - 1) & (near[None] < steps + 1))
        found = torch.stack(masks, 1).cpu()
        return [[row.nonzero()[:, 0].to(self.low[0].device) for row in surfaces] for surfaces in found]

    def layer(self, knot: Knot, sign: int, touched: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Weighted pixels of one layer, summed over the surfaces: tile indices (n) and (n, 4, edge, edge)."""
        parts = []
        for data, index in zip(self.data, touched, strict=True):
            cut = data[index] if len(index) < len(data) else data
            if len(index):
                parts.append((index, hat(sign * cut[:, 4:], knot.step) * cut[:, :4]))
        union, total = parts[0]
        for index, part in parts[1:]:
            if not bool(torch.isin(index, union).all()):
                wider = torch.unique(torch.cat([union, index]))
                padded = total.new_zeros((len(wider), *total.shape[1:]))
                union, total = wider, padded.index_copy_(0, torch.searchsorted(wider, union), total)
            total.index_add_(0, torch.searchsorted(union, index), part)  # a product: backward does not need its value
        return union, total

    def assemble(self, tiles: Tensor, index: Tensor) -> Tensor:
        """(n, C, t, t) tiles without halo at `index`, zeros elsewhere -> (C, rows*t, columns*t)."""
        _, channels, edge, _ = tiles.shape
        if len(index) < self.rows * self.columns:
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
