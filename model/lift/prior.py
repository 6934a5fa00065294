"""Optical flow between the neighbours, moved to the instant between them: what the flow stages may start from; and the picture
that the pipeline's engine `flow` makes of it, which the network's own may be mixed with.

DIS (Kroeger et al. 2016) gives flow on the grid of the neighbour it starts in; the target's grid lies between. There the motion
v of a point satisfies v(x) = F_before,after(x - t v(x)), which a few fixed-point steps solve, and likewise from the other side.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.engines.interpolation.flow import blend_warped, measure_flow, proposed_motion, pull
from pipeline.media.convert import tensor_to_image

_FloatArray = npt.NDArray[np.float32]
PROPOSALS = 6  # pictures: of both neighbours by three motions
_STEPS = 3  # of the fixed point; a fourth moves nothing by more than hundredths of a pixel on smooth motion


@dataclass(frozen=True)
class Prior:
    """What classical flow says of targets. B samples.

    Args:
        flows: (B, 4, H, W) pixels: from the target to the neighbour before (x, y), to the one after (x, y).
        picture: (B, 3, H, W) that the engine `flow` makes; None where it was not asked for.
        proposals: (B, 6, 3, H, W) what that is made of: the neighbours before and after, warped by the motion that the first
            proposes, by that of the second, and by none.
        seen: (B, 2, H, W) in [0, 1]: how far the neighbour before, and the one after, saw the place.
    """

    flows: Tensor
    picture: Tensor | None = None
    proposals: Tensor | None = None
    seen: Tensor | None = None


def flow_prior(before: Tensor, after: Tensor, t: Tensor, *, picture: bool = False, proposals: bool = False) -> Prior:
    """What classical flow says, without a gradient.

    Args:
        before, after: (B, 3, H, W) sRGB in [0, 1], float32.
        t: (B,) instant between them.
        picture, proposals: make these too; proposals come with a picture.
    """
    made: dict[str, list[_FloatArray]] = {"flows": [], "picture": [], "proposals": [], "seen": []}
    for first, second, instant in zip(before.detach(), after.detach(), t.tolist(), strict=True):
        forth, back = measure_flow(tensor_to_image(first), tensor_to_image(second))
        sides = instant * _between(back, 1 - instant), (1 - instant) * _between(forth, instant)
        made["flows"].append(_channels_first(np.concatenate(sides, -1)))
        if not (picture or proposals):
            continue
        pair = [image.float().permute(1, 2, 0).cpu().numpy() for image in (first, second)]
        motions, seen = proposed_motion(forth, back, instant)
        made["picture"].append(_channels_first(blend_warped(pair[0], pair[1], motions, seen, instant)))
        if proposals:
            warped = [
                pull(image, share * motion, cv2.INTER_CUBIC)
                for motion in (*motions, np.zeros_like(forth))
                for image, share in zip(pair, (-instant, 1 - instant), strict=True)
            ]
            made["proposals"].append(np.stack([_channels_first(image) for image in warped]))
            made["seen"].append(np.stack(seen))
    return Prior(**{key: torch.from_numpy(np.stack(some)).to(before.device) for key, some in made.items() if some})


def _channels_first(image: _FloatArray) -> _FloatArray:
    return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)


def _between(flow: _FloatArray, share: float) -> _FloatArray:
    """(H, W, 2) flow from a picture -> the same motion on the grid `share` of the way along it."""
    height, width = flow.shape[:2]
    xs, ys = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved = flow
    for _ in range(_STEPS):
        place = xs - share * moved[..., 0], ys - share * moved[..., 1]
        moved = np.asarray(cv2.remap(flow, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
    return moved
