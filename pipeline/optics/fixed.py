"""The lens renderer in shapes that are known in advance, without a question to the device: what a CUDA graph can capture.

Special: every layer up to a given radius is blurred for every pixel, empty or not, and the few pixels that an edge needs go
into a list with a fixed number of places. Nothing asks how many there are, so the host never waits. The formulas are those
of `render`; on one picture both agree to rounding. Layers are worked on several at once, which costs memory and saves
launches. Not faster on a CPU, where skipping what is empty is worth more.

Shape letters: H, W = picture; h, w = half-resolution grid; G = groups of layers; k = layers of a group; t = tile edge.
A "spread" is (4, ...): coverage, then light * coverage.
"""

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.kernel_launch import why_not_here
from pipeline.optics.aperture import Aperture
from pipeline.optics.background import hidden_background
from pipeline.optics.bridge import bridge_thin
from pipeline.optics.composite import TINY, Stack, refine
from pipeline.optics.edges import Surface, split_mixed
from pipeline.optics.kernels import fast_length, kernel_spectrum
from pipeline.optics.layers import FULL_HALO, FULL_TILE, SHARP_PX, Grid, Knot, double, halve, hat, mirror, radius_grid
from pipeline.optics.lens import OpticsError

GROUPS_AT_ONCE = 4  # of the half grid: 12 layers, at 720p some 60 MB for each of a handful of temporaries
TRACE = 1e-5
LEAST_PX = 16  # below, discs of the full grid would reflect at both borders
Kernels = Literal["auto", "plain", "triton"]
PROOF_TOLERANCE = 1e-4  # of light up to 1: ten times what rounding makes, far less than any mistake


@dataclass(frozen=True, kw_only=True)
class FixedShapes:
    """What has to be known of all pictures before the first.

    Args:
        max_radius_px: no radius is larger; larger ones are clipped to it.
        edge_share: places for pixels on edges, as a share of the picture's. Edge pixels beyond them, the last ones of
            the picture, are not split into their two surfaces; `picks.places_missing` counts them. Kernels need no places.
        kernels: "triton" renders with `fused`, in float32 only; "plain" with PyTorch's operations; "auto" with kernels on a
            CUDA device where they are installed and gave the plain form's picture before their first use.
    """

    max_radius_px: float
    edge_share: float = 0.25
    kernels: Kernels = "auto"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_radius_px) and self.max_radius_px > 0):
            raise OpticsError(f"max_radius_px must be finite and > 0, got {self.max_radius_px}")
        if not 0 < self.edge_share <= 1:
            raise OpticsError(f"edge_share must be in (0, 1], got {self.edge_share}")
        if self.kernels not in get_args(Kernels):
            raise OpticsError(f"kernels must be one of {get_args(Kernels)}, got {self.kernels!r}")


def render_fixed(
    light: Tensor, defocus: Tensor, fixed: FixedShapes, aperture: Aperture, traced: bool
) -> tuple[Tensor, Tensor]:
    """One picture through the lens.

    Args:
        light: (3, H, W) linear light.
        defocus: (1, H, W) signed radius, px, at most `fixed.max_radius_px` in size.
        fixed: limits.
        aperture: shape of the opening.
        traced: also say which share of the light was invented.

    Returns:
        (3, H, W) linear light, and the invented share, (1, H, W) or (1, 0, 0).

    Raises:
        OpticsError: kernels are asked for and cannot run.
    """
    if uses_kernels(light, fixed.kernels):
        from pipeline.optics.fused.render import render

        return render(light, defocus, fixed.max_radius_px, aperture, traced)
    height, width = light.shape[-2:]
    layers = radius_grid(fixed.max_radius_px)
    own, other = split_mixed(light, defocus, fixed.edge_share)
    assert other is not None, "a list of fixed length is never empty"
    bridged = bridge_thin(own, defocus, fixed.edge_share)
    plate = hidden_background(own.light, defocus, defocus, bridged, span_px=2 * fixed.max_radius_px)
    surfaces = [torch.cat(one.samples(layers.visible)) for one in (own, other)]
    half, full = _HalfGrid(surfaces, plate, layers, traced), _FullGrid(surfaces, layers)

    stack = Stack(light, traced=traced)
    stack.add(double(half.blur(layers.half, -1, aperture), height, width))
    for spread in full.blur(-1, aperture)[::-1]:
        stack.add(spread)
    stack.add(double(half.blur(layers.coarse, -1, aperture), height, width))
    for planes in surfaces:
        stack.add(hat(planes[4:], 0) * planes[:4])
    for spread in full.blur(1, aperture):
        stack.add(spread)
    stack.add(refine(double(half.hidden_in_focus(), height, width), bridged))
    stack.add(double(half.blur(layers.coarse, 1, aperture), height, width))
    stack.add(double(half.blur(layers.half, 1, aperture), height, width))
    covered = 1 - stack.free
    invented = (stack.light[3:] / (covered + TRACE)).clamp(0, 1) if traced else light.new_zeros((1, 0, 0))
    return (stack.light[:3] + TRACE * light) / (covered + TRACE), invented


