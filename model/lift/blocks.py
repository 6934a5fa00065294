"""What several stages are made of: convolutions, residual blocks, resampling.

B samples, C channels, H x W positions. A flow is (B, 2, H, W): x right, y down, in pixels of its own grid.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from model.lift.config import NORM_GROUPS

LEAK = 0.2


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1)


def leaky() -> nn.LeakyReLU:
    return nn.LeakyReLU(LEAK, inplace=True)


class ResBlock(nn.Module):
    """conv, GroupNorm, ReLU, conv, GroupNorm, and the input added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, channels),
            nn.GroupNorm(NORM_GROUPS, channels),
            nn.ReLU(inplace=True),
            conv(channels, channels),
            nn.GroupNorm(NORM_GROUPS, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The last convolution of a residual: the network starts from what it adds to."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None, "made with a bias"
    nn.init.zeros_(layer.bias)
    return layer


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Bilinear, pixel centres kept."""
    return functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def enlarge_flow(flow: Tensor, factor: int) -> Tensor:
    """On a grid `factor` times as fine, the same motion is as many times longer."""
    return enlarge(flow, factor) * factor


def shrink(image: Tensor, factor: int) -> Tensor:
    """Area average."""
    return functional.avg_pool2d(image, factor)


def lengths(flows: Tensor) -> Tensor:
    """(B, 4, H, W) two flows -> (B, 2, H, W) how long they are; differentiable where one is 0."""
    pairs = flows.view(len(flows), 2, 2, *flows.shape[-2:])
    return (pairs.square().sum(2) + 1e-6).sqrt()


def cost_volume(first: Tensor, second: Tensor, radius: int) -> Tensor:
    """How well two feature maps of the target's grid agree if each lies up to `radius` cells aside, in opposite directions.

    Args:
        first, second: (B, C, H, W).
        radius: cells, >= 1.

    Returns:
        (B, (2 radius + 1)^2, H, W): mean over C of first(x - d) second(x + d), both normalised over C, rows of d first; 0
        where either lies outside.
    """
    height, width = first.shape[-2:]
    sides = [functional.pad(functional.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1), [radius] * 4)
             for x in (first, second)]  # fmt: skip
    span = range(2 * radius + 1)
    return torch.stack(
        [
            (
                sides[0][..., 2 * radius - y :, 2 * radius - x :][..., :height, :width]
                * sides[1][..., y:, x:][..., :height, :width]
            ).mean(1)
            for y in span
            for x in span
        ],
        1,
    )
