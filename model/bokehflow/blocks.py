"""What BokehFlow has beside the shared blocks: the lens embedding, its modulation, and the exchange between the two streams.

Shape letters: B = samples; H, W = image; h, w = tokens, H/4 and W/4; C = channels.
"""

from functools import cache

import torch
from torch import Tensor, nn

from model.bokehflow.config import BokehFlowConfig
from model.bokehflow.lens import LensBatch, infinity_radius_px
from model.recurrent.triton_backend import fused, fused_exchange

# Lenses that the embedding tells apart; others are embedded like the nearest of these, and counted.
F_NUMBERS = (1.0, 22.0)
FOCAL_M = (0.010, 0.200)
FOCUS_M = (0.1, 100.0)
GAIN_PX = (1e-3, 1e4)  # follows from the others and the frame, so it is not counted


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
        low, high = _ranges(values.device, values.dtype)
        low, high = low * (1 - 1e-6), high * (1 + 1e-6)  # float32 rounds 0.2 m up
        outside = ((values < low) | (values > high))[:, :3].sum()
        inside = torch.maximum(torch.minimum(values, high), low)
        scaled = 2 * torch.log(inside / low) / torch.log(high / low) - 1
        return self.layers(scaled.to(next(self.parameters()).dtype)), outside


@cache
def _ranges(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(2, 4) lowest and highest f-number, focal length, focus distance and gain; uploaded once, not with every frame."""
    with torch.inference_mode(False):  # else a first call at inference would make a tensor that training cannot use
        return torch.tensor([*zip(F_NUMBERS, FOCAL_M, FOCUS_M, GAIN_PX, strict=True)]).to(device, dtype)


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


class CrossStreamFusion(nn.Module):
    """depth += sigmoid(W bokeh) * P bokeh and the other way round, both from the streams as they came in.

    P starts at zero, and so does the gradient of W.
    """

    def __init__(self, config: BokehFlowConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.values = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(2))
        for weight in self.values.parameters():
            nn.init.zeros_(weight)

    def forward(self, depth: Tensor, bokeh: Tensor) -> tuple[Tensor, Tensor]:
        if fused(self.config, depth):
            return fused_exchange(depth, bokeh, self.gates, self.values)
        to_depth = torch.sigmoid(self.gates[0](bokeh)) * self.values[0](bokeh)
        to_bokeh = torch.sigmoid(self.gates[1](depth)) * self.values[1](depth)
        return depth + to_depth, bokeh + to_bokeh
