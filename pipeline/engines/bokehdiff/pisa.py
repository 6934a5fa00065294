"""Physics-inspired self-attention: each token sends its light to the tokens that its circle of confusion reaches.

Shape letters: B tiles, N heads, T tokens of a tile (R rows of C columns), E channels of a head.

For query q and key k, the source of light: weight = exp(q k scale - its maximum over q) * G, normalised *over queries*, so that
the light of a source sums to one, then times 1 - O. G says whether q lies in the circle of k, O whether something nearer hides
k from there. Units of length are 10 px, as the network was trained. It is compared with a loop over (query, key, ray point) in
tests/pisa_reference.py.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TOKEN_PX = 16  # the VAE's 8, times the one reduction before the layers at work
UNIT_PX = 10.0
TILE_UNITS = 51.2  # of the 512 px that published distances take every tile for
FINE = 3  # the map along rays is this much finer than the tokens
INFERENCE_CONTRAST = 1e7
NEAREST = 1 - 1e-3  # a source on the plane of the camera would divide by zero
_EPSILON = 1e-12
_DARK = 1e-12  # a gate below this lets nothing through, so that nobody needs to know what hides the source
_RAY_FROM, _RAY_TO = 0.1, 0.9


def training_contrast(step: int) -> float:
    """The contrast c after so many optimiser steps; a counter in the layer would count checkpointed passes twice."""
    return 3.0 + 2.0 * step


@dataclass(frozen=True, kw_only=True)
class Pisa:
    """The conventions; the defaults are ours.

    Args:
        distance: "pixels"; or "published", which stretches every tile to 51.2 units from first to last token.
        resampling: of the disparity to tokens, "area"; or "published", bilinear between two pixels per axis.
        occlusion: "scatter", the ray of the source; or "published", which takes the query's disparity for a part of it.
        index: "rows", tokens in row-major order; or "published", column-major, the same for square tiles only.
        contrast: c; the edge of the circle is a sigmoid of hardness ln c per unit.
        points, spread: samples along a ray, and places around each, the first exact.
        renormalise: give the light that was hidden to the queries that still see the source.
    """

    distance: str = "pixels"
    resampling: str = "area"
    occlusion: str = "scatter"
    index: str = "rows"
    contrast: float = INFERENCE_CONTRAST
    points: int = 5
    spread: int = 7
    renormalise: bool = False

    def __post_init__(self) -> None:
        for name, ours in (("distance", "pixels"), ("resampling", "area"), ("occlusion", "scatter"), ("index", "rows")):
            if getattr(self, name) not in (ours, "published"):
                raise ValueError(f"{name} must be {ours} or published, got {getattr(self, name)!r}")
        if not (math.isfinite(self.contrast) and self.contrast > 1):
            raise ValueError(f"contrast must be finite and > 1, got {self.contrast}")
        if self.points < 1 or self.spread < 1:
            raise ValueError(f"points and spread must be >= 1, got {self.points} and {self.spread}")


@dataclass(frozen=True, kw_only=True)
class Defocus:
    """What a lens does to a picture.

    Args:
        disparity: (B, 16 R, 16 C) in [0, 1], 1 at the plane of the camera.
        focus: disparity in focus.
        gain_px: K, radius in px per disparity.
        max_radius_px: where the radius stops growing.
    """

    disparity: Tensor
    focus: float
    gain_px: float
    max_radius_px: float = math.inf


@dataclass(frozen=True)
class Geometry:
    """G and 1 - O of a batch of tiles, each (B, T queries, T keys)."""

    gate: Tensor
    visible: Tensor


def geometry(defocus: Defocus, pisa: Pisa) -> Geometry:
    """Who can send light where. Differentiable in the disparity through G; O is a count."""
    _, height, width = defocus.disparity.shape
    assert height % TOKEN_PX == 0 and width % TOKEN_PX == 0, "a tile is made of whole tokens"
    grid = (height // TOKEN_PX, width // TOKEN_PX)
    sources = _resampled(defocus.disparity, grid, pisa).flatten(1)
    radius = (sources - defocus.focus).abs() * (defocus.gain_px / UNIT_PX)
    radius = radius.clamp(max=defocus.max_radius_px / UNIT_PX)
    reach = radius[:, None, :] - distances(grid, pisa).to(sources)
    gate = torch.sigmoid(math.log(pisa.contrast) * reach)
    return Geometry(gate, 1 - occlusion(defocus.disparity, pisa, gate > _DARK))


def _resampled(disparity: Tensor, size: tuple[int, int], pisa: Pisa) -> Tensor:
    mode = "area" if pisa.resampling == "area" else "bilinear"
    return F.interpolate(disparity[:, None], size=size, mode=mode)[:, 0]


def distances(grid: tuple[int, int], pisa: Pisa) -> Tensor:
    """(T, T) float64 between the tokens of (R, C), in units of 10 px."""
    rows, columns = grid
    number = torch.arange(rows * columns, dtype=torch.float64)
    if pisa.index == "rows":
        row, column = torch.div(number, columns, rounding_mode="floor"), number % columns
    else:
        row, column = number % rows, torch.div(number, rows, rounding_mode="floor")
    if pisa.distance == "pixels":
        y, x = row * (TOKEN_PX / UNIT_PX), column * (TOKEN_PX / UNIT_PX)
    else:  # linspace(0, 1, n), both ends included
        y, x = row * (TILE_UNITS / max(rows - 1, 1)), column * (TILE_UNITS / max(columns - 1, 1))
    return torch.hypot(y[:, None] - y[None], x[:, None] - x[None])


def spread_offsets(count: int) -> list[tuple[float, float]]:
    """(row, column) in tokens, the first exact, the others evenly over a token: the R2 sequence (Roberts 2018)."""
    plastic = 1.32471795724474602596
    steps = [(0.5 + number / plastic) % 1 - 0.5 for number in range(count)]
    others = [(0.5 + number / plastic**2) % 1 - 0.5 for number in range(count)]
    return list(zip(steps, others, strict=True))


@torch.no_grad()
def occlusion(disparity: Tensor, pisa: Pisa, asked: Tensor) -> Tensor:
    """O: the share of places around the ray from source k to query q at which the map is nearer than the ray.

    The ray has disparity d_p = p d_k + 1 - p. It runs from x_k at p = 1 to x_q in the plane of the camera, linear in
    depth 1 / d.

    Args:
        disparity: (B, 16 R, 16 C).
        pisa: conventions and numbers of samples.
        asked: (B, T queries, T keys), which pairs to look at; of most, G says that no light goes there.

    Returns:
        (B, T queries, T keys) in [0, 1], of the disparity's type; 0 where nobody asked.
    """
    grid = (disparity.shape[1] // TOKEN_PX, disparity.shape[2] // TOKEN_PX)
    sources = _resampled(disparity, grid, pisa).flatten(1).clamp(max=NEAREST)
    # The map too: a source at the camera's plane would lie behind itself otherwise.
    fine = _resampled(disparity, (FINE * grid[0], FINE * grid[1]), pisa).clamp(max=NEAREST)
    hidden = torch.zeros(asked.shape, dtype=disparity.dtype, device=disparity.device)
    for tile, pairs in enumerate(asked):
        query, key = pairs.nonzero(as_tuple=True)
        hidden[tile, query, key] = _hidden(fine[tile], sources[tile], (query, key), grid, pisa)
    return hidden


def _hidden(fine: Tensor, sources: Tensor, pairs: tuple[Tensor, Tensor], grid: tuple[int, int], pisa: Pisa) -> Tensor:
    """O of pairs (P,) of queries and keys of one tile: fine (3 R, 3 C), sources (T,) -> (P,)."""
    start, end = (torch.stack([number // grid[1], number % grid[1]], dim=-1).to(fine) for number in pairs)
    of_query, of_key = (sources[number] for number in pairs)
    offsets = fine.new_tensor(spread_offsets(pisa.spread))
    hidden = torch.zeros(len(offsets), len(of_key), dtype=torch.bool, device=fine.device)
    for p in torch.linspace(_RAY_FROM, _RAY_TO, pisa.points, dtype=torch.float64).tolist():
        ray = p * of_key + 1 - p
        bent = ray if pisa.occlusion == "scatter" else p * of_query + 1 - p
        share = (1 - bent) * of_key / (bent * (1 - of_key))
        crossing = start + share[:, None] * (end - start)
        where = (crossing + offsets[:, None] + 0.5) / fine.new_tensor(grid) * 2 - 1
        seen = F.grid_sample(fine[None, None], where[None].flip(-1), padding_mode="zeros", align_corners=False)
        hidden |= seen[0, 0] > ray
    return hidden.to(fine.dtype).mean(dim=0)


def weights(query: Tensor, key: Tensor, where: Geometry, scale: float, renormalise: bool = False) -> Tensor:
    """(B, N, T, E) queries and keys -> (B, N, T queries, T keys); each column sums to one where nothing is hidden."""
    logits = query @ key.transpose(-1, -2) * scale
    light = torch.exp(logits - logits.amax(dim=-2, keepdim=True)) * where.gate[:, None]
    light = light / (light.sum(dim=-2, keepdim=True) + _EPSILON) * where.visible[:, None]
    if renormalise:
        light = light / (light.sum(dim=-2, keepdim=True) + _EPSILON)
    return light


def attention(
    query: Tensor, key: Tensor, value: Tensor, where: Geometry, scale: float, renormalise: bool = False
) -> Tensor:
    """The light that arrives: (B, N, T, E) each, in float32 or better, whatever surrounds it -> (B, N, T, E)."""
    exact = torch.promote_types(query.dtype, torch.float32)
    drawn = weights(query.to(exact), key.to(exact), where, scale, renormalise) @ value.to(exact)
    return drawn.to(query.dtype)
