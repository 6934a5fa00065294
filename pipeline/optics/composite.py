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
from pipeline.optics.kernels import aperture_kernel, fast_length, kernel_spectrum
from pipeline.optics.layers import FULL_HALO, FULL_TILE, HALF_TILE, Knot, Tiles, halve

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
        height, width = self.free.shape[-2:]
        spread = spread[:, :height, :width]
        cover = spread[:1].clamp(min=TINY)
        taken = torch.minimum(spread[:1].clamp(min=0), self.free)
        self.light = self.light + spread[1:] * (taken / cover)
        self.free = self.free - taken

    def spread(self) -> Tensor:
        """(4, H, W): what has been covered so far, as one spread."""
        return torch.cat([1 - self.free, self.light])


def blur_small(tiles: Tiles, knots: list[Knot], sign: int, aperture: Aperture) -> Tensor | None:
    """All full-grid layers of one sign, summed.

    Args:
        tiles: of (1, r, g, b, signed radius), from `full_tiles`.
        knots: the full-grid layers.
        sign: +1 behind the focus plane, -1 in front.
        aperture: shape of the opening.

    Returns:
        (4, rows*t, columns*t) spread, or None if no pixel has such a radius.
    """
    total: Tensor | None = None
    for knot, index in tiles.touching(knots, sign):
        cut = tiles.data[index]
        layer = knot.weight(sign * cut[:, 4:]) * cut[:, :4]
        kernel = aperture_kernel(aperture, sign * knot.radius, 1, 1.0)
        spectrum = torch.fft.rfft2(layer) * kernel_spectrum(kernel, (layer.shape[-2], layer.shape[-1]), layer)
        if total is None:
            total = spectrum.new_zeros((len(tiles.data), *spectrum.shape[1:]))
        total = total.index_add(0, index, spectrum)
    if total is None:
        return None
    edge = FULL_TILE + 2 * FULL_HALO
    blurred = torch.fft.irfft2(total, s=(edge, edge))
    return tiles.assemble(blurred[..., FULL_HALO:-FULL_HALO, FULL_HALO:-FULL_HALO])


class HalfGrid:
    """The half-resolution grid of one picture: size of its FFT and the frame that coverage is measured against.

    Args:
        tiles: of (1, r, g, b, signed radius), from `half_tiles`.
        size: (h, w) of the grid.
        max_radius_px: largest kernel radius, full-resolution pixels.
    """

    def __init__(self, tiles: Tiles, size: tuple[int, int], max_radius_px: float) -> None:
        self.tiles, self.size = tiles, size
        room = int(max_radius_px / 2) + 4  # half the soft edge and the sharpening
        self.fft_size = (fast_length(max(size[0] + room, 2 * room)), fast_length(max(size[1] + room, 2 * room)))
        inside = self._place(halve(tiles.data[:, :1]))
        self.inside = torch.fft.rfft2(inside, s=self.fft_size)

    def blur(self, knots: list[Knot], sign: int, aperture: Aperture, plate: Plate) -> Tensor:
        """Blur the layers of one sign and stack them by themselves, nearest first.

        Args:
            knots: the half-grid layers, by increasing radius.
            sign: +1 behind the focus plane, -1 in front.
            aperture: shape of the opening.
            plate: hidden surfaces, which lie in the same layers as the visible ones.

        Returns:
            (4, h, w) spread.
        """
        ordered = knots[::sign]
        stack = Stack(plate.weight)
        visible = dict(self.tiles.touching(ordered, sign))
        low, high = _hidden_range(plate, sign)
        for knot in ordered:
            layer: Tensor | None = None
            if knot in visible:
                index = visible[knot]
                cut = self.tiles.data[index]
                half = halve(knot.weight(sign * cut[:, 4:]) * cut[:, :4])
                empty = half.new_zeros((len(self.tiles.data), *half.shape[1:]))
                layer = self._place(empty.index_copy(0, index, half))
            if low < knot.above and high > knot.below:
                weight = knot.weight(sign * plate.defocus) * plate.weight
                hidden = torch.cat([weight, weight * plate.light])
                layer = hidden if layer is None else layer + hidden
            if layer is None:
                continue
            kernel = aperture_kernel(aperture, sign * knot.radius, 2, 2.0)
            spectrum = kernel_spectrum(kernel, self.fft_size, layer)
            spread = self._inverse(torch.fft.rfft2(layer, s=self.fft_size) * spectrum)
            coverage = self._inverse(self.inside * spectrum)
            stack.add(spread / coverage)
        return stack.spread()

    def _place(self, tiles: Tensor) -> Tensor:
        return self.tiles.assemble(tiles)[:, : self.size[0], : self.size[1]]

    def _inverse(self, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft2(spectrum, s=self.fft_size)[..., : self.size[0], : self.size[1]]


def full_tiles(light: Tensor, defocus: Tensor) -> Tiles:
    """Tiles for `blur_small`; the border is repeated, which small kernels cannot tell from a continued scene."""
    return Tiles(torch.cat([torch.ones_like(defocus), light, defocus]), FULL_TILE, FULL_HALO, "replicate")


def half_tiles(light: Tensor, defocus: Tensor) -> Tiles:
    """Tiles for `HalfGrid`; outside the frame there is nothing (a zero in the first channel)."""
    return Tiles(torch.cat([torch.ones_like(defocus), light, defocus]), HALF_TILE, 1, "constant")


def _hidden_range(plate: Plate, sign: int) -> tuple[float, float]:
    """Smallest and largest radius of one sign among the hidden pixels; an empty range if there are none."""
    radius = (sign * plate.defocus)[plate.weight > 0].detach()
    if not radius.numel():
        return float("inf"), float("-inf")
    return float(radius.min()), float(radius.max())
