"""The training loss of FocusMamba, each term seen on its own.

Terms that cannot be computed for a clip (time in a single frame, re-rendering before its step) are absent from the result
rather than zero, so that a log never shows a term that was not there.

Shape letters: B = samples; T = frames; H, W = crop.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.focusmamba.data import FocusBatch
from model.focusmamba.network import FocusOutput
from pipeline.errors import UsageError
from pipeline.media.warping import backward_warp
from pipeline.optics import Aperture, render_lens_blur
from pipeline.seeds import stable_seed

SIDE_SEEN_PX = 0.5  # below it nothing shows on which side a pixel lies
SIDE_WEIGHT_PX = 8.0  # the side's weight grows with the radius up to here: one large blur must not drown the rest
GRADIENT_SCALES = 3
RENDER_BORDER_PX = 8  # blur from outside the crop comes in there, and the renderer does not know it
RENDER_SIDE_PX = 96  # of the window that is re-rendered
BEHIND_PRIOR = 1e-6


@dataclass(frozen=True, kw_only=True)
class FocusLossWeights:
    """The factor of each term, >= 0; 0 turns a term off.

    Args:
        magnitude: L1 on log(1 + radius).
        bins: cross entropy of the radii that the head weighs, the label shared between its two neighbours.
        focus_map: L1 on the focus map.
        gradient: L1 on the differences of log(1 + radius), at 3 scales.
        variance: Gaussian negative log likelihood, from variance_from on, as a share of the run's steps.
        side: cross entropy of the side, weighted by the radius.
        temporal: change along the flow against the label's own.
        render: the photograph re-rendered from the sharp frame, from render_from on.
    """

    magnitude: float = 1.0
    bins: float = 0.2
    focus_map: float = 1.0
    gradient: float = 0.5
    variance: float = 0.1
    side: float = 0.2
    temporal: float = 0.5
    render: float = 0.5
    variance_from: float = 0.2
    render_from: float = 0.7

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"loss.{item.name} must be finite and >= 0, got {value}")


def magnitude_terms(out: FocusOutput, signed_px: Tensor, map_radius_px: Tensor) -> dict[str, Tensor]:
    """What one frame's map is held to: magnitude, focus map, gradient and side.

    Args:
        out: of one frame, (B, 1, H, W).
        signed_px: (B, 1, H, W) the label.
        map_radius_px: (B,) radius at which the focus map is 0.
    """
    truth = torch.log1p(signed_px.abs())
    limit = map_radius_px.view(-1, 1, 1, 1)
    ours, theirs = ((1 - (radius / limit).clamp(max=1)) for radius in (out.magnitude_px, signed_px.abs()))
    gradient = signed_px.new_zeros(())
    one, other = out.log_magnitude, truth
    for scale in range(GRADIENT_SCALES):
        if scale:
            one, other = (nn.functional.avg_pool2d(x, 2, ceil_mode=True) for x in (one, other))
        for dim in (-1, -2):
            gradient = gradient + (one.diff(dim=dim) - other.diff(dim=dim)).abs().mean() / (2 * GRADIENT_SCALES)
    # A pixel in focus has no side; far from focus the side shows best.
    weight = torch.where(signed_px.abs() < SIDE_SEEN_PX, 0.0, signed_px.abs().clamp(max=SIDE_WEIGHT_PX))
    entropy = nn.functional.binary_cross_entropy_with_logits(
        out.side_logit, (signed_px > 0).to(out.side_logit), reduction="none"
    )
    return {
        "magnitude": (out.log_magnitude - truth).abs().mean(),
        "focus_map": (ours - theirs).abs().mean(),
        "gradient": gradient,
        "side": (weight * entropy).sum() / weight.sum().clamp(min=BEHIND_PRIOR),
    }


def bins_term(logits: Tensor, log_truth: Tensor, largest: float) -> Tensor:
    """Cross entropy of the weighed radii: the label is shared between the two bins that it lies between.

    Args:
        logits: (B, K, H, W) of K bins, evenly spaced in log(1 + radius) from 0 to `largest`.
        log_truth: (B, 1, H, W) log(1 + radius); beyond `largest` the last bin counts.
    """
    last = logits.shape[1] - 1
    place = (log_truth * (last / largest)).clamp(0, last)
    lower = place.floor().clamp(max=last - 1)
    share = place - lower
    index = lower.long()
    picked = torch.log_softmax(logits, dim=1).gather(1, torch.cat([index, index + 1], dim=1))
    return -(picked * torch.cat([1 - share, share], dim=1)).sum(1).mean()


def variance_term(out: FocusOutput, signed_px: Tensor) -> Tensor:
    """Gaussian negative log likelihood of the label, which teaches the variance and leaves the magnitude alone.

    With a gradient to the mean, pixels of large variance would stop being learned from (Seitzer et al., ICLR 2022).
    """
    error = (out.magnitude_px.detach() - signed_px.abs()).square()
    return 0.5 * (error * torch.exp(-out.log_variance) + out.log_variance).mean()


def temporal_term(
    now: Tensor, before: Tensor, truth: Tensor, truth_before: Tensor, flow: Tensor, trusted: Tensor
) -> Tensor:
    """How far the change along the flow is from the label's own, mean over what the flow can be believed for.

    Args:
        now, before: (B, 1, H, W) log(1 + radius) of this frame and of the last.
        truth, truth_before: the label's.
        flow, trusted: (B, 2, H, W) from this frame to the last, pixels, and (B, 1, H, W) 0 or 1.
    """
    ours, theirs = now - backward_warp(before, flow), truth - backward_warp(truth_before, flow)
    return ((ours - theirs).abs() * trusted).sum() / trusted.sum().clamp(min=1)


def render_term(signed_px: Tensor, frame: Tensor, photo: Tensor, apertures: Sequence[Aperture]) -> Tensor:
    """The photograph that the radii would give of the sharp frame, against the photograph: needs no label.

    Args:
        signed_px: (B, 1, H, W) predicted radius; gradients reach its size.
        frame, photo: (B, 3, H, W) all in focus, and photographed.
        apertures: of the photographs.

    Returns:
        A scalar: mean absolute difference in sRGB, relative to how much the photograph differs from the frame at all.
    """
    made = [
        render_lens_blur(frame[b : b + 1], signed_px[b : b + 1], aperture=aperture)
        for b, aperture in enumerate(apertures)
    ]
    border = min(RENDER_BORDER_PX, (min(frame.shape[-2:]) - 1) // 2)
    inner = (..., slice(border, frame.shape[-2] - border), slice(border, frame.shape[-1] - border))
    difference = (torch.cat(made) - photo)[inner].abs().flatten(1).mean(1)
    # Plain textures change little under any blur: without the relation they would count for nothing.
    scale = (frame - photo)[inner].abs().flatten(1).mean(1).clamp(min=0.01)
    return (difference / scale).mean()


def render_window(size: Sequence[int], step: int) -> tuple[Any, slice, slice]:
    """Where in (..., H, W) step `step` re-renders: a window of RENDER_SIDE_PX that walks over the picture with the steps."""
    rng = np.random.Generator(np.random.PCG64(stable_seed("render window", step)))
    starts = [int(rng.integers(max(0, side - RENDER_SIDE_PX) + 1)) for side in size]
    down, across = (slice(start, start + RENDER_SIDE_PX) for start in starts)
    return ..., down, across


@dataclass(frozen=True, kw_only=True)
class FocusTerms:
    """The terms before weighting, by name, and their weighted sum."""

    values: dict[str, Tensor]
    total: Tensor


class FocusLoss:
    """The weighted sum over a clip.

    Args:
        weights: of the terms.
        steps: of the run; the late terms begin at a share of them.
        max_radius_px: of the network's last bin.
    """

    def __init__(self, weights: FocusLossWeights, steps: int, max_radius_px: float) -> None:
        self.weights, self._largest = weights, math.log1p(max_radius_px)
        self._variance_step = round(weights.variance_from * steps)
        self._render_step = round(weights.render_from * steps)

    def __call__(self, outputs: Sequence[FocusOutput], batch: FocusBatch, step: int) -> FocusTerms:
        """All terms of a clip.

        Args:
            outputs: of each of the T frames.
            batch: of B clips.
            step: of the run.
        """
        w = self.weights
        frames = [magnitude_terms(out, batch.signed_px[:, t], batch.map_radius_px) for t, out in enumerate(outputs)]
        values = {name: torch.stack([terms[name] for terms in frames]).mean() for name in frames[0]}
        if w.bins:
            truths = torch.log1p(batch.signed_px.abs())
            terms = [bins_term(out.bin_logits, truths[:, t], self._largest) for t, out in enumerate(outputs)]
            values["bins"] = torch.stack(terms).mean()
        if w.variance and step >= self._variance_step:
            terms = [variance_term(out, batch.signed_px[:, t]) for t, out in enumerate(outputs)]
            values["variance"] = torch.stack(terms).mean()
        if w.temporal and len(outputs) > 1:
            truth = torch.log1p(batch.signed_px.abs())
            values["temporal"] = torch.stack(
                [
                    temporal_term(
                        outputs[t].log_magnitude,
                        outputs[t - 1].log_magnitude,
                        truth[:, t],
                        truth[:, t - 1],
                        batch.flow[:, t - 1],
                        batch.trusted[:, t - 1],
                    )
                    for t in range(1, len(outputs))
                ]
            ).mean()
        if w.render and step >= self._render_step:
            # One window of one frame: the renderer costs more than the network.
            window = render_window(batch.frames.shape[-2:], step)
            signed, frame, photo = (
                x[window] for x in (outputs[-1].signed_px(), batch.frames[:, -1], batch.clean[:, -1])
            )
            values["render"] = render_term(signed, frame, photo, batch.apertures)
        weighted = [getattr(w, name) * value for name, value in values.items() if getattr(w, name) > 0]
        return FocusTerms(values=values, total=torch.stack(weighted).sum())
