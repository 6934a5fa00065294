"""One setting of one lens, as numbers: nothing here needs PyTorch, so that the scene index, the status and the gate start fast.

Two lens models share one name, `CocModel`. "contract" holds the image distance at the focal length, which is what a ray
tracer with image distance f shows and what all generated data follow. "thin_lens" is the textbook lens, which moves its
image plane when it focuses near; photographs such as RealBokeh follow it. The second is larger by S / (S - f).
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, get_args

if TYPE_CHECKING:
    from torch import Tensor

SENSOR_WIDTH_MM = 36.0
CocModel = Literal["contract", "thin_lens"]


Number = TypeVar("Number", float, "Tensor")


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
    def infinity_coc_m(self) -> "float | Tensor": ...

    @property
    def focus_m(self) -> "float | Tensor": ...


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


def coc_to_radius_px(coc_m: "Tensor | float", px_per_mm: "float | Tensor") -> "Tensor | float":
    """Diameter on the sensor in metres -> radius in pixels of the full frame."""
    return coc_m * (px_per_mm * 1000 / 2)


def disparity_gain_px(lens: Lens, px_per_mm: float) -> float:
    """K of disparity renderers in calibrated units: radius_px = K * |1/d - 1/S| with disparity in 1/m."""
    radius = coc_to_radius_px(lens.infinity_coc_m * lens.focus_m, px_per_mm)
    assert isinstance(radius, float)
    return radius
