"""Colours of depth and focus maps, and of their legends.

Depth is coloured by inverse depth, which is what defocus is linear in. A sky, stored at 1000 m, would take most of the colours
of a distant scene for itself: what lies beyond 100 m has a flat colour of its own and no say in the ends of the ramp. Focus
maps are grey, with what is in focus tinted as a camera's focus peaking does.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.media.images import Picture

SKY_FROM_M = 100.0
SKY = (111, 134, 163)  # no colour of the ramp is near it
PEAKING = (46, 204, 150)  # what a focus map of 1 looks like
PEAKING_FROM = 0.9
_DEPTH_MAP = "magma"


@dataclass(frozen=True, kw_only=True)
class DepthScale:
    """What the colours of a scene's depth mean.

    Args:
        near_m, far_m: ends of the ramp, metres; both None where everything is sky.
        sky: whether anything lies beyond 100 m.
    """

    near_m: float | None
    far_m: float | None
    sky: bool

    def position(self, depth_m: float) -> float | None:
        """Where a depth lies on the ramp, linear in inverse depth: 0 near, 100 far; None off the ramp, in the sky."""
        if self.near_m is None or self.far_m is None or depth_m > SKY_FROM_M:
            return None
        if self.far_m <= self.near_m or depth_m <= 0:
            return 0.0
        share = (1 / self.near_m - 1 / depth_m) / (1 / self.near_m - 1 / self.far_m)
        return 100 * min(1.0, max(0.0, share))

    def colour(self, stored: npt.NDArray[Any]) -> Picture:
        """(H, W) metres -> (H, W, 3) uint8; unknown depth has the ramp's far end.

        Raises:
            InputError: the array is no picture.
        """
        depth_m = _plane(stored)
        known = np.isfinite(depth_m) & (depth_m > 0)
        share = np.zeros_like(depth_m)
        if self.near_m is not None and self.far_m is not None:
            near, far = 1 / self.near_m, 1 / self.far_m
            inverse = np.where(known, 1 / np.where(known, depth_m, 1), far)
            share = np.clip((inverse - far) / max(near - far, 1e-9), 0, 1)
        coloured = _lookup()[np.rint(share * 255).astype(np.uint8)]
        coloured[known & (depth_m > SKY_FROM_M)] = SKY
        return coloured


def depth_scale(stored: npt.NDArray[Any]) -> DepthScale:
    """Ends of the ramp: the 1st and 99th percentile of inverse depth, of what is not sky.

    Raises:
        InputError: the array is no picture, or no value is finite and > 0.
    """
    depth_m = _plane(stored)
    known = np.isfinite(depth_m) & (depth_m > 0)
    if not known.any():
        raise InputError("no depth value is finite and > 0")
    solid = known & (depth_m <= SKY_FROM_M)
    sky = bool((known & ~solid).any())
    if not solid.any():
        return DepthScale(near_m=None, far_m=None, sky=sky)
    far, near = np.percentile(1 / depth_m[solid], (1, 99))
    return DepthScale(near_m=float(1 / near), far_m=float(1 / far), sky=sky)


def colour_focus(stored: npt.NDArray[Any]) -> Picture:
    """A focus map, (H, W) in [0, 1] -> (H, W, 3) uint8; InputError when it is no picture."""
    focus = np.nan_to_num(_plane(stored), nan=0.0)
    return _focus_lookup()[np.rint(np.clip(focus, 0, 1) * 255).astype(np.uint8)]


def depth_gradient() -> list[str]:
    """CSS colours of the depth legend, near to far."""
    return [css(_lookup()[255 - position]) for position in range(0, 256, 15)]


def focus_gradient() -> list[str]:
    """CSS colours of the focus legend, blurred to sharp."""
    return [css(_focus_lookup()[position]) for position in range(0, 256, 15)]


def css(colour: Any) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _plane(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"an array of shape {array.shape} is no picture")
    return array.astype(np.float32)


@cache
def _lookup() -> Picture:
    """A colour map of matplotlib as (256, 3) uint8."""
    return np.asarray(matplotlib.colormaps[_DEPTH_MAP](np.arange(256), bytes=True)[:, :3], np.uint8)


@cache
def _focus_lookup() -> Picture:
    """Grey up to PEAKING_FROM, then into the peaking colour: (256, 3) uint8."""
    value = np.linspace(0, 1, 256)[:, None]
    grey = 18 + 190 * np.minimum(value / PEAKING_FROM, 1)
    tint = np.clip((value - PEAKING_FROM) / (1 - PEAKING_FROM), 0, 1)
    return np.rint(grey * (1 - tint) + np.array(PEAKING) * tint).astype(np.uint8)
