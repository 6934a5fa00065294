"""Optical flow between the neighbours, moved to the instant between them: what the flow stages may start from.

DIS (Kroeger et al. 2016) gives flow on the grid of the neighbour it starts in; the target's grid lies between. There the motion
v of a point satisfies v(x) = F_before,after(x - t v(x)), which a few fixed-point steps solve, and likewise from the other side.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.lift.blocks import shrink

_FloatArray = npt.NDArray[np.float32]
_STEPS = 3  # of the fixed point; a fourth moves nothing by more than hundredths of a pixel on smooth motion
_SMALLEST = 16  # pixels a side that DIS's patches and pyramid need


def dis_prior(before: Tensor, after: Tensor, t: Tensor, stride: int) -> Tensor:
    """Flows from the target to both neighbours, at 1/stride of the size, without a gradient.

    Args:
        before, after: (B, 3, H, W) sRGB in [0, 1], float32.
        t: (B,) instant between them.
        stride: of the grid that is returned.

    Returns:
        (B, 4, H/stride, W/stride) in pixels of that grid: to `before` (x, y), to `after` (x, y).
    """
    flows = [_of_pair(*pair) for pair in zip(_grey(before), _grey(after), t.tolist(), strict=True)]
    full = torch.from_numpy(np.stack(flows)).to(before.device)
    return shrink(full, stride) / stride


def _grey(images: Tensor) -> list[npt.NDArray[np.uint8]]:
    pictures = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8) for picture in pictures]


def _of_pair(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8], t: float) -> _FloatArray:
    if min(before.shape) < _SMALLEST:
        return np.zeros((4, *before.shape), np.float32)
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    forth, back = dis.calc(before, after, None), dis.calc(after, before, None)
    to_after = (1 - t) * _between(forth, t)
    to_before = t * _between(back, 1 - t)
    return np.concatenate([to_before, to_after], -1).transpose(2, 0, 1).astype(np.float32)


def _between(flow: _FloatArray, share: float) -> _FloatArray:
    """(H, W, 2) flow from a picture -> the same motion on the grid `share` of the way along it."""
    height, width = flow.shape[:2]
    xs, ys = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved = flow
    for _ in range(_STEPS):
        place = xs - share * moved[..., 0], ys - share * moved[..., 1]
        moved = np.asarray(cv2.remap(flow, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
    return moved
