"""Where everything was in the last frame, on the small grid that is carried: what is remembered is moved along with it.

Special: nothing is learned, and nothing depends on later frames. DIS flow of two 128x128 frames costs about 8 ms of a core.

Shape letters: B = samples; C = channels; H, W = picture; G = grid, FRAME_SAMPLES.
"""

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

SMOOTHING_SIGMA = 1.0  # in places of the grid: noise is no motion
RESIDUAL_WINDOW = 3
LEVELS = 255
LUMA = (0.299, 0.587, 0.114)  # of sRGB values, Rec. 601, as a grey picture has it


def way_back(now: Tensor, before: Tensor) -> Tensor:
    """(B, 3, G, G) sRGB of this frame and of the last -> (B, 2, G, G) from here to where it was, in places; no gradient."""
    found = [_dis(_grey(one), _grey(other)) for one, other in zip(now, before, strict=True)]
    return torch.stack(found).to(now)


def misfit(now: Tensor, moved: Tensor) -> Tensor:
    """(B, 3, G, G) of this frame and of the last one moved onto it -> (B, 1, G, G) what they differ by, around every place."""
    difference = (now - moved).abs().mean(1, keepdim=True)
    border = RESIDUAL_WINDOW // 2
    return nn.functional.avg_pool2d(
        nn.functional.pad(difference, [border] * 4, mode="replicate"), RESIDUAL_WINDOW, stride=1
    )


def _grey(samples: Tensor) -> Any:
    picture = samples.detach().float().permute(1, 2, 0).cpu().numpy() @ np.array(LUMA, np.float32)
    smooth = cv2.GaussianBlur(np.ascontiguousarray(picture), (0, 0), SMOOTHING_SIGMA)
    return np.clip(np.rint(smooth * LEVELS), 0, LEVELS).astype(np.uint8)


def _dis(first: Any, second: Any) -> Tensor:
    # Down to single places: by itself DIS stops at a quarter of the size, which here is 32x32.
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    return torch.from_numpy(np.ascontiguousarray(dis.calc(first, second, None).transpose(2, 0, 1)))
