"""From layers to a photograph: blur every layer, then stack them from front to back.

Special: coverages *add up* and saturate instead of multiplying. The layers of one continuous surface share every pixel
exactly (their coverages sum to 1), which 'over' with products of (1 - coverage) gets wrong; for a single silhouette both
agree. What is left uncovered at the end is normalised away.

Shape letters: H, W = picture; h, w = half-resolution grid; N = tiles; a "spread" is (4, ...): coverage, then light * coverage.
"""

import torch
from torch import Tensor

from pipeline.optics.aperture import Aperture
from pipeline.optics.background import Plate
from pipeline.optics.edges import Surface
from pipeline.optics.kernels import aperture_kernel, fast_length, kernel_spectrum
from pipeline.optics.layers import FULL_HALO, FULL_TILE, HALF_TILE, HIDDEN_GRID_PX, Knot, Tiles, halve, mirror

TINY = 1e-6  # coverage below this is FFT rounding


class Stack:
    """Front-to-back accumulation of spreads on one grid.

    Args:
        like: (..., H, W) tensor that gives size, dtype and device.
    """

    def __init__(self, like: Tensor) -> None:
        self.light = like.new_zeros((3, *like.shape[-2:]))
        self.free = like.new_ones((1, *like.shape[-2:]))

    def add(self, spread: Tensor | None) -> None:
        """Put a spread behind what is there; it fills at most what is still free. None, an empty layer, does nothing."""
        if spread is None:
            return
        spread = spread[:, : self.free.shape[-2], : self.free.shape[-1]]
        cover = spread[:1].clamp(min=TINY)
        taken = torch.minimum(spread[:1].clamp(min=0), self.free)
        self.light = self.light + spread[1:] * (taken / cover)
        self.free = self.free - taken

    def spread(self) -> Tensor:
        """(4, H, W): what has been covered so far, as one spread."""
        return torch.cat([1 - self.free, self.light])


def blur_full(tiles: list[Tiles], knots: list[Knot], sign: int, aperture: Aperture) -> Tensor | None:
    """Blur some layers of one sign on the full grid and sum them.

    Args:
        tiles: of (weight, light * weight, signed radius) per surface, from `full_tiles`.
        knots: the layers.
        sign: +1 behind the focus plane, -1 in front.
        aperture: shape of the opening.

    Returns:
        (4, rows*t, columns*t) spread, or None if no pixel has such a radius.
    """
    edge = FULL_TILE + 2 * FULL_HALO
    touched = [one.touching(knots, sign) for one in tiles]
    parts = [index for one in touched for index in one.values()]
    if not parts:
        return None
    active = torch.unique(torch.cat(parts))
    slot = torch.zeros(len(tiles[0].data), dtype=torch.long, device=active.device)
    slot[active] = torch.arange(len(active), device=active.device)
    total: Tensor | None = None
    for one, layers in zip(tiles, touched, strict=True):
        for knot, index in layers.items():
            cut = one.data[index]
            spectrum = torch.fft.rfft2(knot.weight(sign * cut[:, 4:]) * cut[:, :4])
            kernel = kernel_spectrum(aperture_kernel(aperture, sign * knot.radius, 1, 1.0), (edge, edge), cut)
            if total is None:
                total = spectrum.new_zeros((len(active), *spectrum.shape[1:]))
            total.index_add_(0, slot[index], spectrum.mul_(kernel))  # backward needs nothing that this overwrites
    blurred = torch.fft.irfft2(total, s=(edge, edge))[..., FULL_HALO:-FULL_HALO, FULL_HALO:-FULL_HALO]
    return tiles[0].assemble(blurred, active)


