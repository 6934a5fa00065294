"""Backward warping of tensors, for networks and their losses; `flow.warp` is that of arrays."""

from typing import Literal

import torch
from torch import Tensor, nn

Kernel = Literal["bilinear", "bicubic"]


def backward_warp(planes: Tensor, flow: Tensor, kernel: Kernel = "bilinear") -> Tensor:
    """Another frame at where a flow says this frame's pixels are in it: out(x) = planes(x + flow(x)).

    Args:
        planes: (B, C, H, W) of the other frame.
        flow: (B, 2, H, W) pixels, x before y.
        kernel: that reads between pixels.

    Returns:
        (B, C, H, W) in float32, or float64 where that comes in, whatever the precision around. What lies outside takes the
        nearest pixel of the border.
    """
    wide = torch.float64 if torch.float64 in (planes.dtype, flow.dtype) else torch.float32
    with torch.autocast(planes.device.type, enabled=False):
        planes, flow = planes.to(wide), flow.to(wide)
        height, width = planes.shape[-2:]
        y, x = (torch.arange(side, device=flow.device, dtype=wide) for side in (height, width))
        across = 2 * (x + flow[:, 0]) / max(width - 1, 1) - 1
        down = 2 * (y[:, None] + flow[:, 1]) / max(height - 1, 1) - 1
        grid = torch.stack([across, down], -1)
        return nn.functional.grid_sample(planes, grid, kernel, padding_mode="border", align_corners=True)
