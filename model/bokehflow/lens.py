"""One lens per sample, as tensors, and the blur it gives: everything goes through the formulas of `pipeline.optics`.

Special: pixels per millimetre come with the lens, from the full frame, never from the width of a tensor, so that a crop is
blurred like the frame it was cut from.

Shape letters: B = samples; H, W = image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from model.bokehflow.config import BokehFlowConfig, BokehFlowError
from pipeline.optics import CocModel, Lens, defocus_px, infinity_coc

# Over which an unseen scene's depth is spread evenly in its logarithm
UNSEEN_DEPTH_M = (0.5, 50.0)


@dataclass(frozen=True, kw_only=True)
class LensBatch:
    """The lenses of a batch, one per sample.

    Args:
        f_m: (B,) focal lengths, metres.
        f_number: (B,) N.
        focus_m: (B,) focus distances, metres.
        px_per_mm: (B,) pixels per millimetre of sensor of the full frame (`pipeline.optics.px_per_mm`).
        max_radius_px: (B,) radii above this are clipped, as the data's own images were; None for the config's limit
            alone. The smaller of both holds.

    Raises:
        BokehFlowError: shapes differ, or a value is not finite and > 0.
    """

    f_m: Tensor
    f_number: Tensor
    focus_m: Tensor
    px_per_mm: Tensor
    max_radius_px: Tensor | None = None

    def __post_init__(self) -> None:
        for name, value in self._tensors().items():
            if value.dim() != 1 or value.shape != self.f_m.shape or not value.is_floating_point():
                raise BokehFlowError(
                    f"{name} must be a floating point tensor of shape (B,) like f_m {tuple(self.f_m.shape)}, "
                    f"got {value.dtype} {tuple(value.shape)}"
                )
            bad = value.detach()[~(torch.isfinite(value) & (value > 0))]
            if len(bad):
                raise BokehFlowError(f"{name} must be finite and > 0 for every sample, got {float(bad[0]):g}")

    @classmethod
    def of(
        cls,
        lenses: Lens | Sequence[Lens],
        px_per_mm: float | Sequence[float],
        max_radius_px: float | Sequence[float] | None = None,
    ) -> "LensBatch":
        """From lenses of `pipeline.optics`; single numbers hold for all of them."""
        lenses = [lenses] if isinstance(lenses, Lens) else list(lenses)

        def column(values: float | Sequence[float]) -> Tensor:
            several = [values] * len(lenses) if isinstance(values, int | float) else list(values)
            return torch.tensor(several, dtype=torch.float32)

        return cls(
            f_m=column([lens.f_m for lens in lenses]),
            f_number=column([lens.f_number for lens in lenses]),
            focus_m=column([lens.focus_m for lens in lenses]),
            px_per_mm=column(px_per_mm),
            max_radius_px=None if max_radius_px is None else column(max_radius_px),
        )

    def __len__(self) -> int:
        return len(self.f_m)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "LensBatch":
        """On another device or in another precision."""
        return replace(self, **{name: value.to(device, dtype) for name, value in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class _PerSample:
    """What `pipeline.optics` needs of the lenses, shaped to broadcast against (B, 1, H, W)."""

    infinity_coc_m: Tensor
    focus_m: Tensor


def check_focus(lens: LensBatch, coc_model: CocModel) -> None:
    """A thin lens focuses only beyond its focal length.

    Raises:
        BokehFlowError: a sample does not.
    """
    if coc_model == "thin_lens" and bool((lens.focus_m <= lens.f_m).any()):
        at = int((lens.focus_m <= lens.f_m).nonzero()[0, 0])
        raise BokehFlowError(
            f"a thin lens focuses only beyond its focal length: sample {at} has focus_m={float(lens.focus_m[at]):g} and "
            f"f_m={float(lens.f_m[at]):g}; focus farther away"
        )


def infinity_radius_px(lens: LensBatch, coc_model: CocModel) -> Tensor:
    """(B,) blur radius of a point at infinity, px of the full frame."""
    return infinity_coc(lens.f_m, lens.f_number, lens.focus_m, coc_model) * (lens.px_per_mm * 1000 / 2)


def radius_limit_px(lens: LensBatch, config: BokehFlowConfig) -> Tensor:
    """(B,) the largest radius that is rendered: the config's, scaled to the full frame, or the data's if smaller."""
    limit = lens.px_per_mm * (config.max_radius_px * config.sensor_width_mm / config.reference_width_px)
    return limit if lens.max_radius_px is None else torch.minimum(limit, lens.max_radius_px)


def blur_radius_px(depth_m: Tensor, lens: LensBatch, config: BokehFlowConfig) -> tuple[Tensor, Tensor]:
    """Signed blur radius per pixel, and what share of the pixels was clipped.

    Args:
        depth_m: (B, 1, H, W) metres, > 0; not checked.
        lens: B lenses.
        config: for the lens model and the limit.

    Returns:
        (B, 1, H, W) radius in pixels of the full frame, < 0 in front of the focus plane, at most `radius_limit_px` in size;
        (B,) share in [0, 1] of pixels beyond that, detached.
    """
    at = (-1, 1, 1, 1)
    lenses = _PerSample(
        infinity_coc(lens.f_m, lens.f_number, lens.focus_m, config.coc_model).reshape(at), lens.focus_m.reshape(at)
    )
    radius = defocus_px(depth_m, lenses, lens.px_per_mm.reshape(at), check=False)
    limit = radius_limit_px(lens, config).reshape(at)
    clipped = (radius.detach().abs() > limit).float().mean((1, 2, 3))
    return torch.maximum(torch.minimum(radius, limit), -limit), clipped


def mean_radius_share(depth_m: Tensor, lens: LensBatch, config: BokehFlowConfig) -> Tensor:
    """(B,) mean blur radius over the largest, of a scene whose depth is known, (B, 1, H, W) metres; in [0, 1]."""
    radius, _ = blur_radius_px(depth_m, lens, config)
    return radius.abs().mean((1, 2, 3)) / radius_limit_px(lens, config)


def unseen_mean_radius_share(lens: LensBatch, config: BokehFlowConfig) -> Tensor:
    """(B,) the same for an unseen scene: the exact mean over depth that is log-uniform in 0.5 to 50 m.

    With r the radius at infinity, R the limit and u = ln d, the share is min(1, r/R |1 - S/d|). It reaches 1 below
    S / (1 + R/r) and, where r > R, above S / (1 - R/r); between, |1 - S/d| du has the integral -+(ln d + S/d).
    """
    near, far = UNSEEN_DEPTH_M
    ratio = infinity_radius_px(lens, config.coc_model) / radius_limit_px(lens, config)
    focus = lens.focus_m
    inner_near = (focus / (1 + 1 / ratio)).clamp(near, far)
    # beyond `far` nothing counts, so a radius that never saturates can saturate there
    inner_far = (focus / (1 - 1 / ratio).clamp(min=1e-6)).clamp(near, far)
    middle = focus.clamp(near, far)

    def integral(d: Tensor) -> Tensor:
        return torch.log(d) + focus / d

    between = (integral(inner_near) - integral(middle)) + (integral(inner_far) - integral(middle))
    saturated = torch.log(inner_near / near) + torch.log(far / inner_far)
    return (saturated + ratio * between) / math.log(far / near)
