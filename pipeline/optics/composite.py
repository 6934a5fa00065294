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
from pipeline.optics.layers import FULL_HALO, FULL_TILE, HALF_TILE, Knot, Tiles, double, halve

TINY = 1e-6  # coverage below this is FFT rounding


class Stack:
    """Front-to-back accumulation of spreads on one grid.

    Args:
        like: (..., H, W) tensor that gives size, dtype and device.
    """

    def __init__(self, like: Tensor) -> None:
        self.light = like.new_zeros((3, *like.shape[-2:]))
        self.free = like.new_ones((1, *like.shape[-2:]))

    def add(self, spread: Tensor | None, *, enlarge: bool = False) -> None:
        """Put a spread behind what is there; it fills at most what is still free. None, an empty layer, does nothing."""
        if spread is None:
            return
        height, width = self.free.shape[-2:]
        if enlarge:
            spread = double(spread, height, width)
        spread = spread[:, :height, :width]
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
            total.index_add_(0, slot[index], spectrum * kernel)  # in place: backward needs nothing it overwrites
    blurred = torch.fft.irfft2(total, s=(edge, edge))[..., FULL_HALO:-FULL_HALO, FULL_HALO:-FULL_HALO]
    return tiles[0].assemble(blurred, active)


class HalfGrid:
    """The half-resolution grid of one picture: its FFT size and the frame that coverage is measured against.

    Args:
        surfaces: visible samples.
        plate: hidden samples.
        max_radius_px: largest kernel radius, full-resolution pixels.
    """

    def __init__(self, surfaces: list[Surface], plate: Plate, max_radius_px: float) -> None:
        self.tiles = [Tiles(surface.planes(), HALF_TILE, 1, "constant") for surface in surfaces]
        self.plate, self.size = plate, (plate.weight.shape[-2], plate.weight.shape[-1])
        room = int(max_radius_px / 2) + 4  # half the soft edge and the sharpening
        h, w = (fast_length(max(length + room, 2 * room)) for length in self.size)
        self.fft_size = (h, w)
        ones = Tiles(torch.ones_like(surfaces[0].defocus), HALF_TILE, 1, "constant")
        self.inside = torch.fft.rfft2(self._place(halve(ones.data)), s=self.fft_size)

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
        knots = [knot for group in groups for knot in group]
        visible = [] if hidden_only else [(tiles, tiles.touching(knots, sign)) for tiles in self.tiles]
        hidden = self._hidden_in(knots, sign)
        stack = Stack(self.plate.weight)
        empty = True
        for group in groups[::sign]:
            total, inside = None, None
            for knot in group:
                parts = [
                    self._visible_layer(tiles, touched[knot], knot, sign)
                    for tiles, touched in visible
                    if knot in touched
                ]
                if knot in hidden:
                    parts.append(self._hidden_layer(knot, sign))
                if parts:
                    layer = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
                    kernel = kernel_spectrum(
                        aperture_kernel(aperture, sign * knot.radius, 2, 2.0), self.fft_size, layer
                    )
                    spectrum = torch.fft.rfft2(layer, s=self.fft_size) * kernel
                    total = spectrum if total is None else total + spectrum
                    inside = self.inside * kernel
            if total is not None and inside is not None:
                stack.add(self._inverse(total) / self._inverse(inside))
                empty = False
        return None if empty else stack.spread()

    def _visible_layer(self, tiles: Tiles, index: Tensor, knot: Knot, sign: int) -> Tensor:
        cut = tiles.data[index]
        return self._place(halve(knot.weight(sign * cut[:, 4:]) * cut[:, :4]), index)

    def _hidden_layer(self, knot: Knot, sign: int) -> Tensor:
        weight = knot.weight(sign * self.plate.defocus) * self.plate.weight
        return torch.cat([weight, weight * self.plate.light])

    def _hidden_in(self, knots: list[Knot], sign: int) -> set[Knot]:
        radius = (sign * self.plate.defocus)[self.plate.weight > 0].detach()
        if not radius.numel():
            return set()
        low, high = float(radius.min()), float(radius.max())
        return {knot for knot in knots if low < knot.above and high > knot.below}

    def _place(self, tiles: Tensor, index: Tensor | None = None) -> Tensor:
        return self.tiles[0].assemble(tiles, index)[:, : self.size[0], : self.size[1]]

    def _inverse(self, spectrum: Tensor) -> Tensor:
        blurred: Tensor = torch.fft.irfft2(spectrum, s=self.fft_size)
        return blurred[..., : self.size[0], : self.size[1]]


def full_tiles(surface: Surface) -> Tiles:
    """Tiles for `blur_full`; the border is repeated, which small kernels cannot tell from a continued scene."""
    return Tiles(surface.planes(), FULL_TILE, FULL_HALO, "replicate")
