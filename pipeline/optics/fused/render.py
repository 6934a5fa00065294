"""One picture through the lens with the kernels of this folder, in the order of `fixed.render_fixed`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.kernel_launch import launch
from pipeline.optics.aperture import Aperture
from pipeline.optics.background import SLACK_PX
from pipeline.optics.bridge import CELL
from pipeline.optics.fused.tables import Batch, Lens, Shared, lens_tables, shared_tables

PIXELS = 256  # of a program that goes over a picture pixel by pixel
TILE = 16  # edge of a program's tile; a kernel of the full grid reaches 9 px, into the next tile at most
CELLS = 16  # of a program, each of 4 x 4 pixels


def render(
    light: Tensor, defocus: Tensor, max_radius_px: float, aperture: Aperture, traced: bool
) -> tuple[Tensor, Tensor]:
    """As `fixed.render_fixed`, every edge pixel split.

    Args:
        light: (3, H, W) linear light, float32.
        defocus: (1, H, W) signed radius, px, at most `max_radius_px` in size, float32.
        max_radius_px: no radius is larger.
        aperture: shape of the opening.
        traced: also say which share of the light was invented.

    Returns:
        (3, H, W) linear light, and the invented share, (1, H, W) or (1, 0, 0).
    """
    one = _Picture(light.contiguous(), defocus.contiguous(), max_radius_px, aperture, traced)
    with torch.cuda.device_of(light):  # type: ignore[no-untyped-call]  # Triton starts kernels on the current device
        own_light, own, other, edge = one.split()
        bridged = one.bridge(own_light, own)
        hidden = one.background(own_light, edge, bridged)
        spreads = one.blur_half(own, other, hidden)
        out = one.compose(own, other, bridged, spreads)
    return out[:3], out[3:] if traced else out.new_zeros((1, 0, 0))


@dataclass(frozen=True)
class _Picture:
    """The picture, and how it is to be rendered; arguments as those of `render`."""

    light: Tensor
    defocus: Tensor
    max_radius_px: float
    aperture: Aperture
    traced: bool

    @property
    def size(self) -> tuple[int, int]:
        return self.light.shape[-2], self.light.shape[-1]

    @property
    def half(self) -> tuple[int, int]:
        return math.ceil(self.size[0] / 2), math.ceil(self.size[1] / 2)

    @property
    def shared(self) -> Shared:
        return shared_tables(self.light.device)

    @property
    def lens(self) -> Lens:
        return lens_tables(self.aperture, self.max_radius_px, self.size, self.light.device)

    @property
    def planes(self) -> int:
        return 5 if self.traced else 4

    def split(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Own light (3, H, W), both surfaces (5, H, W), edge strength in the first plane of (5, H, W)."""
        from pipeline.optics.fused import edge_kernels as kernels

        shared, steps = self.shared, self.lens.visible
        course, direction = self._planes(5), self.defocus.new_empty(self.size, dtype=torch.int32)
        fit, evidence = self._planes(7), self._planes(2)
        own_light, own, other = self._planes(3), self._planes(5), self._planes(5)
        grid = self._grid(self.size)
        lines = (shared.place, shared.line, shared.variance)
        _start(kernels.find_course, grid, (self.defocus, shared.fade, shared.turns, *lines), (course, direction),
               (self.defocus, course, direction, shared.fade, shared.turns, *lines, *self.size), BLOCK=PIXELS)  # fmt: skip
        _start(kernels.fit_colours, grid, (self.light, self.defocus, course), (fit, evidence),
               (self.light, self.defocus, course, fit, evidence, *self.size), BLOCK=PIXELS)  # fmt: skip
        given = (self.light, self.defocus, course, direction, fit, evidence, *lines[:2], steps)
        _start(kernels.share_light, grid, given, (own_light, own, other),
               (*given, len(steps), own_light, own, other, *self.size), BLOCK=PIXELS)  # fmt: skip
        return own_light, own, other, course

    def bridge(self, own_light: Tensor, own: Tensor) -> Tensor:
        """(4, H, W) light behind thin things, and how far to believe it."""
        from pipeline.optics.fused import behind_kernels as kernels

        shared = self.shared
        cells = math.ceil(self.size[0] / CELL) * math.ceil(self.size[1] / CELL)
        sums, bridged = self.light.new_empty((2 * len(shared.rays), cells)), self._planes(4)
        given = (own_light, self.defocus, own, shared.rays, shared.stride)
        _start(kernels.sum_cells, (math.ceil(cells / CELLS),), (*given[:2], own[0], *given[3:]), (sums,),
               (*given, sums, *self.size), CELLS=CELLS)  # fmt: skip
        _start(kernels.bridge_pixels, self._grid(self.size), (*given[:2], own[0], *given[3:], sums), (bridged,),
               (*given, sums, bridged, *self.size), BLOCK=PIXELS)  # fmt: skip
        return bridged

    def background(self, own_light: Tensor, edge: Tensor, bridged: Tensor) -> Tensor:
        """(5, h, w) the hidden surface: weight, light * weight, position on the ladder."""
        from pipeline.optics.fused import background_kernels as kernels

        grid, half, steps = self._grid(self.half), self.half, self.lens.hidden
        blocks, weight, hidden = self._small(3), self._small(1), self._small(5)
        filled, spare = self._small(5), self._small(5)
        _start(kernels.make_blocks, grid, (own_light, self.defocus, edge[0]), (blocks, filled[1:]),
               (own_light, self.defocus, edge, blocks, filled, *self.size, *half), BLOCK=PIXELS)  # fmt: skip
        reach, farther = blocks[2], spare[0]
        doublings = math.ceil(math.log2((2 * self.max_radius_px + SLACK_PX) / 2 + 1))
        strides = [2**k for k in reversed(range(doublings))]
        for stride in strides:
            _start(kernels.look_farther, grid, (reach,), (farther,), (reach, farther, stride, *half), BLOCK=PIXELS)
            reach, farther = farther, reach
        _start(kernels.find_holes, grid, (blocks[:2], reach), (weight, filled[0]),
               (blocks, reach, weight, filled, *half), BLOCK=PIXELS)  # fmt: skip
        for stride in [*strides, 1]:
            _start(kernels.fill_step, grid, (blocks[0], weight, filled), (spare,),
                   (blocks, weight, filled, spare, stride, *half), BLOCK=PIXELS)  # fmt: skip
            filled, spare = spare, filled
        _start(kernels.finish, grid, (filled, weight, bridged, steps), (hidden,),
               (filled, weight, bridged, steps, len(steps), hidden, *self.size, *half), BLOCK=PIXELS)  # fmt: skip
        return hidden

    def blur_half(self, own: Tensor, other: Tensor, hidden: Tensor) -> Tensor:
        """(5, P, h, w) spreads of the half grid: near, near and coarse, far and coarse, far, hidden in focus."""
        from pipeline.optics.fused import half_kernels as kernels

        lens, surfaces = self.lens, (own, other, hidden)
        shape = (lens.room, *self.size, *self.half, *lens.fft_size)
        tiles = math.prod(math.ceil(n / TILE) for n in lens.fft_size)
        ranges = self.light.new_empty((tiles, 6))
        _start(kernels.find_ranges, (tiles,), surfaces, (ranges,), (*surfaces, ranges, *shape), TILE=TILE)
        spectrum = self.light.new_empty(
            (len(lens.batches), self.planes, lens.fft_size[0], lens.fft_size[1] // 2 + 1), dtype=torch.complex64
        )
        for batch, out in zip(lens.batches, torch.view_as_real(spectrum), strict=True):
            self._filter(batch, surfaces, ranges, out, shape)
        blurred = torch.fft.irfft2(spectrum, s=lens.fft_size).contiguous()
        spreads = self.light.new_empty((len(lens.first), self.planes, *self.half))
        _start(kernels.stack_groups, self._grid(self.half), (blurred, hidden, lens.first), (spreads,),
               (blurred, hidden, spreads, lens.first, lens.room, *self.half, *lens.fft_size),
               PLANES=self.planes, UNITS=len(lens.first) - 1, BLOCK=PIXELS)  # fmt: skip
        return spreads

    def _filter(self, batch: Batch, surfaces: tuple[Tensor, ...], ranges: Tensor, out: Tensor, shape: Any) -> None:
        """Make the layers of a group, blur them and add them up, as a spectrum (P, fh, fw // 2 + 1, 2)."""
        from pipeline.optics.fused import half_kernels as kernels

        layers = self.light.new_empty((len(batch.spectra), self.planes, *self.lens.fft_size))
        _start(kernels.make_layer, (len(ranges), len(layers)), (*surfaces, ranges), (layers,),
               (*surfaces, ranges, layers, batch.sign, batch.visible, batch.hidden, *shape),
               PLANES=self.planes, TILE=TILE)  # fmt: skip
        spectrum = torch.view_as_real(torch.fft.rfft2(layers).contiguous())
        bins = batch.spectra[0].numel()
        given = (spectrum, torch.view_as_real(batch.spectra))
        _start(kernels.filter_group, (math.ceil(bins / PIXELS), self.planes), given, (out,),
               (*given, out, len(layers), bins), PLANES=self.planes, BLOCK=PIXELS)  # fmt: skip

    def compose(self, own: Tensor, other: Tensor, bridged: Tensor, spreads: Tensor) -> Tensor:
        """(3, H, W) light, and if traced the invented share as a fourth plane."""
        from pipeline.optics.fused import compose_kernels as kernels

        lens = self.lens
        tiles = math.prod(math.ceil(n / TILE) for n in self.size)
        ranges, out = self.light.new_empty((tiles, 4)), self._planes(4 if self.traced else 3)
        seen = (own[4], other[0], other[4])
        _start(kernels.find_tiles, (tiles,), seen, (ranges,), (own, other, ranges, *self.size), TILE=TILE)
        given = (self.light, own, other, bridged, spreads, ranges, lens.groups, lens.weights)
        _start(kernels.compose, (tiles,), given, (out,),
               (*given, out, *self.size, *self.half, len(lens.groups) // 2),
               PLANES=self.planes, TILE=TILE, num_warps=8)  # fmt: skip
        return out

    def _planes(self, count: int) -> Tensor:
        return self.light.new_empty((count, *self.size))

    def _small(self, count: int) -> Tensor:
        return self.light.new_empty((count, *self.half))

    def _grid(self, size: tuple[int, int]) -> tuple[int]:
        return (math.ceil(size[0] * size[1] / PIXELS),)


def _start(
    kernel: Callable[..., Any], grid: tuple[int, ...], reads: tuple[Tensor, ...], writes: tuple[Tensor, ...],
    args: tuple[Any, ...], **constants: int,
) -> None:  # fmt: skip
    launch(kernel, grid, args, reads=reads, writes=writes, **constants)
