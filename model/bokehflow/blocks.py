"""What BokehFlow is stacked from: stem, lens embedding, block, and the exchange between the two streams.

Special: nothing normalises over the batch, so one frame alone trains and runs like many.

Shape letters: B = samples; H, W = image; h, w = tokens, H/4 and W/4; C = channels.
"""

import math

import torch
from torch import Tensor, nn

from model.bokehflow.config import NORM_GROUPS, BokehFlowConfig
from model.bokehflow.lens import LensBatch, infinity_radius_px
from model.bokehflow.scans import BiGDR
from model.bokehflow.temporal import TemporalStart

# Lenses that the embedding tells apart; others are embedded like the nearest of these, and counted.
F_NUMBERS = (1.0, 22.0)
FOCAL_M = (0.010, 0.200)
FOCUS_M = (0.1, 100.0)
GAIN_PX = (1e-3, 1e4)  # follows from the others and the frame, so it is not counted


class ConvStem(nn.Module):
    """(B, 3, H, W) -> (B, h, w, C) tokens; H and W multiples of 4."""

    def __init__(self, config: BokehFlowConfig) -> None:
        super().__init__()
        stem, width = config.stem_channels, config.channels
        self.layers = nn.Sequential(
            nn.Conv2d(3, stem, 7, stride=2, padding=3),
            nn.GroupNorm(NORM_GROUPS, stem),
            nn.GELU(),
            nn.Conv2d(stem, stem, 3, stride=2, padding=1, groups=stem),
            nn.Conv2d(stem, width, 1),
            nn.GroupNorm(NORM_GROUPS, width),
            nn.GELU(),
        )

    def forward(self, frame: Tensor) -> Tensor:
        tokens: Tensor = self.layers(frame * 2 - 1).permute(0, 2, 3, 1).contiguous()
        return tokens


class ApertureEncoder(nn.Module):
    """A lens as a vector: logarithms of f-number, focal length, focus distance and blur gain, through a small MLP."""

    def __init__(self, config: BokehFlowConfig) -> None:
        super().__init__()
        self.coc_model = config.coc_model
        width = config.aperture_dim
        self.layers = nn.Sequential(nn.Linear(4, width), nn.GELU(), nn.Linear(width, width), nn.GELU())

    def forward(self, lens: LensBatch) -> tuple[Tensor, Tensor]:
        """The embedding.

        Args:
            lens: B lenses.

        Returns:
            (B, aperture_dim), and how many of the batch's values lay outside the ranges above, an integer scalar.
        """
        gain = infinity_radius_px(lens, self.coc_model)
        values = torch.stack([lens.f_number, lens.f_m, lens.focus_m, gain], dim=-1)
        low, high = torch.tensor(list(zip(F_NUMBERS, FOCAL_M, FOCUS_M, GAIN_PX, strict=True))).to(values)
        low, high = low * (1 - 1e-6), high * (1 + 1e-6)  # float32 rounds 0.2 m up
        outside = ((values < low) | (values > high))[:, :3].sum()
        inside = torch.maximum(torch.minimum(values, high), low)
        scaled = 2 * torch.log(inside / low) / torch.log(high / low) - 1
        return self.layers(scaled.to(next(self.parameters()).dtype)), outside


class ApertureFilm(nn.Module):
    """x * (1 + scale) + shift from the lens embedding; the identity at the start (zero weights)."""

    def __init__(self, config: BokehFlowConfig) -> None:
        super().__init__()
        self.modulate = nn.Linear(config.aperture_dim, 2 * config.channels)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, aperture: Tensor) -> Tensor:
        scale, shift = self.modulate(aperture)[:, None, None].chunk(2, dim=-1)
        return x * (1 + scale) + shift


class Block(nn.Module):
    """Scans, a local convolution and a feed-forward part, each added to what was there.

    Args:
        config: widths.
        depth: of the layer, 0 first to 1 last.
        film: whether the lens modulates the result (the bokeh stream).
    """

    def __init__(self, config: BokehFlowConfig, depth: float, film: bool) -> None:
        super().__init__()
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
        self.film = ApertureFilm(config) if film else None

    def forward(
        self, x: Tensor, previous: tuple[Tensor, Tensor] | None, aperture: Tensor, mean_blur: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One block.

        Args:
            x: (B, h, w, C).
            previous: the last frame's states (B, 4, heads, D, D) and pooled input (B, C), or None.
            aperture: (B, aperture_dim).
            mean_blur: (B,) or None, see `scans.DecayGate`.

        Returns:
            (B, h, w, C), this frame's states and pooled input.
        """
        normed = self.scan_norm(x)
        pooled = normed.mean((1, 2))
        scanned, states = self.scans(normed, self.start(pooled, previous), mean_blur)
        x = x + scanned
        x = x + self.local(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.feed(self.feed_norm(x))
        if self.film is not None:
            x = self.film(x, aperture)
        return x, states, pooled


class CrossStreamFusion(nn.Module):
    """depth += sigmoid(W bokeh) * P bokeh and the other way round, both from the streams as they came in.

    P starts at zero, and so does the gradient of W.
    """

    def __init__(self, config: BokehFlowConfig) -> None:
        super().__init__()
        width = config.channels
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.values = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(2))
        for weight in self.values.parameters():
            nn.init.zeros_(weight)

    def forward(self, depth: Tensor, bokeh: Tensor) -> tuple[Tensor, Tensor]:
        to_depth = torch.sigmoid(self.gates[0](bokeh)) * self.values[0](bokeh)
        to_bokeh = torch.sigmoid(self.gates[1](depth)) * self.values[1](depth)
        return depth + to_depth, bokeh + to_bokeh


class FullResolutionHead(nn.Module):
    """Tokens to pixels: 3x3 convolutions between two bilinear enlargements by 2, the last ones beside the frame itself.

    The frame is there for its edges, which a quarter of the resolution cannot place.

    Args:
        config: widths.
        out_channels: planes to predict.
        gain: of the last layer's initial weights.
    """

    def __init__(self, config: BokehFlowConfig, out_channels: int, gain: float) -> None:
        super().__init__()
        wide, narrow = config.channels // 2, max(8, config.channels // 8)
        self.at_quarter = nn.Conv2d(config.channels, wide, 3, padding=1)
        self.at_half = nn.Conv2d(wide, narrow, 3, padding=1)
        self.at_full = nn.Conv2d(narrow + 3, narrow, 3, padding=1)
        self.last = nn.Conv2d(narrow, out_channels, 3, padding=1)
        nn.init.normal_(self.last.weight, std=gain / math.sqrt(9 * narrow))
        self.last.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, tokens: Tensor, frame: Tensor) -> Tensor:
        """(B, h, w, C) and the frame (B, 3, H, W) -> (B, out_channels, H, W)."""
        x = nn.functional.gelu(self.at_quarter(tokens.permute(0, 3, 1, 2)))
        x = nn.functional.gelu(self.at_half(_double(x)))
        x = nn.functional.gelu(self.at_full(torch.cat([_double(x), frame.to(x.dtype) * 2 - 1], dim=1)))
        planes: Tensor = self.last(x)
        return planes


def _double(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
