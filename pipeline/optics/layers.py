"""Defocus cut into layers: fixed radii, the weights between them, and the two grids the layers are blurred on.

Special: the radii are absolute and never depend on the picture, and a pixel is shared by its two neighbouring layers
with linear weights that add up to 1. So the blur is continuous in depth and a static scene renders to identical
frames. Small radii live on the full grid in tiles, large ones on a half-resolution grid; both skip tiles that a layer
does not touch.

Shape letters: H, W = picture; h, w = half-resolution grid; N = tiles; C = channels.
"""

import itertools
from dataclasses import dataclass
from functools import lru_cache

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
        steps = _steps(tuple(self.radii), defocus.dtype, defocus.device)
        radius = defocus.abs().clamp(self.radii[0], self.radii[-1])
        upper = torch.bucketize(radius.detach(), steps).clamp(min=1)
        low, high = steps[upper - 1], steps[upper]
        t = (radius - low) / (high - low)
        return torch.sign(defocus) * (upper - 1 + t * high**2 / (low**2 + t * (high**2 - low**2)))


@lru_cache(maxsize=16)
def _steps(radii: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is kept must serve later calls with gradients too
        return torch.tensor(radii, dtype=dtype, device=device)


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


@dataclass(frozen=True)
class Scattered:
    """The few samples of a sparse surface: tile, place within it (flat), and the five planes' values, (n), (n), (n, 5)."""

    tile: Tensor
    place: Tensor
    values: Tensor

    @classmethod
    def of(cls, cut: Tensor) -> "Scattered":
        tile, row, column = (cut[:, 0] != 0).nonzero().unbind(1)
        return cls(tile, row * cut.shape[-1] + column, cut[tile, :, row, column])

    def add_to(self, total: Tensor, union: Tensor, knot: Knot, sign: int) -> None:
        """Add the samples of a layer, weighted, to its tiles: total (n, 4, edge, edge), tile indices union (n)."""
        share = hat(sign * self.values[:, 4], knot.step)
        at = (share > 0).nonzero()[:, 0]
        channels, area = total.shape[1], total.shape[2] * total.shape[3]
        first = torch.searchsorted(union, self.tile[at]) * channels * area + self.place[at]
        index = first[:, None] + area * torch.arange(channels, device=at.device)
        total.view(-1).index_add_(0, index.flatten(), (share[at, None] * self.values[at, :4]).flatten())


class Tiles:
    """Surfaces cut into overlapping tiles, so that a layer can skip the tiles it does not touch.

    Args:
        surfaces: (5, H, W) each: weight, light * weight, signed position on the ladder. The first is dense; of the others
            only the samples with weight are kept.
        tile: edge of a tile in pixels.
        halo: how far tiles reach over each other.
    """

    def __init__(self, surfaces: list[Tensor], tile: int, halo: int) -> None:
        height, width = surfaces[0].shape[-2:]
        self.rows, self.columns = -(-height // tile), -(-width // tile)
        below, right = self.rows * tile - height, self.columns * tile - width
        edge = tile + 2 * halo
        self.scattered: list[Scattered] = []
        self.occupied: list[Tensor] = []
        for planes in surfaces:
            padded = mirror(planes, (halo, below + halo), (halo, right + halo))
            windows = padded.unfold(1, edge, tile).unfold(2, edge, tile)
            cut = windows.permute(1, 2, 0, 3, 4).reshape(-1, planes.shape[0], edge, edge).contiguous()
            if self.occupied:
                samples = Scattered.of(cut)
                self.scattered.append(samples)
                self.occupied.append(_occupied(samples.tile, samples.values[:, 4], len(cut)))
            else:
                self.dense = cut
                numbers = torch.arange(len(cut), device=cut.device).repeat_interleave(edge * edge)
                self.occupied.append(_occupied(numbers, cut[:, 4].flatten(), len(cut)))

    def touching(self, knots: list[Knot], sign: int) -> list[list[Tensor]]:
        """Indices of the tiles that hold pixels of a layer, per layer and surface."""
        side, device = int(sign < 0), self.dense.device
        nothing = torch.empty(0, dtype=torch.long, device=device)
        return [
            [
                held[:, side, knot.step].nonzero()[:, 0].to(device) if 0 <= knot.step < held.shape[2] else nothing
                for held in self.occupied
            ]
            for knot in knots
        ]

    def layer(self, knot: Knot, sign: int, touched: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Weighted pixels of one layer, summed over the surfaces: tile indices (n) and (n, 4, edge, edge)."""
        index = touched[0]
        cut = self.dense if len(index) == len(self.dense) else self.dense[index]
        total = hat(sign * cut[:, 4:], knot.step) * cut[:, :4]
        for scattered, extra in zip(self.scattered, touched[1:], strict=True):
            if not len(extra):
                continue
            if not bool(torch.isin(extra, index).all()):
                wider = torch.unique(torch.cat([index, extra]))
                padded = total.new_zeros((len(wider), *total.shape[1:]))
                index, total = wider, padded.index_copy_(0, torch.searchsorted(wider, index), total)
            scattered.add_to(total, index, knot, sign)
        return index, total

    def assemble(self, tiles: Tensor, index: Tensor) -> Tensor:
        """(n, C, t, t) tiles without halo at `index`, zeros elsewhere -> (C, rows*t, columns*t)."""
        _, channels, edge, _ = tiles.shape
        if len(index) < self.rows * self.columns:
            tiles = tiles.new_zeros((self.rows * self.columns, channels, edge, edge)).index_copy_(0, index, tiles)
        grid = tiles.reshape(self.rows, self.columns, channels, edge, edge)
        return grid.permute(2, 0, 3, 1, 4).reshape(channels, self.rows * edge, self.columns * edge)


def _occupied(tile: Tensor, position: Tensor, num_tiles: int) -> Tensor:
    """Which steps, behind (0) and in front (1) of the focus plane, the samples of each tile touch.

    A range of positions would not do: a tile that holds a near blade and a far wall touches nothing in between.

    Args:
        tile: (n) which tile a sample lies in.
        position: (n) its signed position on the ladder.
        num_tiles: number of tiles.

    Returns:
        (num_tiles, 2, steps) bool, on the CPU.
    """
    if not len(tile):
        return torch.zeros((num_tiles, 2, 1), dtype=torch.bool)
    position = position.detach()
    lower = position.abs().long()
    steps = int(lower.max()) + 2
    key = (tile * 2 + (position < 0)) * steps + lower
    held = torch.bincount(key, minlength=num_tiles * 2 * steps).view(num_tiles, 2, steps).cpu() > 0
    held[..., 1:] |= held[..., :-1].clone()  # a sample is shared by the step below it and the one above
    return held


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
