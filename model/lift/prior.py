"""Optical flow between the neighbours, moved to the instant between them: what the flow stages may start from; and the picture
that the pipeline's engine `flow` makes of it, which the network's own may be mixed with.

DIS (Kroeger et al. 2016) gives flow on the grid of the neighbour it starts in; the target's grid lies between. There the motion
v of a point satisfies v(x) = F_before,after(x - t v(x)), which a few fixed-point steps solve, and likewise from the other side.
"""

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.engines.interpolation.flow import blend_warped, measure_flow, proposed_motion
from pipeline.media.convert import tensor_to_image

_FloatArray = npt.NDArray[np.float32]
_STEPS = 3  # of the fixed point; a fourth moves nothing by more than hundredths of a pixel on smooth motion


def flow_prior(before: Tensor, after: Tensor, t: Tensor, *, picture: bool = False) -> tuple[Tensor, Tensor | None]:
    """Flows from the target to both neighbours, and the classical picture. Without a gradient.

    Args:
        before, after: (B, 3, H, W) sRGB in [0, 1], float32.
        t: (B,) instant between them.
        picture: make it.

    Returns:
        (B, 4, H, W) in pixels: to `before` (x, y), to `after` (x, y); and (B, 3, H, W) or None.
    """
    flows, pictures = [], []
    for first, second, instant in zip(before.detach(), after.detach(), t.tolist(), strict=True):
        forth, back = measure_flow(tensor_to_image(first), tensor_to_image(second))
        sides = instant * _between(back, 1 - instant), (1 - instant) * _between(forth, instant)
        flows.append(np.concatenate(sides, -1).transpose(2, 0, 1).astype(np.float32))
        if picture:
            pair = [image.float().permute(1, 2, 0).cpu().numpy() for image in (first, second)]
            made = blend_warped(pair[0], pair[1], *proposed_motion(forth, back, instant), instant)
            pictures.append(np.ascontiguousarray(made.transpose(2, 0, 1)))
    full = torch.from_numpy(np.stack(flows)).to(before.device)
    classical = torch.from_numpy(np.stack(pictures)).to(before.device) if picture else None
    return full, classical


def _between(flow: _FloatArray, share: float) -> _FloatArray:
    """(H, W, 2) flow from a picture -> the same motion on the grid `share` of the way along it."""
    height, width = flow.shape[:2]
    xs, ys = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved = flow
    for _ in range(_STEPS):
        place = xs - share * moved[..., 0], ys - share * moved[..., 1]
        moved = np.asarray(cv2.remap(flow, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
    return moved
