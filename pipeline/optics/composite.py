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
    total: Tensor | None = None
    for one in tiles:
        for knot, index in one.touching(knots, sign):
            cut = one.data[index]
            spectrum = torch.fft.rfft2(knot.weight(sign * cut[:, 4:]) * cut[:, :4])
            kernel = kernel_spectrum(aperture_kernel(aperture, sign * knot.radius, 1, 1.0), (edge, edge), cut)
            if total is None:
                total = spectrum.new_zeros((len(one.data), *spectrum.shape[1:]))
            total.index_add_(0, index, spectrum * kernel)  # nothing saved for backward is overwritten
    if total is None:
        return None
    blurred = torch.fft.irfft2(total, s=(edge, edge))
    return tiles[0].assemble(blurred[..., FULL_HALO:-FULL_HALO, FULL_HALO:-FULL_HALO])


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
        self.fft_size = (
            fast_length(max(self.size[0] + room, 2 * room)),
            fast_length(max(self.size[1] + room, 2 * room)),
        )
        ones = Tiles(torch.ones_like(surfaces[0].defocus), HALF_TILE, 1, "constant")
        self.inside = torch.fft.rfft2(self._place(halve(ones.data)), s=self.fft_size)

    def visible(self, knots: list[Knot], sign: int) -> dict[Knot, Tensor]:
        """Layers that have visible pixels, (4, h, w) each."""
        layers: dict[Knot, Tensor] = {}
        for tiles in self.tiles:
            for knot, index in tiles.touching(knots, sign):
                cut = tiles.data[index]
                half = halve(knot.weight(sign * cut[:, 4:]) * cut[:, :4])
                empty = half.new_zeros((len(tiles.data), *half.shape[1:]))
                layer = self._place(empty.index_copy(0, index, half))
                layers[knot] = layers[knot] + layer if knot in layers else layer
        return layers

    def hidden(self, knots: list[Knot], sign: int) -> dict[Knot, Tensor]:
        """Layers that have hidden pixels, (4, h, w) each."""
        radius = (sign * self.plate.defocus)[self.plate.weight > 0].detach()
        if not radius.numel():
            return {}
        low, high = float(radius.min()), float(radius.max())
        layers = {}
        for knot in knots:
            if low < knot.above and high > knot.below:
                weight = knot.weight(sign * self.plate.defocus) * self.plate.weight
                layers[knot] = torch.cat([weight, weight * self.plate.light])
        return layers

    def blur(self, knots: list[Knot], sign: int, aperture: Aperture, *, hidden_only: bool = False) -> Tensor | None:
        """Blur the layers of one sign and stack them by themselves, nearest first.

        Args:
            knots: the layers, by increasing radius.
            sign: +1 behind the focus plane, -1 in front.
            aperture: shape of the opening.
            hidden_only: leave out what is visible.

        Returns:
            (4, h, w) spread, or None if all layers are empty.
        """
        visible = {} if hidden_only else self.visible(knots, sign)
        hidden = self.hidden(knots, sign)
        stack = Stack(self.plate.weight)
        for knot in knots[::sign]:
            parts = [layers[knot] for layers in (visible, hidden) if knot in layers]
            if parts:
                kernel = aperture_kernel(aperture, sign * knot.radius, 2, 2.0)
                spectrum = kernel_spectrum(kernel, self.fft_size, parts[0])
                spread = self._inverse(torch.fft.rfft2(sum(parts), s=self.fft_size) * spectrum)
                stack.add(spread / self._inverse(self.inside * spectrum))
        return stack.spread() if visible or hidden else None

    def _place(self, tiles: Tensor) -> Tensor:
        return self.tiles[0].assemble(tiles)[:, : self.size[0], : self.size[1]]

    def _inverse(self, spectrum: Tensor) -> Tensor:
        blurred: Tensor = torch.fft.irfft2(spectrum, s=self.fft_size)
        return blurred[..., : self.size[0], : self.size[1]]


def full_tiles(surface: Surface) -> Tiles:
    """Tiles for `blur_full`; the border is repeated, which small kernels cannot tell from a continued scene."""
    return Tiles(surface.planes(), FULL_TILE, FULL_HALO, "replicate")
