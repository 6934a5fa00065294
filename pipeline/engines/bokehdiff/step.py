"""The one step: the noise that the network sees in a clean latent, tile by tile, and the picture without it.

The input carries no noise and is called step 499 of 1000; what the network calls noise is the blur that is missing.
Sides are in latents of 8 px. Tiles are those of the published program: 64 latents, 512 px, weighted exp(-(x^2 + y^2)) with x, y
from -2 to 2, blended on the predicted noise in float32.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

LATENT_PX = 8
TILE = 64
MAX_WHOLE = 2 * TILE**2  # latents of the largest picture that runs as one
TIMESTEP = 499
_OVERLAP = 16

# (row, column) of each tile's corner, (B, 4, h, w) latents -> (B, 4, h, w) noise
TileNoise = Callable[[list[tuple[int, int]], Tensor], Tensor]


def clean(latent: Tensor, noise: Tensor, alpha: float) -> Tensor:
    """x0 = (z - sqrt(1 - a) eps) / sqrt(a), with a the product of the schedule's alphas up to step 499."""
    return (latent - (1 - alpha) ** 0.5 * noise) / alpha**0.5


def is_tiled(rows: int, columns: int) -> bool:
    """Whether the published rule tiles a picture of that many latents."""
    return rows * columns > MAX_WHOLE


def padded_px(height: int, width: int, tiling: bool) -> tuple[int, int]:
    """The size at which a picture is worked on: whole tokens of 16 px, and where there are tiles at least one of them."""
    height, width = (-(-side // 16) * 16 for side in (height, width))
    if tiling and is_tiled(height // LATENT_PX, width // LATENT_PX):
        height, width = (max(side, TILE * LATENT_PX) for side in (height, width))
    return height, width


def tile_starts(side: int) -> list[int]:
    """First latent of each tile along a side >= 64: 1 + (side - 16) // 48 of them, evenly spaced; a side of 64 needs one."""
    gaps = (side - _OVERLAP) // (TILE - _OVERLAP)
    return sorted({number * (side - TILE) // gaps for number in range(gaps + 1)})


def tile_weights(device: torch.device | str = "cpu") -> Tensor:
    """(64, 64) float32."""
    x = torch.linspace(-2, 2, TILE, device=device)
    return torch.exp(-(x[:, None] ** 2 + x[None] ** 2))


def tiled_noise(latent: Tensor, batch: int, evaluate: TileNoise) -> Tensor:
    """One prediction for the whole picture.

    Args:
        latent: (1, 4, R, C), both sides at least 64.
        batch: tiles per evaluation.
        evaluate: the network, on tiles of 64 x 64.

    Returns:
        (1, 4, R, C) float32.
    """
    weights = tile_weights(latent.device)
    total = torch.zeros_like(latent, dtype=torch.float32)
    weight = torch.zeros_like(total[:, :1])
    for corners in _batches(latent.shape[2], latent.shape[3], batch):
        for corner, noise in zip(
            corners, evaluate(corners, torch.cat([cut(latent, one) for one in corners])), strict=True
        ):
            cut(total, corner).add_(noise.float() * weights)
            cut(weight, corner).add_(weights)
    return total / weight


def cut(grid: Tensor, corner: tuple[int, int], scale: int = 1) -> Tensor:
    """(..., R, C) -> the tile at a corner given in latents, as a view; `scale` pixels of the grid per latent."""
    row, column = (scale * at for at in corner)
    return grid[..., row : row + scale * TILE, column : column + scale * TILE]


def _batches(rows: int, columns: int, batch: int) -> Iterator[list[tuple[int, int]]]:
    corners = [(row, column) for row in tile_starts(rows) for column in tile_starts(columns)]
    for first in range(0, len(corners), batch):
        yield corners[first : first + batch]
