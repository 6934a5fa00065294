"""K, the blur of the published demo, as a map for BokehNet and as a lens for the renderer.

The published convention: defocus = |K (disparity - disparity in focus)| with disparity in 1/m, and the network reads
min(defocus / 100, 1). What K times a difference of disparities gives is a radius in pixels of the picture at hand: official
inference does not rescale K, so that a larger picture is blurred relatively less.
"""

import numpy as np
import numpy.typing as npt

from pipeline.media.depth_files import Depth
from pipeline.optics.lens import Lens, disparity_gain_px, px_per_mm

MAX_RADIUS_PX = 100.0  # MAX_COC of the published code, a constant of the training
_FOCAL_M = 0.05  # of the lens that stands for K; any would do, since K fixes only f^2 / N


def radius_px(depth_m: Depth, focus_m: float, k: float) -> npt.NDArray[np.float32]:
    """(H, W) metres, > 0 -> (H, W) float32 blur radius, |K (1/d - 1/S)|, at most 100 px."""
    difference = 1 / depth_m.astype(np.float32) - np.float32(1 / np.float32(focus_m))
    return np.minimum(np.abs(np.float32(k) * difference), np.float32(MAX_RADIUS_PX))


def defocus_map(radius: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(H, W) radius in px -> (H, W) float32 in [0, 1], as BokehNet was trained to read it."""
    return np.clip(radius / np.float32(MAX_RADIUS_PX), 0, 1)


def lens_of(k: float, focus_m: float, width_px: int) -> Lens:
    """A 50 mm lens on a 36 mm sensor that blurs a picture of this width by K px per 1/m."""
    wide_open = Lens(f_m=_FOCAL_M, f_number=1.0, focus_m=focus_m)
    return Lens(f_m=_FOCAL_M, f_number=disparity_gain_px(wide_open, px_per_mm(width_px)) / k, focus_m=focus_m)