def uses_kernels(light: Tensor, kernels: Kernels) -> bool:
    """Whether a picture is rendered with kernels.

    Args:
        light: (3, H, W).
        kernels: see `FixedShapes`.

    Raises:
        OpticsError: "triton" where kernels cannot run.
    """
    if kernels == "plain":
        return False
    missing = why_not_here(light.device)
    if missing is None and light.dtype != torch.float32:
        missing = f"they compute in float32, got {light.dtype}"
    if missing is None and min(light.shape[-2:]) < LEAST_PX:
        missing = f"they need at least {LEAST_PX} rows and columns, got {tuple(light.shape[-2:])}"
    if kernels == "triton":
        if missing is not None:
            raise OpticsError(f"the lens renderer's kernels cannot run: {missing}; kernels='plain' needs none")
        return True
    return missing is None and light.device.type == "cuda" and proved(light.device)


@lru_cache(maxsize=16)
def proved(device: torch.device) -> bool:
    """Whether the kernels give the plain form's picture on a device: rendered once, before the first picture of a process.

    The host waits for it, so it comes before a capture, with the calls that warm up. What fails says so in a warning.
    """
    rows, columns = torch.arange(48.0)[:, None], torch.arange(64.0)
    texture = torch.stack(
        [0.5 + 0.5 * torch.sin(rows * a + columns * b) for a, b in ((0.4, 0.9), (1.1, 0.3), (0.2, 2))]
    )
    defocus = (columns / 8 - 3).repeat(48, 1)
    defocus[10:30, 15:30], defocus[4:40, 45:47], defocus[0, 0] = -7, -5, 14
    light, defocus = texture.to(device), defocus[None].to(device)
    aperture = Aperture(blades=5)
    try:
        found, plain = (
            render_fixed(light, defocus, FixedShapes(max_radius_px=14, edge_share=1, kernels=kernels), aperture, True)
            for kernels in ("triton", "plain")
        )
    except Exception as error:  # a compiler can fail in any way, and the plain form is still right
        warnings.warn(f"the lens renderer's kernels fail on {device}, its plain form is used: {error}", stacklevel=2)
        return False
    apart = max(float((one - other).abs().max()) for one, other in zip(found, plain, strict=True))
    if not apart <= PROOF_TOLERANCE:
        warnings.warn(
            f"the lens renderer's kernels are off by {apart:.2g} on {device}, its plain form is used", stacklevel=2
        )
        return False
    return True


def is_sharp(defocus: Tensor) -> Tensor:
    """Scalar: no radius is large enough to blur anything."""
    return defocus.detach().abs().amax() <= SHARP_PX


