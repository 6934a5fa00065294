"""What the kernels look up: made once for a lens and a size, kept on the device."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pipeline.optics import bridge, coverage
from pipeline.optics.aperture import Aperture
from pipeline.optics.kernels import aperture_kernel, fast_length, kernel_spectrum
from pipeline.optics.layers import FULL_GRID_PX, Knot, radius_grid

_LAYERS = 3  # of a group of the full grid, filled up with kernels of zeros


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What depends on nothing but the device.

    Args:
        fade: (25) weights of slopes in a window.
        turns: (T, 2) cosine and sine of twice the angle of a direction.
        place, line, variance: (T, LINE) twice and (T), see `coverage.Lines`.
        rays: (R, 3) rows, columns and steps of the directions of bridges.
        stride: (R) px of one of their steps.
    """

    fade: Tensor
    turns: Tensor
    place: Tensor
    line: Tensor
    variance: Tensor
    rays: Tensor
    stride: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A group of layers of the half grid: sign, first steps (-1 for hidden ones only), and (k, fh, fw // 2 + 1) spectra."""

    sign: int
    visible: int
    hidden: int
    spectra: Tensor


@dataclass(frozen=True, kw_only=True)
class Lens:
    """What depends on the lens's limit, its opening and the size.

    Args:
        visible, hidden: radii of the ladders.
        groups: (2, G, 3) first step, reach and first weight of the groups of the full grid, from front to back.
        weights: their kernels, flat.
        batches: groups of the half grid, from front to back within each of the four units.
        first: (5) first batch of each unit: near, near and coarse, far and coarse, far.
        room, fft_size: of the half grid, as in `composite.HalfGrid`.
    """

    visible: Tensor
    hidden: Tensor
    groups: Tensor
    weights: Tensor
    batches: tuple[Batch, ...]
    first: Tensor
    room: int
    fft_size: tuple[int, int]


@lru_cache(maxsize=8)
def shared_tables(device: torch.device) -> Shared:
    """For all pictures on a device."""
    with torch.inference_mode(False), torch.no_grad():
        lines = coverage.line_table(torch.float32, device)
        angle = torch.arange(coverage.DIRECTIONS, dtype=torch.float64) * (2 * math.pi / coverage.DIRECTIONS)
        strides = [math.hypot(*way) for way in bridge.DIRECTIONS]
        rays = [(*way, int(bridge.REACH / stride)) for way, stride in zip(bridge.DIRECTIONS, strides, strict=True)]
        return Shared(
            fade=coverage.slope_tables(torch.float32, device)[1],
            turns=torch.stack([angle.cos(), angle.sin()], 1).to(device, torch.float32),
            place=lines.place.to(torch.int32),
            line=lines.weight,
            variance=lines.variance,
            rays=torch.tensor(rays, dtype=torch.int32, device=device),
            stride=torch.tensor(strides, dtype=torch.float32, device=device),
        )


@lru_cache(maxsize=4)  # a lens's spectra are 70 MB at 720p
def lens_tables(aperture: Aperture, max_radius_px: float, size: tuple[int, int], device: torch.device) -> Lens:
    """For all pictures of one size through one opening.

    Args:
        aperture: shape of the opening.
        max_radius_px: no radius is larger.
        size: H, W.
        device: where they are wanted.
    """
    with torch.inference_mode(False), torch.no_grad():
        layers = radius_grid(max_radius_px)
        small = (math.ceil(size[0] / 2), math.ceil(size[1] / 2))
        room = int(layers.half[-1][-1].radius / 2) + 4
        fft_size = (fast_length(small[0] + 2 * room), fast_length(small[1] + 2 * room))
        units = [
            [(-1, group) for group in layers.half[::-1]],
            [(-1, group) for group in layers.coarse],
            [(1, group) for group in layers.coarse],
            [(1, group) for group in layers.half],
        ]
        first = [sum(map(len, units[:k])) for k in range(len(units) + 1)]
        groups, weights = _full_groups(aperture)
        return Lens(
            visible=torch.tensor(layers.visible.radii, dtype=torch.float32, device=device),
            hidden=torch.tensor(layers.hidden.radii, dtype=torch.float32, device=device),
            groups=groups.to(device),
            weights=weights.to(device),
            batches=tuple(_batch(aperture, sign, group, fft_size, device) for unit in units for sign, group in unit),
            first=torch.tensor(first, dtype=torch.int32, device=device),
            room=room,
            fft_size=fft_size,
        )


def _batch(aperture: Aperture, sign: int, group: list[Knot], size: tuple[int, int], device: torch.device) -> Batch:
    spectra = [
        kernel_spectrum(aperture, sign * knot.radius, 2, 2.0, size=size, dtype=torch.float32, device=device)
        for knot in group
    ]
    return Batch(sign=sign, visible=group[0].step, hidden=group[0].hidden_step, spectra=torch.stack(spectra))


def _full_groups(aperture: Aperture) -> tuple[Tensor, Tensor]:
    """Table and weights of the groups of the full grid; the kernels of a group share the reach of its largest."""
    table, weights, total = [], [], 0
    steps = [1 + sum(map(len, FULL_GRID_PX[:k])) for k in range(len(FULL_GRID_PX))]
    grouped = list(zip(steps, FULL_GRID_PX, strict=True))
    for sign, ordered in ((-1, grouped[::-1]), (1, grouped)):
        for step, radii in ordered:
            kernels = [aperture_kernel(aperture, sign * radius, 1, 1.0) for radius in radii]
            reach = max(kernel.shape[0] // 2 for kernel in kernels)
            padded = torch.zeros(_LAYERS, 2 * reach + 1, 2 * reach + 1)
            for kernel, room in zip(kernels, padded, strict=False):
                inset = reach - kernel.shape[0] // 2
                room[inset : 2 * reach + 1 - inset, inset : 2 * reach + 1 - inset] = kernel
            table.append((step, reach, total))
            weights.append(padded.flatten())
            total += padded.numel()
    return torch.tensor(table, dtype=torch.int32), torch.cat(weights)
