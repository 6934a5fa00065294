"""From layers to a photograph: blur every layer, then stack them from front to back.

Special: coverages *add up* and saturate instead of multiplying. The layers of one continuous surface share every pixel
exactly (their coverages sum to 1), which 'over' with products of (1 - coverage) gets wrong; for a single silhouette
both agree. What is left uncovered at the end is normalised away.

Shape letters: H, W = picture; h, w = half-resolution grid; t = tile edge.
A "spread" is (4, ...): coverage, then light * coverage; where what was filled is traced, a fifth plane holds the part of the
coverage that hidden, invented samples gave.
"""

import torch
from torch import Tensor

from pipeline.optics.aperture import Aperture
from pipeline.optics.edges import Surface
from pipeline.optics.kernels import fast_length, kernel_spectrum
from pipeline.optics.layers import FULL_HALO, FULL_TILE, HALF_TILE, Grid, Knot, Tiles, halve, hat, mirror

TINY = 1e-6  # coverage below this is FFT rounding


class Stack:
    """Front-to-back accumulation of spreads on one grid.

    Args:
        like: (..., H, W) tensor that gives size, dtype and device.
        traced: keep the invented part of the coverage too, as a fourth plane of `light`.
    """

    def __init__(self, like: Tensor, *, traced: bool = False) -> None:
        self.light = like.new_zeros((4 if traced else 3, *like.shape[-2:]))
        self.free = like.new_ones((1, *like.shape[-2:]))

    def add(self, spread: Tensor | None) -> None:
        """Put a spread behind what is there, filling at most what is still free; None is an empty layer."""
        if spread is None:
            return
        spread = spread[:, : self.free.shape[-2], : self.free.shape[-1]]
        cover = spread[:1].clamp(min=TINY)
        taken = torch.minimum(spread[:1].clamp(min=0), self.free)
        self.light = self.light + _with_planes(spread, 1 + len(self.light))[1:] * (taken / cover)
        self.free = self.free - taken

    def spread(self) -> Tensor:
        """(4, H, W), or 5 planes if traced: what has been covered so far, as one spread."""
        return torch.cat([1 - self.free, self.light])


def refine(spread: Tensor | None, bridged: Surface) -> Tensor | None:
    """Give hidden surfaces in focus the detail that was bridged at full resolution; same coverage."""
    if spread is None:
        return None
    return torch.cat([spread[:1], torch.lerp(spread[1:4], spread[:1] * bridged.light, bridged.weight), spread[4:]])


def _with_planes(spread: Tensor, planes: int) -> Tensor:
    """A spread of visible samples invents nothing: its fifth plane, where one is wanted, is zero."""
    missing = planes - len(spread)
    return torch.cat([spread, spread.new_zeros((missing, *spread.shape[1:]))]) if missing > 0 else spread


def blur_full(tiles: Tiles, knots: list[Knot], sign: int, aperture: Aperture) -> Tensor | None:
    """Blur some layers of one sign on the full grid and sum them.

    Args:
        tiles: visible surfaces, `FULL_TILE` and `FULL_HALO`.
        knots: the layers.
        sign: +1 behind the focus plane, -1 in front.
        aperture: shape of the opening.

    Returns:
        (4, rows*t, columns*t) spread, or None if no pixel has such a radius.
    """
    edge = FULL_TILE + 2 * FULL_HALO
    touched = tiles.touching(knots, sign)
    active = torch.unique(torch.cat([index for surfaces in touched for index in surfaces]))
    if not len(active):
        return None
    total: Tensor | None = None
    for knot, surfaces in zip(knots, touched, strict=True):
        if not any(len(index) for index in surfaces):
            continue
        index, layer = tiles.layer(knot, sign, surfaces)
        kernel = _kernel_on(layer, aperture, sign * knot.radius, 1, (edge, edge))
        spectrum = torch.fft.rfft2(layer).mul_(kernel)  # in place: backward needs nothing that this overwrites
        if len(index) == len(active):
            total = spectrum if total is None else total.add_(spectrum)
            continue
        if total is None:
            total = spectrum.new_zeros((len(active), *spectrum.shape[1:]))
        total.index_add_(0, torch.searchsorted(active, index), spectrum)
    assert total is not None, "an active tile belongs to a layer"
    blurred = torch.fft.irfft2(total, s=(edge, edge))[..., FULL_HALO:-FULL_HALO, FULL_HALO:-FULL_HALO]
    return tiles.assemble(blurred, active)