class HalfGrid:
    """The half-resolution grid of one picture, continued beyond its border as far as the lens looks.

    Args:
        surfaces: visible samples.
        plate: hidden samples.
        max_radius_px: largest kernel radius, full-resolution pixels.
    """

    def __init__(self, surfaces: list[Surface], plate: Plate, max_radius_px: float) -> None:
        self.size = (plate.weight.shape[-2], plate.weight.shape[-1])
        self.room = int(max_radius_px / 2) + 4  # half the soft edge and the sharpening
        self.fft_size = (fast_length(self.size[0] + 2 * self.room), fast_length(self.size[1] + 2 * self.room))
        self.tiles = []
        for surface in surfaces:
            height, width = surface.weight.shape[-2:]
            below, right = 2 * self.fft_size[0] - 2 * self.room - height, 2 * self.fft_size[1] - 2 * self.room - width
            padded = mirror(surface.planes(), (2 * self.room, below), (2 * self.room, right))
            self.tiles.append(Tiles(padded, HALF_TILE, 1))
        below, right = (self.fft_size[k] - self.room - self.size[k] for k in range(2))
        hidden = mirror(plate.planes(), (self.room, below), (self.room, right))
        self.hidden_weight, self.hidden_planes, self.hidden_defocus = hidden[:1], hidden[:4], hidden[4:]
        radius = self.hidden_defocus[self.hidden_weight > 0].detach()
        low, high = (float(radius.min()), float(radius.max())) if radius.numel() else (0.0, 0.0)
        self.hidden_range = {1: (low, high), -1: (-high, -low)}

    def blur(
        self, groups: list[list[Knot]], sign: int, aperture: Aperture, *, hidden_only: bool = False
    ) -> Tensor | None:
        """Blur the layers of one sign and stack them by themselves, nearest first.

        Args:
            groups: the layers, by increasing radius.
            sign: +1 behind the focus plane, -1 in front.
            aperture: shape of the opening.
            hidden_only: leave out what is visible.

        Returns:
            (4, h, w) spread, or None if all layers are empty.
        """
        stack = Stack(self.hidden_weight[:, : self.size[0], : self.size[1]])
        empty = True
        for group in groups[::sign]:
            spread = self._blur_group(group, sign, aperture, hidden_only)
            empty = empty and spread is None
            stack.add(spread)
        return None if empty else stack.spread()

    def _blur_group(self, knots: list[Knot], sign: int, aperture: Aperture, hidden_only: bool) -> Tensor | None:
        """Blur some layers of one sign and sum them: (4, h, w), or None if all are empty."""
        visible = [] if hidden_only else [(tiles, tiles.touching(knots, sign)) for tiles in self.tiles]
        total: Tensor | None = None
        for knot in knots:
            parts = [
                self._visible_layer(tiles, touched[knot], knot, sign) for tiles, touched in visible if knot in touched
            ]
            if self.hidden_range[sign][0] < knot.above and self.hidden_range[sign][1] > knot.below:
                parts.append(knot.weight(sign * self.hidden_defocus) * self.hidden_planes)
            if parts:
                layer = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
                kernel = aperture_kernel(aperture, sign * knot.radius, 2, 2.0)
                spectrum = torch.fft.rfft2(layer).mul_(kernel_spectrum(kernel, self.fft_size, layer))
                total = spectrum if total is None else total.add_(spectrum)
        return None if total is None else self._inverse(total)

    def hidden_in_focus(self) -> Tensor:
        """(4, h, w) spread of the hidden surfaces that are too little out of focus for `HIDDEN_GRID_PX`."""
        fade = (self.hidden_defocus.abs() - 1) / (HIDDEN_GRID_PX[0] - 1)
        return self._crop((1 - fade.clamp(0, 1)) * self.hidden_planes)

    def _visible_layer(self, tiles: Tiles, index: Tensor, knot: Knot, sign: int) -> Tensor:
        cut = tiles.data[index]
        return self._place(halve(knot.weight(sign * cut[:, 4:]) * cut[:, :4]), index)

    def _place(self, tiles: Tensor, index: Tensor | None = None) -> Tensor:
        return self.tiles[0].assemble(tiles, index)[:, : self.fft_size[0], : self.fft_size[1]]

    def _inverse(self, spectrum: Tensor) -> Tensor:
        blurred: Tensor = torch.fft.irfft2(spectrum, s=self.fft_size)
        return self._crop(blurred)

    def _crop(self, planes: Tensor) -> Tensor:
        top = left = self.room
        return planes[..., top : top + self.size[0], left : left + self.size[1]]


def full_tiles(surface: Surface) -> Tiles:
    """Tiles for `blur_full`."""
    return Tiles(surface.planes(), FULL_TILE, FULL_HALO)