class _FullGrid:
    """Layers of small radius, in overlapping tiles of the full grid."""

    def __init__(self, surfaces: list[Tensor], layers: Grid) -> None:
        self.size = (surfaces[0].shape[-2], surfaces[0].shape[-1])
        self.groups = layers.full
        self.rows, self.columns = (-(-n // FULL_TILE) for n in self.size)
        below, right = self.rows * FULL_TILE - self.size[0], self.columns * FULL_TILE - self.size[1]
        edge = FULL_TILE + 2 * FULL_HALO
        self.cut = []
        for planes in surfaces:
            padded = mirror(planes, (FULL_HALO, below + FULL_HALO), (FULL_HALO, right + FULL_HALO))
            windows = padded.unfold(1, edge, FULL_TILE).unfold(2, edge, FULL_TILE)  # (5, rows, columns, edge, edge)
            self.cut.append(windows.permute(1, 2, 0, 3, 4).reshape(-1, 5, edge, edge))

    def blur(self, sign: int, aperture: Aperture) -> list[Tensor]:
        """(4, H, W) spread of every group, by increasing radius."""
        spreads = []
        edge = FULL_TILE + 2 * FULL_HALO
        for group in self.groups:
            weighed = _weigh([(cut[:, 4:], cut[:, :4]) for cut in self.cut], group, sign)  # (k, tiles, 4, edge, edge)
            kernel = _kernels(weighed, group, sign, 1, (edge, edge), aperture)[:, None]
            spectrum = (torch.fft.rfft2(weighed) * kernel).sum(0)
            blurred = torch.fft.irfft2(spectrum, s=(edge, edge))[..., FULL_HALO:-FULL_HALO, FULL_HALO:-FULL_HALO]
            grid = blurred.reshape(self.rows, self.columns, 4, FULL_TILE, FULL_TILE).permute(2, 0, 3, 1, 4)
            whole = grid.reshape(4, self.rows * FULL_TILE, self.columns * FULL_TILE)
            spreads.append(whole[:, : self.size[0], : self.size[1]])
        return spreads


class _HalfGrid:
    """Layers of large radius and hidden surfaces, as `composite.HalfGrid`."""

    def __init__(self, surfaces: list[Tensor], plate: Surface, layers: Grid, traced: bool) -> None:
        self.size = (plate.weight.shape[-2], plate.weight.shape[-1])
        self.room = room = int(layers.half[-1][-1].radius / 2) + 4
        self.fft_size = (fast_length(self.size[0] + 2 * room), fast_length(self.size[1] + 2 * room))
        height, width = surfaces[0].shape[-2:]
        below, right = 2 * self.fft_size[0] - 2 * room - height, 2 * self.fft_size[1] - 2 * room - width
        # One pixel more on every side, for the taps of `halve`: what mirrors the grid itself.
        around = [mirror(planes, (2 * room, below), (2 * room, right)) for planes in surfaces]
        self.visible = [pad(planes[None], (1, 1, 1, 1), mode="replicate")[0] for planes in around]
        below, right = (self.fft_size[k] - room - self.size[k] for k in range(2))
        hidden = mirror(torch.cat(plate.samples(layers.hidden)), (room, below), (room, right))
        self.position = hidden[4:]
        self.hidden = torch.cat([hidden[:4], hidden[:1]]) if traced else hidden[:4]

    def blur(self, groups: list[list[Knot]], sign: int, aperture: Aperture) -> Tensor:
        """(4, h, w) spread of all groups, 5 planes if traced, stacked nearest first."""
        ordered = groups[::sign]
        light: Tensor | None = None
        cover = self._crop(self.position).new_zeros((1, *self.size))
        for start in range(0, len(ordered), GROUPS_AT_ONCE):
            spreads = [self._blur_group(group, sign, aperture) for group in ordered[start : start + GROUPS_AT_ONCE]]
            spread = torch.stack(spreads)  # (G, 4, h, w)
            # Coverages add up to 1 at most: what a group takes is what its sum takes more than the one before it.
            own = spread[:, :1].clamp(min=0)
            filled = (own.cumsum(0) + cover).clamp(max=1)
            taken = filled - torch.cat([cover[None], filled[:-1]])
            added = (spread[:, 1:] * (taken / spread[:, :1].clamp(min=TINY))).sum(0)
            light = added if light is None else light + added
            cover = filled[-1]
        assert light is not None, "there are always layers"
        return torch.cat([cover, light])

    def hidden_in_focus(self) -> Tensor:
        """(4, h, w) spread of the hidden surfaces that are hardly out of focus."""
        return self._crop(hat(self.position, 0) * self.hidden)

    def _blur_group(self, group: list[Knot], sign: int, aperture: Aperture) -> Tensor:
        position = sign * self.position
        layer = torch.stack([hat(position, knot.hidden_step) for knot in group]) * self.hidden  # (k, 4, fft h, fft w)
        if group[0].step >= 0:
            seen = halve(_weigh([(planes[4:], planes[:4]) for planes in self.visible], group, sign))
            layer = layer + pad(seen, (0, 0, 0, 0, 0, len(self.hidden) - 4))
        kernel = _kernels(layer, group, sign, 2, self.fft_size, aperture)
        spectrum = (torch.fft.rfft2(layer) * kernel).sum(0)
        blurred: Tensor = torch.fft.irfft2(spectrum, s=self.fft_size)
        return self._crop(blurred)

    def _crop(self, planes: Tensor) -> Tensor:
        return planes[..., self.room : self.room + self.size[0], self.room : self.room + self.size[1]]


def _weigh(surfaces: list[tuple[Tensor, Tensor]], group: list[Knot], sign: int) -> Tensor:
    """Positions (..., 1, H, W) and samples (..., 4, H, W) of the surfaces -> (k, ..., 4, H, W), each layer's own."""
    total: Tensor | None = None
    for position, samples in surfaces:
        signed = sign * position
        share = torch.stack([hat(signed, knot.step) for knot in group])
        total = share * samples if total is None else torch.addcmul(total, share, samples)
    assert total is not None
    return total


def _kernels(
    like: Tensor, group: list[Knot], sign: int, step: int, size: tuple[int, int], aperture: Aperture
) -> Tensor:
    """(k, 1, h, w//2+1) spectra."""
    spectra = [
        kernel_spectrum(
            aperture, sign * knot.radius, step, float(step), size=size, dtype=like.dtype, device=like.device
        )
        for knot in group
    ]
    return torch.stack(spectra)[:, None]
