"""The training loss: L1 + (1 - SSIM) + 0.5 depth + 0.1 perceptual + 0.1 temporal, each term seen on its own.

For photographs two more, off by default: the squared error, which is what PSNR is made of, and L1 where the renderer invented.

Terms that cannot be computed for a batch (depth that nobody measured, a single frame, no VGG weights) are absent from
the result rather than zero, so that a log never shows a term that was not there.
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from model.evaluation.metrics import ssim, temporal_error
from model.evaluation.perceptual import CACHED_NAME, VggFeatures, find_weights, load_vgg
from pipeline.errors import UsageError

# Shape letters: B samples, T frames, H, W crop.


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """The factor of each term, >= 0; 0 turns a term off.

    Args:
        mse: squared error in sRGB.
        invented: L1 weighted by the share of the render that was filled, its mean over what was.
        perceptual: None means 0.1 where weights for VGG-16 are found and off otherwise; a number > 0 insists.
        perceptual_weights: file with VGG-16's weights; empty looks into PyTorch's cache.
    """

    l1: float = 1.0
    ssim: float = 1.0
    mse: float = 0.0
    invented: float = 0.0
    depth: float = 0.5
    perceptual: float | None = None
    temporal: float = 0.1
    perceptual_weights: str = ""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"loss weight {item.name} must be finite and >= 0, got {value}")
        if not (self.l1 or self.ssim or self.mse):
            raise UsageError("one of the loss weights l1, ssim and mse must be > 0: the others do not ask for an image")


DEFAULT_PERCEPTUAL = 0.1
INVENTED_SLACK = 0.01  # a picture with hardly anything invented must not weigh like one that is full of it


def scale_invariant_log(predicted_m: Tensor, truth_m: Tensor, valid: Tensor) -> Tensor:
    """mean(d^2) - 0.5 mean(d)^2 with d = log prediction - log truth (Eigen et al. 2014), the mean over samples.

    Args:
        predicted_m, truth_m: (B, ...) metres, > 0 where valid.
        valid: (B, ...) bool.

    Returns:
        A scalar; samples without a valid pixel count as 0.
    """
    wide = torch.float64 if predicted_m.dtype == torch.float64 else torch.float32
    one = torch.ones((), dtype=wide, device=predicted_m.device)
    # Invalid pixels are replaced before the logarithm: after it, their gradients would be NaN.
    d = torch.where(valid, predicted_m.to(wide), one).log() - torch.where(valid, truth_m.to(wide), one).log()
    count = valid.flatten(1).sum(1).clamp(min=1)
    mean = d.flatten(1).sum(1) / count
    return (d.square().flatten(1).sum(1) / count - 0.5 * mean.square()).mean()


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The terms before weighting, by name, and their weighted sum."""

    values: dict[str, Tensor]
    total: Tensor


class BokehLoss(nn.Module):
    """The weighted sum for a segment of consecutive frames.

    Args:
        weights: of the terms.
        max_depth_m: predictions are bounded there, so truth beyond (sky is stored as 1000 m) is compared at the bound.

    Raises:
        UsageError: the perceptual term was asked for and there are no weights.

    `notice` says once, for the log, that the perceptual term is off and why; it is empty otherwise.
    """

    vgg: VggFeatures | None

    def __init__(self, weights: LossWeights, max_depth_m: float = 100.0) -> None:
        super().__init__()
        self.weights, self.max_depth_m = weights, max_depth_m
        self.vgg, self.notice = None, ""
        path = find_weights(Path(weights.perceptual_weights) if weights.perceptual_weights else None)
        wanted = weights.perceptual
        if wanted is None and path is None:
            self.notice = (
                f"the perceptual term is off: no {CACHED_NAME} in PyTorch's cache; give a file with "
                f"--perceptual_weights FILE to train with it"
            )
        elif wanted != 0 and path is None:
            raise UsageError(
                f"the perceptual term was asked for (weight {wanted}), and there are no VGG-16 weights: give a file with "
                f"--perceptual_weights FILE, or put {CACHED_NAME} into PyTorch's cache, or set its weight to 0"
            )
        elif wanted != 0 and path is not None:
            self.vgg = load_vgg(path)
        self._perceptual = DEFAULT_PERCEPTUAL if wanted is None else wanted

    @property
    def perceptual(self) -> float:
        """The weight that the perceptual term really has; 0 without weights to compute it with."""
        return 0.0 if self.vgg is None else self._perceptual

    def forward(
        self,
        bokeh: Tensor,
        truth: Tensor,
        depth_m: Tensor | None,
        truth_depth_m: Tensor | None,
        previous: tuple[Tensor, Tensor] | None = None,
        invented: Tensor | None = None,
    ) -> Terms:
        """Compare a segment of frames with the truth; always in float32.

        Args:
            bokeh, truth: (B, T, 3, H, W) in [0, 1].
            depth_m: (B, T, 1, H, W) predicted metres; None where depth was handed in.
            truth_depth_m: the same shape; values that are not finite and > 0 are left out. None when unknown.
            previous: prediction and truth of the frame before the segment, (B, 3, H, W) each, for the temporal term.
            invented: (B, T, 1, H, W) share of the render that was filled; None leaves its term out.
        """
        with torch.autocast(bokeh.device.type, enabled=False):
            bokeh, truth = bokeh.float(), truth.float()
            flat, flat_truth = bokeh.flatten(0, 1), truth.flatten(0, 1)
            values = {"l1": (flat - flat_truth).abs().mean(), "ssim": 1 - ssim(flat, flat_truth).mean()}
            if self.weights.mse:
                values["mse"] = (flat - flat_truth).square().mean()
            if self.weights.invented and invented is not None:
                share = invented.flatten(0, 1)
                values["invented"] = ((flat - flat_truth).abs() * share).mean() / (share.mean() + INVENTED_SLACK)
            if depth_m is not None and truth_depth_m is not None:
                depth_m = depth_m.float()
                valid = torch.isfinite(truth_depth_m) & (truth_depth_m > 0)
                bounded = truth_depth_m.clamp(max=self.max_depth_m)
                values["depth"] = scale_invariant_log(depth_m.flatten(0, 1), bounded.flatten(0, 1), valid.flatten(0, 1))
            if self.vgg is not None:
                pairs = zip(self.vgg(flat), self.vgg(flat_truth), strict=True)
                values["perceptual"] = torch.stack([(a - b).abs().mean() for a, b in pairs]).mean()
            if previous is not None:
                bokeh = torch.cat([previous[0].float()[:, None], bokeh], 1)
                truth = torch.cat([previous[1].float()[:, None], truth], 1)
            if bokeh.shape[1] > 1:
                values["temporal"] = temporal_error(bokeh, truth).mean()
            factors = {name: self._factor(name) for name in values}
            total = torch.stack([factors[name] * value for name, value in values.items() if factors[name] > 0]).sum()
            return Terms(values=values, total=total)

    def _factor(self, name: str) -> float:
        return self._perceptual if name == "perceptual" else float(getattr(self.weights, name))
