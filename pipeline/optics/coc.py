"""Circle of confusion, defocus and focus maps: the formulas that every stage calls and none repeats.

Two lens models share one name, `CocModel`. "contract" holds the image distance at the focal length, which is what a ray
tracer with image distance f shows and what all generated data follow. "thin_lens" is the textbook lens, which moves its
image plane when it focuses near; photographs such as RealBokeh follow it. The second is larger by S / (S - f).
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, get_args

import torch
from torch import Tensor

SENSOR_WIDTH_MM = 36.0
CocModel = Literal["contract", "thin_lens"]


Number = TypeVar("Number", float, Tensor)


class OpticsError(ValueError):
    """A lens, depth or picture that the physics does not allow; the message names the value and the allowed range."""


@dataclass(frozen=True, kw_only=True)
class Lens:
    """One setting of one lens.

    Args:
        f_m: focal length, metres.
        f_number: N, the focal length over the diameter of the opening.
        focus_m: focus distance S along the optical axis, metres.
        coc_model: "contract" for generated data, "thin_lens" for real photographs; needs focus_m > f_m.
    """

    f_m: float
    f_number: float
    focus_m: float
    coc_model: CocModel = "contract"

    def __post_init__(self) -> None:
        for name in ("f_m", "f_number", "focus_m"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise OpticsError(f"{name} must be finite and > 0, got {value}")
        if self.coc_model not in get_args(CocModel):
            raise OpticsError(f"coc_model must be one of {get_args(CocModel)}, got {self.coc_model!r}")
        if self.coc_model == "thin_lens" and self.focus_m <= self.f_m:
            raise OpticsError(
                f"a thin lens focuses only beyond its focal length: focus_m must be > f_m, "
                f"got focus_m={self.focus_m} and f_m={self.f_m}; use coc_model='contract' for closer focus"
            )

    @property
    def f_mm(self) -> float:
        return self.f_m * 1000

    @property
    def infinity_coc_m(self) -> float:
        """Diameter on the sensor that a point at infinity gets, metres: the factor before |d - S| / d."""
        return infinity_coc(self.f_m, self.f_number, self.focus_m, self.coc_model)


class AnyLens(Protocol):
    """What the formulas need of a lens: a `Lens`, or tensors that broadcast against depth, one lens per sample."""

    @property
    def infinity_coc_m(self) -> float | Tensor: ...

    @property
    def focus_m(self) -> float | Tensor: ...


def infinity_coc(f_m: Number, f_number: Number, focus_m: Number, coc_model: CocModel) -> Number:
    """Diameter on the sensor that a point at infinity gets, metres, for one lens or tensors of lenses; unchecked."""
    image_distance_term = focus_m if coc_model == "contract" else focus_m - f_m
    return f_m**2 / (f_number * image_distance_term)


def px_per_mm(full_width_px: int, sensor_width_mm: float = SENSOR_WIDTH_MM) -> float:
    """Pixels per millimetre of sensor, from the width of the *full frame*.

    A crop keeps the value of the frame it was cut from; a resized frame gets a new one.

    Args:
        full_width_px: width of the uncropped frame, pixels, > 0.
        sensor_width_mm: sensor width, millimetres, > 0.

    Raises:
        OpticsError: a width is not positive.
    """
    if not (full_width_px > 0 and sensor_width_mm > 0):
        raise OpticsError(f"widths must be > 0, got full_width_px={full_width_px}, sensor_width_mm={sensor_width_mm}")
    return full_width_px / sensor_width_mm


def _signed_coc(depth_m: Tensor, lens: AnyLens) -> Tensor:
    if not torch.is_floating_point(depth_m):
        raise OpticsError(f"depth_m must be a floating point tensor in metres, got {depth_m.dtype}")
    if depth_m.dtype == torch.float16:
        depth_m = depth_m.float()  # stored depth: its quotient with S needs more than 11 bits
    if depth_m.numel() and not bool((depth_m > 0).all()):  # NaN fails too
        bad = depth_m[~(depth_m > 0)][0].item()
        raise OpticsError(f"depth_m must be > 0 metres everywhere, got {bad}; fill missing depth first")
    # 1 - S/d equals (d - S)/d, is exactly 0 at d = S, stays finite for d = inf, and has a gradient everywhere.
    return lens.infinity_coc_m * (1 - lens.focus_m / depth_m)


def coc_diameter(depth_m: Tensor, lens: Lens) -> Tensor:
    """Circle of confusion on the sensor: f^2 / (N S) * |d - S| / d, with S - f for S in the divisor of a thin lens.

    Args:
        depth_m: (..., H, W) z-depth along the optical axis, metres, > 0; infinity is allowed. float16 is computed and
            returned as float32.
        lens: focal length, f-number, focus distance and lens model.

    Returns:
        (..., H, W) diameters in metres; zero exactly where depth equals the focus distance.

    Raises:
        OpticsError: a depth is not positive or is NaN.

    Example:
        >>> lens = Lens(f_m=0.05, f_number=2.0, focus_m=2.0)
        >>> coc_diameter(torch.tensor([2.0, 4.0]), lens)
        tensor([0.0000, 0.0003])
    """
    return _signed_coc(depth_m, lens).abs()


def coc_to_radius_px(coc_m: Tensor | float, px_per_mm: float | Tensor) -> Tensor | float:
    """Diameter on the sensor in metres -> radius in pixels of the full frame."""
    return coc_m * (px_per_mm * 1000 / 2)


def defocus_px(depth_m: Tensor, lens: AnyLens, px_per_mm: float | Tensor) -> Tensor:
    """Signed blur radius: positive behind the focus plane, negative in front of it. Not clamped.

    Args:
        depth_m: (..., H, W) z-depth, metres, > 0.
        lens: the lens, or tensors of lenses that broadcast against depth, (B, 1, 1, 1) for one per sample.
        px_per_mm: of the full frame, see `px_per_mm`; likewise.

    Returns:
        (..., H, W) radius of the circle of confusion in pixels, increasing with depth. Differentiable in the lens too.

    Raises:
        OpticsError: a depth is not positive or is NaN.
    """
    signed = coc_to_radius_px(_signed_coc(depth_m, lens), px_per_mm)
    assert isinstance(signed, Tensor)
    return signed


def disparity_gain_px(lens: Lens, px_per_mm: float) -> float:
    """K of disparity renderers in calibrated units: radius_px = K * |1/d - 1/S| with disparity in 1/m."""
    radius = coc_to_radius_px(lens.infinity_coc_m * lens.focus_m, px_per_mm)
    assert isinstance(radius, float)
    return radius


def focus_map(depth_m: Tensor, lens: Lens, max_coc_m: float) -> Tensor:
    """1 - clamp(CoC / max_coc, 0, 1): 1 in focus, 0 at least max_coc out of focus.

    Args:
        depth_m: (..., H, W) z-depth, metres, > 0.
        lens: the lens.
        max_coc_m: the calibrated saturation diameter, metres, > 0.

    Returns:
        (..., H, W) in [0, 1].

    Raises:
        OpticsError: max_coc_m is not positive, or a depth is not.
    """
    if not (math.isfinite(max_coc_m) and max_coc_m > 0):
        raise OpticsError(f"max_coc_m must be finite and > 0, got {max_coc_m}")
    return 1 - (coc_diameter(depth_m, lens) / max_coc_m).clamp(0, 1)


def focus_map_to_defocus_px(
    focus_map: Tensor, depth_m: Tensor, focus_m: float, max_coc_m: float, px_per_mm: float
) -> Tensor:
    """The signed radius that a stored focus map stands for: what a label-driven renderer blurs by.

    radius = (1 - focus_map) * max_coc / 2 * px_per_m; the sign comes from depth against the focus distance. It saturates
    at max_coc with the map, so label and picture agree.

    Args:
        focus_map: (..., H, W) in [0, 1], as stored.
        depth_m: (..., H, W) z-depth, metres; only its side of the focus plane matters.
        focus_m: focus distance, metres.
        max_coc_m: the saturation diameter the map was made with, metres.
        px_per_mm: of the full frame.

    Returns:
        (..., H, W) signed radius in pixels, float32 or wider.

    Raises:
        OpticsError: the shapes differ or max_coc_m is not positive.
    """
    if focus_map.shape != depth_m.shape:
        raise OpticsError(f"focus_map {tuple(focus_map.shape)} and depth_m {tuple(depth_m.shape)} must have one shape")
    if not (math.isfinite(max_coc_m) and max_coc_m > 0):
        raise OpticsError(f"max_coc_m must be finite and > 0, got {max_coc_m}")
    wide = focus_map.float() if focus_map.dtype == torch.float16 else focus_map
    radius = coc_to_radius_px((1 - wide) * max_coc_m, px_per_mm)
    assert isinstance(radius, Tensor)
    return torch.where(depth_m < focus_m, -radius, radius)
