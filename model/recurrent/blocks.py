"""What the networks of this project are stacked from: stem, block of scans, and the way back to full resolution.

Special: nothing normalises over the batch, so one frame alone trains and runs like many.

Shape letters: B = samples; H, W = image; h, w = tokens, H/4 and W/4; C = channels.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.recurrent.config import NORM_GROUPS, StreamConfig
from model.recurrent.scans import BiGDR
from model.recurrent.start import TemporalStart
from model.recurrent.triton_backend import fused, fused_block


class ConvStem(nn.Module):
    """(B, in_channels, H, W) -> (B, h, w, C) tokens; H and W multiples of 4."""

    def __init__(self, config: StreamConfig, in_channels: int = 3) -> None:
        super().__init__()
        stem, width = config.stem_channels, config.channels
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, stem, 7, stride=2, padding=3),
            nn.GroupNorm(NORM_GROUPS, stem),
            nn.GELU(),
            nn.Conv2d(stem, stem, 3, stride=2, padding=1, groups=stem),
            nn.Conv2d(stem, width, 1),
            nn.GroupNorm(NORM_GROUPS, width),
            nn.GELU(),
        )

    def forward(self, planes: Tensor) -> Tensor:
        """Planes centred around 0: a frame as frame * 2 - 1."""
        tokens: Tensor = self.layers(planes).permute(0, 2, 3, 1).contiguous()
        return tokens


class Block(nn.Module):
    """Scans, a local convolution and a feed-forward part, each added to what was there.

    Args:
        config: widths.
        depth: of the layer, 0 first to 1 last.
        film: makes what modulates the result by an embedding of the lens, None for a stream without; its `modulate` gives
            scale and shift, (B, 2 C).
    """

    def __init__(self, config: StreamConfig, depth: float, film: Callable[[], nn.Module] | None = None) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.scan_norm = nn.LayerNorm(width)
        self.start = TemporalStart(config)
        self.scans = BiGDR(config, depth)
        self.local = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, config.ffn_mult * width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.ffn_mult * width, width),
        )
        self.film = None if film is None else film()

    def forward(
        self, x: Tensor, previous: tuple[Tensor, Tensor] | None, aperture: Tensor | None, mean_blur: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One block.

        Args:
            x: (B, h, w, C).
            previous: the last frame's states (B, 4, heads, D, D) and pooled input (B, C), or None.
            aperture: (B, aperture_dim), the embedding; None without `film`.
            mean_blur: (B,) or None, see `scans.DecayGate`.

        Returns:
            (B, h, w, C), this frame's states and pooled input.
        """
        if not (self.training and self.config.dropout) and fused(self.config, x):
            return fused_block(self, x, previous, aperture, mean_blur)
        normed = self.scan_norm(x)
        pooled = normed.mean((1, 2))
        scanned, states = self.scans(normed, self.start(pooled, previous), mean_blur)
        x = x + scanned
        x = x + self.local(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.feed(self.feed_norm(x))
        if self.film is not None:
            x = self.film(x, aperture)
        return x, states, pooled


class FullResolutionHead(nn.Module):
    """Tokens to pixels: 3x3 convolutions between two bilinear enlargements by 2, the last ones beside a guide.

    The guide is the frame, for its edges, which a quarter of the resolution cannot place.

    Args:
        config: widths.
        out_channels: planes to predict.
        gain: of the last layer's initial weights.
        guide_channels: planes of the guide.
    """

    def __init__(self, config: StreamConfig, out_channels: int, gain: float, guide_channels: int = 3) -> None:
        super().__init__()
        wide, narrow = config.channels // 2, max(8, config.channels // 8)
        self.at_quarter = nn.Conv2d(config.channels, wide, 3, padding=1)
        self.at_half = nn.Conv2d(wide, narrow, 3, padding=1)
        self.at_full = nn.Conv2d(narrow + guide_channels, narrow, 3, padding=1)
        self.last = nn.Conv2d(narrow, out_channels, 3, padding=1)
        nn.init.normal_(self.last.weight, std=gain / math.sqrt(9 * narrow))
        self.last.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, tokens: Tensor, guide: Tensor) -> Tensor:
        """(B, h, w, C) and the guide (B, guide_channels, H, W), centred around 0 -> (B, out_channels, H, W)."""
        x = nn.functional.gelu(self.at_quarter(tokens.permute(0, 3, 1, 2)))
        x = nn.functional.gelu(self.at_half(_double(x)))
        x = nn.functional.gelu(self.at_full(torch.cat([_double(x), guide.to(x.dtype)], dim=1)))
        planes: Tensor = self.last(x)
        return planes


def _double(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
