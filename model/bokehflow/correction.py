"""What the lens renderer cannot know, learned: light beyond white before it, and what it invented after it.

Special: with depth handed in both start as nothing, and act only where something is unknown. Highlights gain light where a
channel of the frame is clipped. The correction mixes the render per pixel with the frame and with softer pictures, and adds a
learned difference: where a depth is unsure, the best picture is an average of what several depths would give. With depth handed
in it acts only where the renderer filled what near surfaces hide or where clipped light reaches.

Shape letters: B = samples; H, W = image; h, w = tokens, H/4 and W/4.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.bokehflow.config import BokehFlowConfig
from pipeline.optics import srgb_to_linear

CLIP_FROM = 0.9  # encoded value from which a channel counts as clipped, all of it at 1: pixels of an outline are mixed
MAX_LOG_GAIN = math.log(64.0)  # lamps of the generated scenes have radiance up to 50
FIRST_GAIN_LOGIT = -3.0  # starts at a gain of 1.2 on what is clipped
REACH_PX = (9, 33)  # windows in which the nearest surface is looked for: what its blur may spill over
RADIUS_SCALE_PX = 8.0
SOFT_PX = (5, 13)  # windows that soften frame and render for the mix, twice each
# Weights in the mix to start from where depth is predicted, of the frame, sharp and softened, and of the softened render: near
# the constant ones that were best on validation pictures for a depth that had hardly been learned.
UNSURE = (0.1, 0.2, 0.03, 0.1, 0.05)
CUES = 14
INVENTED_GAIN = 8.0  # a pixel with an eighth of invented light may be corrected in full
STRIDE = 8  # of the coarsest level, pixels


def brightened(frame: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Linear light of a frame whose clipped channels are taken to be brighter than they could be stored.

    Args:
        frame: (B, 3, H, W) sRGB in [0, 1].
        logits: (B, 3, H, W) of the logarithm of the gain over MAX_LOG_GAIN.

    Returns:
        (B, 3, H, W) light, and (B, 1, H, W) how far the pixel is clipped, in [0, 1].
    """
    clipped = ((frame - CLIP_FROM) / (1 - CLIP_FROM)).clamp(0, 1)
    gain = torch.exp(MAX_LOG_GAIN * torch.sigmoid(logits + FIRST_GAIN_LOGIT))
    return srgb_to_linear(frame) * (1 + clipped * (gain - 1)), clipped.amax(1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """What the correction looks at.

    Args:
        frame: (B, 3, H, W) sRGB.
        light: (B, 3, H, W) linear light that was rendered.
        clipped: (B, 1, H, W) how far a pixel of the frame is clipped.
        physics: (B, 3, H, W) the render, sRGB.
        invented: (B, 1, H, W) which share of it was filled.
        radius_px: (B, 1, H, W) signed radius.
        given: whether the depth behind it was handed in.
        largest_px: of the radii, where it is known without looking at them, which makes the host wait.
    """

    frame: Tensor
    light: Tensor
    clipped: Tensor
    physics: Tensor
    invented: Tensor
    radius_px: Tensor
    given: bool
    largest_px: float | None = None

    def support(self) -> Tensor:
        """(B, 1, H, W) in [0, 1]: where the render may be wrong. Predicted depth may be wrong anywhere."""
        if not self.given:
            return torch.ones_like(self.invented)
        largest = self.largest_px if self.largest_px is not None else float(self.radius_px.detach().abs().max())
        reach = min(int(largest) + 1, min(self.clipped.shape[-2:]) // 2)
        touched = _widened(self.clipped, 2 * reach + 1)
        return torch.maximum((INVENTED_GAIN * self.invented).clamp(max=1), touched).detach()

    def others(self) -> Tensor:
        """(B, len(UNSURE), 3, H, W): what the render is mixed with, in the order of UNSURE."""
        soft = [_softened(_softened(one, size), size) for one in (self.frame, self.physics) for size in SOFT_PX]
        return torch.stack([self.frame, *soft], dim=1)

    def cues(self) -> Tensor:
        """(B, CUES, H, W), all about 1 in size."""
        radius = self.radius_px / RADIUS_SCALE_PX
        near = [_widened(-radius, size) for size in REACH_PX]
        bright = torch.log1p((self.light.amax(1, keepdim=True) - 1).clamp(min=0))
        flag = torch.full_like(radius, 1.0 if self.given else -1.0)
        planes = [
            self.frame * 2 - 1, self.physics * 2 - 1, radius, radius.abs().clamp(max=1), *near, self.invented * 2,
            self.clipped, bright, flag,
        ]  # fmt: skip
        return torch.cat(planes, dim=1)


def _widened(planes: Tensor, size: int) -> Tensor:
    """The largest value in a square window around every pixel, by rows and then by columns."""
    rows = F.max_pool2d(planes, (1, size), stride=1, padding=(0, size // 2))
    return F.max_pool2d(rows, (size, 1), stride=1, padding=(size // 2, 0))


def _softened(images: Tensor, size: int) -> Tensor:
    """Means over square windows; beyond the border there is nothing."""
    return F.avg_pool2d(images, size, stride=1, padding=size // 2, count_include_pad=False)


class Unit(nn.Module):
    """Two convolutions with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.gelu(self.first(x)))


class Correction(nn.Module):
    """A small U-shaped network at a half, a quarter and an eighth of the resolution.

    Args:
        config: width of the tokens, and `correction_channels` at half resolution.
    """

    def __init__(self, config: BokehFlowConfig) -> None:
        super().__init__()
        half, quarter, eighth = (
            config.correction_channels,
            config.correction_channels * 3 // 2,
            config.correction_channels * 2,
        )
        self.enter = nn.Conv2d(4 * CUES, half, 3, padding=1)
        self.half_in, self.half_out = Unit(half), Unit(half)
        self.to_quarter = nn.Conv2d(4 * half, quarter, 1)
        self.tokens = nn.Linear(config.channels, quarter)
        self.depth_tokens = nn.Linear(config.channels, quarter, bias=False)
        self.quarter_in, self.quarter_out = Unit(quarter), Unit(quarter)
        self.to_eighth = nn.Conv2d(4 * quarter, eighth, 1)
        self.eighth = nn.Sequential(Unit(eighth), Unit(eighth))
        self.from_eighth = nn.Conv2d(eighth, quarter, 1)
        self.from_quarter = nn.Conv2d(quarter, half, 1)
        self.last = nn.Conv2d(half, 4 * (3 + len(UNSURE)), 3, padding=1)
        self.unsure = nn.Parameter(torch.tensor(UNSURE))
        for parameter in self.last.parameters():  # starts as nothing
            nn.init.zeros_(parameter)

    def forward(self, seen: Rendered, tokens: Tensor, depth_tokens: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Correct.

        Args:
            seen: see `Rendered`.
            tokens: (B, h, w, C) of the bokeh stream, of the frame padded to whole tokens.
            depth_tokens: likewise of the depth stream, which know how sure the depth is; None where it was handed in.

        Returns:
            (B, 3, H, W) the corrected render; (B, 1, H, W) the weight that the render has in the mix, in [0, 1], 1 where
            nothing may be wrong; (B, 3, H, W) the learned difference that was added.
        """
        height, width = seen.frame.shape[-2:]
        padding = (0, -width % STRIDE, 0, -height % STRIDE)
        dtype = self.enter.weight.dtype
        cues = F.pad(seen.cues().to(dtype), padding, mode="replicate") if any(padding) else seen.cues().to(dtype)
        half = self.half_in(F.gelu(self.enter(F.pixel_unshuffle(cues, 2))))
        quarter = self.to_quarter(F.pixel_unshuffle(half, 2))
        context = self.tokens(tokens) if depth_tokens is None else self.tokens(tokens) + self.depth_tokens(depth_tokens)
        context = context.permute(0, 3, 1, 2)
        missing = (0, quarter.shape[-1] - context.shape[-1], 0, quarter.shape[-2] - context.shape[-2])
        quarter = self.quarter_in(quarter + (F.pad(context, missing, mode="replicate") if any(missing) else context))
        eighth = self.eighth(self.to_eighth(F.pixel_unshuffle(quarter, 2)))
        quarter = self.quarter_out(quarter + _doubled(self.from_eighth(eighth)))
        half = self.half_out(half + _doubled(self.from_quarter(quarter)))
        planes = F.pixel_shuffle(self.last(half), 2)[..., :height, :width].to(seen.frame.dtype)
        support = seen.support()
        wanted = planes[:, 3:] if seen.given else planes[:, 3:] + self.unsure.to(planes.dtype)[:, None, None]
        weights = support * wanted.clamp(min=0)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
        residual = support * planes[:, :3]
        mixed = seen.physics + (weights[:, :, None] * (seen.others() - seen.physics[:, None])).sum(1)
        return mixed + residual, 1 - weights.sum(1, keepdim=True), residual


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
