"""The lens renderer: an all-in-focus picture and its signed defocus become the photograph of a real opening.

Special: works in linear light on layers at fixed radii, with coverages that add up and a background that is extended
under whatever hides it (see `layers`, `composite`, `background`). Cost grows with the number of layers, not with the
radius squared. Not a ray tracer: a single picture does not hold what nearer surfaces hide; that part is filled, not
known.

Shape letters: B = samples; H, W = picture.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pipeline.optics.aperture import Aperture
from pipeline.optics.background import hidden_background
from pipeline.optics.bridge import bridge_thin
from pipeline.optics.color import linear_to_srgb, srgb_to_linear
from pipeline.optics.composite import HalfGrid, Stack, blur_full, refine
from pipeline.optics.edges import split_mixed
from pipeline.optics.fixed import TRACE, FixedShapes, is_sharp, render_fixed
from pipeline.optics.layers import FULL_HALO, FULL_TILE, SHARP_PX, Grid, Tiles, double, hat, radius_grid
from pipeline.optics.lens import OpticsError
from pipeline.optics.order import Unit, order_as_defocus, sort_by_order

Encoding = Literal["srgb", "linear"]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DEFAULT_APERTURE = Aperture()
SLACK = 0.1  # what resampling and networks overshoot; 8-bit values or unclipped light are caught


def render_lens_blur(
    image: Tensor,
    defocus_px: Tensor,
    *,
    order: Tensor | None = None,
    aperture: Aperture = DEFAULT_APERTURE,
    encoding: Encoding = "srgb",
    fixed: FixedShapes | None = None,
) -> Tensor:
    """Photograph an all-in-focus picture through a lens.

    Args:
        image: (B, 3, H, W) all-in-focus picture: sRGB in [0, 1], or linear light >= 0 without upper bound. Half
            precision is computed in float32.
        defocus_px: (B, 1, H, W) signed radius of the circle of confusion in pixels of this picture, < 0 in front of the
            focus plane, > 0 behind it (`pipeline.optics.defocus_px`).
        order: (B, 1, H, W) anything that grows with depth. It changes nothing where defocus already grows with depth
            or is clamped; where it contradicts defocus, it decides what lies in front.
        aperture: shape of the opening.
        encoding: "srgb" or "linear", of input and output alike.
        fixed: limits that make every shape known in advance; the host then never waits for the device, a CUDA graph can
            capture the call, and values are not looked at. Without gradients and `order` only. None adapts to the picture.

    Returns:
        (B, 3, H, W) photograph in the encoding, dtype and device of `image`. A sample without any radius above 0.5 px
        is returned as it is, bit for bit.

    Raises:
        OpticsError: a shape, dtype, device, encoding or value is not allowed; the message names it and what is.

    Example:
        >>> picture = torch.rand(1, 3, 32, 48)
        >>> render_lens_blur(picture, torch.full((1, 1, 32, 48), 4.0)).shape
        torch.Size([1, 3, 32, 48])
    """
    return render_traced(
        image, defocus_px, order=order, aperture=aperture, encoding=encoding, fixed=fixed, traced=False
    )[0]


def render_traced(
    image: Tensor,
    defocus_px: Tensor,
    *,
    order: Tensor | None = None,
    aperture: Aperture = DEFAULT_APERTURE,
    encoding: Encoding = "srgb",
    fixed: FixedShapes | None = None,
    traced: bool = True,
) -> tuple[Tensor, Tensor]:
    """`render_lens_blur`, and how much of each pixel's light came from behind something and was invented.

    Args:
        traced: False leaves the share out, (B, 1, 0, 0), and costs nothing.

    Returns:
        The photograph, and (B, 1, H, W) the share in [0, 1] of what covers a pixel that no pixel of the picture showed.
    """
    _validate(image, defocus_px, order, aperture, encoding, values=fixed is None)
    if fixed is not None and order is not None:
        raise OpticsError("order must be None with fixed shapes: what lies in front is then read from defocus alone")
    if fixed is not None and torch.is_grad_enabled() and (image.requires_grad or defocus_px.requires_grad):
        raise OpticsError("fixed shapes are for inference: call this without gradients, or without `fixed`")
    dtype = torch.float64 if torch.float64 in (image.dtype, defocus_px.dtype) else torch.float32
    # One sample after the other: memory stays that of one picture, and nothing of one lens can reach another sample.
    photographs, shares = [], []
    for b in range(len(image)):
        ordered = None if order is None else order[b]
        how = _How(aperture=aperture, encoding=encoding, fixed=fixed, traced=traced)
        photograph, share = _photograph(image[b], defocus_px[b].to(dtype), ordered, how)
        photographs.append(photograph)
        shares.append(share)
    return torch.stack(photographs), torch.stack(shares)


@dataclass(frozen=True, kw_only=True)
class _How:
    """What holds for all samples of a call."""

    aperture: Aperture
    encoding: str
    fixed: FixedShapes | None
    traced: bool


def _photograph(image: Tensor, defocus: Tensor, order: Tensor | None, how: _How) -> tuple[Tensor, Tensor]:
    """One sample: (3, H, W) and (1, H, W) -> (3, H, W) and the invented share, (1, H, W) or (1, 0, 0)."""
    if how.fixed is None and float(defocus.detach().abs().max()) <= SHARP_PX:
        return image, torch.zeros_like(defocus) if how.traced else defocus.new_zeros((1, 0, 0))
    wide = image.to(defocus.dtype)
    light = srgb_to_linear(wide) if how.encoding == "srgb" else wide
    if how.fixed is None:
        blurred, invented = _render(light, defocus, order, how.aperture, how.traced)
    else:
        defocus = defocus.clamp(-how.fixed.max_radius_px, how.fixed.max_radius_px)
        blurred, invented = render_fixed(light, defocus, how.fixed, how.aperture, how.traced)
    blurred = blurred.clamp(min=0)
    if how.encoding == "srgb":
        blurred = linear_to_srgb(blurred.clamp(max=1))
    photograph = blurred.to(image.dtype)
    if how.fixed is not None:
        sharp = is_sharp(defocus)
        photograph = torch.where(sharp, image, photograph)
        invented = torch.where(sharp, torch.zeros_like(invented), invented)
    return photograph, invented


def _render(
    light: Tensor, defocus: Tensor, order: Tensor | None, aperture: Aperture, traced: bool
) -> tuple[Tensor, Tensor]:
    """Linear light in, linear light out: every unit of layers is blurred and put behind the ones before it."""
    height, width = light.shape[-2:]
    layers = radius_grid(float(defocus.detach().abs().max()))
    units = _units(layers)
    farness = defocus
    if order is not None:
        units, agrees = sort_by_order(units, layers.visible.climb(defocus.detach()), order)
        farness = defocus if agrees else order_as_defocus(order, defocus)

    own, other = split_mixed(light, defocus)
    bridged = bridge_thin(own, farness)
    plate = hidden_background(own.light, defocus, farness, bridged)
    surfaces = [torch.cat(one.samples(layers.visible)) for one in (own, other) if one is not None]
    half = HalfGrid(surfaces, plate, layers, traced=traced)
    tiles = Tiles(surfaces, FULL_TILE, FULL_HALO)

    stack = Stack(light, traced=traced)
    for unit in units:
        for planes in surfaces if unit.sharp else []:
            stack.add(hat(planes[4:], 0) * planes[:4])
        if unit.full:
            stack.add(blur_full(tiles, unit.full, unit.sign, aperture))
        if unit.hidden and unit.sign > 0:
            stack.add(refine(_enlarge(half.hidden_in_focus(), height, width), bridged))
        if unit.half:
            stack.add(_enlarge(half.blur(unit.half, unit.sign, aperture), height, width))
    # A pixel that nothing reached keeps a trace of its own colour, so that the division always has something to divide.
    covered = 1 - stack.free
    invented = (stack.light[3:] / (covered + TRACE)).clamp(0, 1) if traced else light.new_zeros((1, 0, 0))
    return (stack.light[:3] + TRACE * light) / (covered + TRACE), invented


def _units(layers: Grid) -> list[Unit]:
    """What is stacked, from front to back along the signed defocus."""
    near, far = ([Unit(sign=sign, full=group) for group in layers.full] for sign in (-1, 1))
    return [
        Unit(sign=-1, half=layers.half),
        *near[::-1],
        Unit(sign=-1, half=layers.coarse, hidden=True),
        Unit(sign=1, sharp=True),
        *far,
        Unit(sign=1, half=layers.coarse, hidden=True),
        Unit(sign=1, half=layers.half),
    ]


def _enlarge(spread: Tensor | None, height: int, width: int) -> Tensor | None:
    return None if spread is None else double(spread, height, width)


def _validate(
    image: Tensor, defocus_px: Tensor, order: Tensor | None, aperture: Aperture, encoding: Encoding, values: bool = True
) -> None:
    if encoding not in get_args(Encoding):
        raise OpticsError(f"encoding must be one of {get_args(Encoding)}, got {encoding!r}")
    if not isinstance(aperture, Aperture):
        raise OpticsError(f"aperture must be an Aperture, got {type(aperture).__name__}")
    if image.dim() != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise OpticsError(f"image must be (B, 3, H, W) with at least one sample and pixel, got {tuple(image.shape)}")
    wanted = (image.shape[0], 1, *image.shape[2:])
    for name, value in (("image", image), ("defocus_px", defocus_px), ("order", order)):
        if value is None:
            continue
        if name != "image" and value.shape != wanted:
            raise OpticsError(f"{name} must be {wanted} to match image {tuple(image.shape)}, got {tuple(value.shape)}")
        if name != "order" and value.dtype not in DTYPES:
            raise OpticsError(f"{name} must be one of {', '.join(map(str, DTYPES))}, got {value.dtype}")
        if value.device != image.device:
            raise OpticsError(f"{name} must be on the device of image, {image.device}, got {value.device}")
        if not values:
            continue
        if name == "order" and bool(torch.isnan(value.detach()).any()):  # infinite depth is a sky, and an order
            raise OpticsError("order must not contain NaN; fill missing values first")
        if name != "order" and not bool(torch.isfinite(value.detach()).all()):
            raise OpticsError(f"{name} must be finite everywhere, got NaN or infinity; fill missing values first")
        if name == "image":
            check_image_range(value, encoding)


def check_image_range(image: Tensor, encoding: Encoding) -> None:
    """Raises OpticsError unless the values of a picture are those of its encoding, or hardly beyond."""
    low, high = (float(bound) for bound in torch.aminmax(image.detach()))
    if low < -SLACK or (encoding == "srgb" and high > 1 + SLACK):
        allowed = "in [0, 1]" if encoding == "srgb" else ">= 0"
        raise OpticsError(f"image must be {allowed} for encoding={encoding!r}, got values from {low:g} to {high:g}")
