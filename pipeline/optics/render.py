"""The lens renderer: an all-in-focus picture and its signed defocus become the photograph of a real opening.

Special: works in linear light on layers at fixed radii, with coverages that add up and a background that is extended under
whatever hides it (see `layers`, `composite`, `background`). Cost grows with the number of layers, not with the radius
squared. Not a ray tracer: a single picture does not hold what nearer surfaces hide; that part is filled, not known.

Shape letters: B = samples; H, W = picture.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from pipeline.optics.aperture import Aperture
from pipeline.optics.background import Plate, hidden_background
from pipeline.optics.coc import OpticsError
from pipeline.optics.color import linear_to_srgb, srgb_to_linear
from pipeline.optics.composite import HalfGrid, Stack, blur_small, full_tiles, half_tiles
from pipeline.optics.layers import FULL_GRID_PX, HALF_GRID_PX, SHARP_PX, double, radius_grid

Encoding = Literal["srgb", "linear"]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DEFAULT_APERTURE = Aperture()
TRACE = 1e-5


def render_lens_blur(
    image: Tensor,
    defocus_px: Tensor,
    *,
    order: Tensor | None = None,
    aperture: Aperture = DEFAULT_APERTURE,
    encoding: Encoding = "srgb",
) -> Tensor:
    """Photograph an all-in-focus picture through a lens.

    Args:
        image: (B, 3, H, W) all-in-focus picture: sRGB in [0, 1], or linear light >= 0 without upper bound. Half precision
            is computed in float32.
        defocus_px: (B, 1, H, W) signed radius of the circle of confusion in pixels of this picture, < 0 in front of the
            focus plane, > 0 behind it (`pipeline.optics.defocus_px`).
        order: (B, 1, H, W) anything that grows with depth. Needed only where defocus does not tell front from back.
        aperture: shape of the opening.
        encoding: "srgb" or "linear", of input and output alike.

    Returns:
        (B, 3, H, W) photograph in the encoding, dtype and device of `image`. A sample without any radius above 0.5 px is
        returned as it is, bit for bit.

    Raises:
        OpticsError: a shape, dtype, device, encoding or value is not allowed; the message names it and what is.

    Example:
        >>> picture = torch.rand(1, 3, 32, 48)
        >>> render_lens_blur(picture, torch.full((1, 1, 32, 48), 4.0)).shape
        torch.Size([1, 3, 32, 48])
    """
    _validate(image, defocus_px, order, aperture, encoding)
    dtype = torch.float64 if torch.float64 in (image.dtype, defocus_px.dtype) else torch.float32
    # One sample after the other: memory stays that of one picture, and nothing of one lens can reach another sample.
    photographs = [
        _photograph(image[b], defocus_px[b].to(dtype), None if order is None else order[b], aperture, encoding)
        for b in range(len(image))
    ]
    return torch.stack(photographs)


def _photograph(image: Tensor, defocus: Tensor, order: Tensor | None, aperture: Aperture, encoding: str) -> Tensor:
    """One sample: (3, H, W) and (1, H, W) -> (3, H, W)."""
    if float(defocus.detach().abs().max()) <= SHARP_PX:
        return image
    wide = image.to(defocus.dtype)
    light = srgb_to_linear(wide) if encoding == "srgb" else wide
    blurred = _render(light, defocus, aperture).clamp(min=0)
    if encoding == "srgb":
        blurred = linear_to_srgb(blurred.clamp(max=1))
    return blurred.to(image.dtype)


def _render(light: Tensor, defocus: Tensor, aperture: Aperture) -> Tensor:
    """Linear light in, linear light out: front half grid, front full grid, sharp, back full grid, back half grid."""
    height, width = light.shape[-2:]
    half_size = ((height + 1) // 2, (width + 1) // 2)
    max_radius = float(defocus.detach().abs().max())
    small, large = radius_grid(max_radius)
    plate = hidden_background(light, defocus)
    grid = HalfGrid(half_tiles(light, defocus), half_size, large[-1].radius) if max_radius > FULL_GRID_PX[-1] else None
    tiles = full_tiles(light, defocus)

    stack = Stack(light)
    for sign in (-1, 1):
        fine = blur_small(tiles, small, sign, aperture)
        coarse: Tensor | None = None
        if grid is not None:
            coarse = double(grid.blur(large, sign, aperture, plate), height, width)
        if sign < 0:
            stack.add(coarse)
            stack.add(fine)
            stack.add(_sharp(light, defocus))
        else:
            stack.add(fine)
            stack.add(double(_hidden_in_focus(plate), height, width))
            stack.add(coarse)
    # A pixel that nothing reached keeps a trace of its own colour, so that the division always has something to divide.
    covered = 1 - stack.free
    return (stack.light + TRACE * light) / (covered + TRACE)


def _sharp(light: Tensor, defocus: Tensor) -> Tensor:
    """(4, H, W) spread of the pixels in focus."""
    weight = 1 - ((defocus.abs() - SHARP_PX) / (FULL_GRID_PX[0] - SHARP_PX)).clamp(0, 1)
    return torch.cat([weight, weight * light])


def _hidden_in_focus(plate: Plate) -> Tensor:
    """(4, h, w) spread of the hidden surfaces that the half grid does not blur: they are a smooth guess already."""
    weight = plate.weight * (HALF_GRID_PX - plate.defocus.abs()).clamp(0, 1)
    return torch.cat([weight, weight * plate.light])


def _validate(image: Tensor, defocus_px: Tensor, order: Tensor | None, aperture: Aperture, encoding: str) -> None:
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
            raise OpticsError(f"{name} must be one of {[str(d) for d in DTYPES]}, got {value.dtype}")
        if value.device != image.device:
            raise OpticsError(f"{name} must be on the device of image, {image.device}, got {value.device}")
        if name != "order" and not bool(torch.isfinite(value.detach()).all()):
            raise OpticsError(f"{name} must be finite everywhere, got NaN or infinity; fill missing values first")
