"""Large pictures in tiles of 512 px, all denoised in step: each step, the tiles' velocities are blended into one.

The published way, number for number: 32 x 32 tokens, stride 28, the last tile flush with the edge, weights
exp(-(x^2 + y^2)) with x, y from -2 to 2. A tile does not know where it lies: its position ids are those of a 512 px picture,
for main and conditions alike. The noise schedule is that of the whole picture.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

TILE = 32  # tokens per side, 512 px, the size the networks were trained at
STRIDE = 28
MIN_SIDE_PX = 512  # a picture with a shorter side runs whole

TileVelocity = Callable[[list[Tensor]], Tensor]


def is_tiled(height_px: int, width_px: int) -> bool:
    """Whether the published rule tiles a picture: neither side is shorter than a tile."""
    return min(height_px, width_px) >= MIN_SIDE_PX


def tile_starts(tokens: int) -> list[int]:
    """First token of each tile along a side of `tokens` >= 32."""
    starts = list(range(0, tokens - TILE + 1, STRIDE))
    if starts[-1] + TILE < tokens:
        starts.append(tokens - TILE)
    return starts


def tile_weights(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(32, 32, 1) weights of a tile's velocities, in the latent's type."""
    x = torch.linspace(-2, 2, TILE, device=device, dtype=dtype)
    return torch.exp(-(x[:, None] ** 2 + x[None, :] ** 2))[..., None]


def blend_tiles(grids: list[Tensor], batch: int, evaluate: TileVelocity) -> Tensor:
    """One velocity for the whole picture.

    Args:
        grids: the noisy latent, then the conditions, each (rows, columns, channels) in tokens.
        batch: tiles per evaluation.
        evaluate: the noisy tiles, then the conditions' tiles, each (B, 1024, channels) -> velocities (B, 1024, channels).

    Returns:
        (rows, columns, channels) in the latent's type.
    """
    main = grids[0]
    weights = tile_weights(main.device, main.dtype)
    total, weight = torch.zeros_like(main), torch.zeros_like(main[..., :1])
    for corners in _batches(main.shape[0], main.shape[1], batch):
        tiles = [torch.stack([_cut(grid, corner).reshape(TILE * TILE, -1) for corner in corners]) for grid in grids]
        for corner, tile in zip(corners, evaluate(tiles), strict=True):
            _cut(total, corner).add_(tile.view(TILE, TILE, -1) * weights)
            _cut(weight, corner).add_(weights)
    return total / weight


def _cut(grid: Tensor, corner: tuple[int, int]) -> Tensor:
    row, column = corner
    return grid[row : row + TILE, column : column + TILE]


def _batches(rows: int, columns: int, batch: int) -> Iterator[list[tuple[int, int]]]:
    corners = [(row, column) for row in tile_starts(rows) for column in tile_starts(columns)]
    for first in range(0, len(corners), batch):
        yield corners[first : first + batch]