def _kernel_on(layer: Tensor, aperture: Aperture, signed_radius: float, step: int, size: tuple[int, int]) -> Tensor:
    """The kernel's spectrum for a layer; its edge is as soft as the grid it lies on is coarse."""
    return kernel_spectrum(
        aperture, signed_radius, step, float(step), size=size, dtype=layer.dtype, device=layer.device
    )


class HalfGrid:
    """The half-resolution grid of one picture, continued beyond its border as far as the lens looks.

    Args:
        surfaces: (5, H, W) visible samples: weight, light * weight, position on the ladder.
        plate: hidden samples.
        layers: the layers.
        traced: spreads hold the invented part of the coverage too.
    """

    def __init__(self, surfaces: list[Tensor], plate: Surface, layers: Grid, *, traced: bool = False) -> None:
        self.traced = traced
        self.size = (plate.weight.shape[-2], plate.weight.shape[-1])
        self.room = int(layers.half[-1][-1].radius / 2) + 4  # half the soft edge and the sharpening
        self.fft_size = (fast_length(self.size[0] + 2 * self.room), fast_length(self.size[1] + 2 * self.room))
        height, width = surfaces[0].shape[-2:]
        below, right = 2 * self.fft_size[0] - 2 * self.room - height, 2 * self.fft_size[1] - 2 * self.room - width
        padded = [mirror(planes, (2 * self.room, below), (2 * self.room, right)) for planes in surfaces]
        self.tiles = Tiles(padded, HALF_TILE, 1)
        below, right = (self.fft_size[k] - self.room - self.size[k] for k in range(2))
        hidden = mirror(torch.cat(plate.samples(layers.hidden)), (self.room, below), (self.room, right))
        self.hidden, self.position = hidden[:4], hidden[4:]
        if traced:
            self.hidden = torch.cat([self.hidden, self.hidden[:1]])
        used = self.position[self.hidden[:1] > 0].detach()
        self.hidden_range = (float(used.min()), float(used.max())) if used.numel() else None

    def blur(self, groups: list[list[Knot]], sign: int, aperture: Aperture) -> Tensor | None:
        """Blur the layers of one sign and stack them by themselves, nearest first.

        Args:
            groups: the layers, by increasing radius.
            sign: +1 behind the focus plane, -1 in front.
            aperture: shape of the opening.

        Returns:
            (4, h, w) spread, 5 planes if traced, or None if all layers are empty.
        """
        stack = Stack(self._crop(self.hidden), traced=self.traced)
        empty = True
        for group in groups[::sign]:
            spread = self._blur_group(group, sign, aperture)
            empty = empty and spread is None
            stack.add(spread)
        return None if empty else stack.spread()

    def hidden_in_focus(self) -> Tensor | None:
        """(4, h, w) spread of the hidden surfaces that are hardly out of focus, or None if nothing is hidden."""
        return None if self.hidden_range is None else self._crop(hat(self.position, 0) * self.hidden)

    def _blur_group(self, knots: list[Knot], sign: int, aperture: Aperture) -> Tensor | None:
        touched = self.tiles.touching(knots, sign)
        total: Tensor | None = None
        for knot, surfaces in zip(knots, touched, strict=True):
            layer: Tensor | None = None
            if knot.step >= 0 and any(len(index) for index in surfaces):
                index, pixels = self.tiles.layer(knot, sign, surfaces)
                layer = self.tiles.assemble(halve(pixels), index)[:, : self.fft_size[0], : self.fft_size[1]]
            if self._hides(knot, sign):
                hidden = hat(sign * self.position, knot.hidden_step) * self.hidden
                layer = hidden if layer is None else _with_planes(layer, len(hidden)) + hidden
            if layer is not None:
                kernel = _kernel_on(layer, aperture, sign * knot.radius, 2, self.fft_size)
                spectrum = torch.fft.rfft2(_with_planes(layer, len(self.hidden))).mul_(kernel)
                total = spectrum if total is None else total.add_(spectrum)
        return None if total is None else self._inverse(total)

    def _hides(self, knot: Knot, sign: int) -> bool:
        if self.hidden_range is None or knot.hidden_step < 0:
            return False
        low, high = self.hidden_range if sign > 0 else (-self.hidden_range[1], -self.hidden_range[0])
        return low < knot.hidden_step + 1 and high > knot.hidden_step - 1

    def _inverse(self, spectrum: Tensor) -> Tensor:
        blurred: Tensor = torch.fft.irfft2(spectrum, s=self.fft_size)
        return self._crop(blurred)

    def _crop(self, planes: Tensor) -> Tensor:
        top = left = self.room
        return planes[..., top : top + self.size[0], left : left + self.size[1]]
