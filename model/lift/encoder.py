"""The shared encoder: one pass per frame, taps named by their stride."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from model.lift.blocks import conv, leaky
from model.lift.config import LiftConfig


@dataclass(frozen=True)
class Features:
    """What is kept of a frame; a ring buffer of a video holds these.

    Args:
        frame: (B, 3, H, W) sRGB in [0, 1], padded to a multiple of 32.
        s1, s4, s8: taps at strides 1, 4, 8, needed of the two neighbours only; None where they were left out.
        s16: (B, C, H/16, W/16), of every frame, without a position code.
        height, width: of the frame before it was padded.
    """

    frame: Tensor
    s1: Tensor | None
    s4: Tensor | None
    s8: Tensor | None
    s16: Tensor
    height: int
    width: int


class Encoder(nn.Module):
    """Five stages of 3x3 convolutions, each but the first of stride 2. The last has one convolution, the others two."""

    def __init__(self, config: LiftConfig) -> None:
        super().__init__()
        widths = (3, config.c1, config.c2, config.c4, config.c8)
        self.stages = nn.ModuleList(
            nn.Sequential(conv(before, width, 1 if number == 0 else 2), leaky(), conv(width, width), leaky())
            for number, (before, width) in enumerate(pairwise(widths))
        )
        self.last = nn.Sequential(conv(config.c8, config.c16, 2), leaky())

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> taps s1, s4, s8, s16."""
        taps = []
        x = frames
        for stage in self.stages:
            x = stage(x)
            taps.append(x)
        s1, _, s4, s8 = taps
        return s1, s4, s8, self.last(x)


def position_code(offsets: Tensor, channels: int) -> Tensor:
    """Sine and cosine of an offset in time, C/2 pairs that share a frequency (Vaswani et al. 2017), for any real offset.

    Args:
        offsets: any shape.
        channels: C, even.

    Returns:
        (..., C) float32, sines at even places.
    """
    rates = torch.exp(torch.arange(0, channels, 2, device=offsets.device) * (-math.log(10_000.0) / channels))
    angles = offsets.float()[..., None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
