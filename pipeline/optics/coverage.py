"""How much of a pixel a nearer surface covers, read from which pixel centres it covers around: the edge below the pixel.

Special: the depth map says "near" or "far" once per pixel. Along a straight edge these answers form steps whose rhythm
tells where the edge lies: the share of near answers on a line through a pixel, parallel to the edge, tends to the share
of the pixel's area that is covered, for one edge as well as for both edges of a thin bar. No colour is needed, so texture
cannot disturb it. Upright, level and diagonal edges have no rhythm; there the answer is a guess, and its variance says so.

Shape letters: E = edge pixels; K = pixels of a window; T = directions.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

REACH = 3  # the window is 7 x 7: wide enough for a rhythm, narrow enough for curved outlines
FADE_PX = 2.0  # standard deviation of the weights along the line
DIRECTIONS = 32
LINE = 16  # pixels with weight on a line through a 7 x 7 window, at most
# Besides what the table knows: outlines are not quite straight, and at corners two directions compete.
BENT_VARIANCE, CORNER_VARIANCE = 0.001, 0.05


@dataclass(frozen=True)
class Coverage:
    """The near surface's share of edge pixels.

    Args:
        share: (E) in [0, 1].
        variance: (E) of the share's error.
        direction: (E) index of the edge's normal, k * pi / DIRECTIONS from the columns' axis.
    """

    share: Tensor
    variance: Tensor
    direction: Tensor


@dataclass(frozen=True)
class Lines:
    """For every direction the pixels of a window that a line through its centre crosses.

    Args:
        place: (T, LINE) index into the window, row by row.
        weight: (T, LINE) length of the line in the pixel, fading with distance, summing to 1.
        variance: (T) mean squared error of the share for straight edges of that direction.
    """

    place: Tensor
    weight: Tensor
    variance: Tensor


def near_share(near: Tensor) -> Coverage:
    """Share of the centre pixel that the near surface covers.

    Args:
        near: (E, K) 1 where a pixel of the window around an edge pixel belongs to the near surface, else 0.

    Returns:
        Shares without gradients: they move in steps with the pixels.
    """
    gradient, fade = slope_tables(near.dtype, near.device)
    slopes = near @ gradient
    across, down = slopes.chunk(2, 1)
    xx, yy, xy = ((a * b) @ fade for a, b in ((across, across), (down, down), (across, down)))
    angle = 0.5 * torch.atan2(2 * xy, xx - yy)
    coherence = torch.sqrt((xx - yy) ** 2 + 4 * xy**2) / (xx + yy + 1e-6)
    direction = (angle * (DIRECTIONS / math.pi)).round().long() % DIRECTIONS
    lines = line_table(near.dtype, near.device)
    share = (near.gather(1, lines.place[direction]) * lines.weight[direction]).sum(1)
    variance = lines.variance[direction] + BENT_VARIANCE + CORNER_VARIANCE * (1 - coherence) ** 2
    return Coverage(share, variance, direction)


@lru_cache(maxsize=8)
def slope_tables(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """(K, 2 * 25) Sobel slopes inside a 7 x 7 window as one matrix, and (25) their weights in the structure tensor.

    Slopes are whole numbers and weights multiples of 1/4096: float32 holds their sums exactly, in whatever order a device adds
    them, so every device and kernel finds the same direction where two are equally good.
    """
    with torch.inference_mode(False), torch.no_grad():
        edge = 2 * REACH + 1
        basis = torch.eye(edge * edge, dtype=torch.float64).view(-1, 1, edge, edge)
        sobel = torch.tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)
        slopes = torch.nn.functional.conv2d(basis, torch.stack([sobel, sobel.T])[:, None])
        axis = torch.arange(1 - REACH, REACH, dtype=torch.float64)
        fade = torch.exp(-(axis[:, None] ** 2 + axis**2) / (2 * FADE_PX**2)).flatten()
        fade = (fade * 4096).round() / 4096
        return slopes.flatten(1).to(device, dtype), fade.to(device, dtype)


@lru_cache(maxsize=8)
def line_table(dtype: torch.dtype, device: torch.device) -> Lines:
    """The lines of all directions, and how well they do on straight edges at any place."""
    with torch.inference_mode(False), torch.no_grad():
        axis = torch.arange(-REACH, REACH + 1, dtype=torch.float64)
        down, right = (part.flatten() for part in torch.meshgrid(axis, axis, indexing="ij"))
        angle = torch.arange(DIRECTIONS, dtype=torch.float64)[:, None] * (math.pi / DIRECTIONS)
        x, y = torch.cos(angle), torch.sin(angle)
        off, along = right * x + down * y, down * x - right * y
        long, short = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs()).clamp(min=1e-3)
        inside = ((long + short) / 2 - off.abs()).clamp(min=0)  # a unit square cut by a line: a trapezoid of the offset
        weight = torch.minimum(inside, short) / short * torch.exp(-(along**2) / (2 * FADE_PX**2))
        weight = weight / weight.sum(1, keepdim=True)

        edges = torch.linspace(-0.75, 0.75, 151, dtype=torch.float64)[None, :, None]
        seen = ((off[:, None] < edges) * weight[:, None]).sum(2)
        fine = (torch.arange(33, dtype=torch.float64) - 16) / 33
        cell = (fine[None, :, None] * x[:, :, None] + fine[None, None, :] * y[:, :, None]).flatten(1)
        true = (cell[:, None] < edges).to(torch.float64).mean(2)
        mixed = (true > 0.01) & (true < 0.99)
        variance = ((seen - true) ** 2 * mixed).sum(1) / mixed.sum(1)
        best = weight.topk(LINE, dim=1)
        share = best.values / best.values.sum(1, keepdim=True)
        return Lines(best.indices.to(device), share.to(device, dtype), variance.to(device, dtype))
