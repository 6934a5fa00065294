"""Circle of confusion, defocus and focus maps: the formulas that every stage calls and none repeats; lenses are in `lens`."""

import math

import torch
from torch import Tensor

from pipeline.optics.lens import AnyLens, Lens, OpticsError, coc_to_radius_px


def _signed_coc(depth_m: Tensor, lens: AnyLens, check: bool = True) -> Tensor:
    if not torch.is_floating_point(depth_m):
        raise OpticsError(f"depth_m must be a floating point tensor in metres, got {depth_m.dtype}")
    if depth_m.dtype == torch.float16:
        depth_m = depth_m.float()  # stored depth: its quotient with S needs more than 11 bits
    if check and depth_m.numel() and not bool((depth_m > 0).all()):  # NaN fails too
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


def defocus_px(depth_m: Tensor, lens: AnyLens, px_per_mm: float | Tensor, *, check: bool = True) -> Tensor:
    """Signed blur radius: positive behind the focus plane, negative in front of it. Not clamped.

    Args:
        depth_m: (..., H, W) z-depth, metres, > 0.
        lens: the lens, or tensors of lenses that broadcast against depth, (B, 1, 1, 1) for one per sample.
        px_per_mm: of the full frame, see `px_per_mm`; likewise.
        check: False where depth is positive by construction, as a network's is: looking would make the host wait.

    Returns:
        (..., H, W) radius of the circle of confusion in pixels, increasing with depth. Differentiable in the lens too.

    Raises:
        OpticsError: a depth is not positive or is NaN.
    """
    signed = coc_to_radius_px(_signed_coc(depth_m, lens, check), px_per_mm)
    assert isinstance(signed, Tensor)
    return signed


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
