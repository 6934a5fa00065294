"""The label: the focus map as it is stored, which phase 5 writes and phase 6 and the training data check again.

And what it stands for: the radius in pixels, the side of the focus plane, and the way from a radius back to the map.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.optics.lens import AnyLens, Lens, OpticsError, coc_to_radius_px

if TYPE_CHECKING:
    from torch import Tensor

FocusMap = npt.NDArray[np.float16]


def label_of(depth: npt.NDArray[np.float16], lens: Lens, max_coc_m: float) -> FocusMap:
    """The stored focus map of a stored depth map.

    Args:
        depth: (H, W) float16 metres.
        lens: the set's lens.
        max_coc_m: saturation diameter, metres.

    Returns:
        (H, W) float16 in [0, 1], computed in float32 and rounded once.
    """
    import torch  # takes seconds to import, and phases that only plan their work do not call this

    from pipeline.optics.coc import focus_map

    values: FocusMap = focus_map(torch.from_numpy(depth.astype(np.float32)), lens, max_coc_m).numpy().astype(np.float16)
    return values


def signed_label_px(
    depth_m: "Tensor", lens: AnyLens, px_per_mm: "float | Tensor", max_radius_px: "float | Tensor"
) -> "Tensor":
    """The signed radius of a photograph whose blur saturates: what a network that reads blur should find.

    Args:
        depth_m: (..., H, W) z-depth, metres, > 0.
        lens: the lens, or tensors of lenses that broadcast against depth.
        px_per_mm: of the full frame.
        max_radius_px: where the photograph saturates; infinity for a true lens's.

    Returns:
        (..., H, W) radius in pixels: negative in front of the focus plane, positive behind it, at most max_radius_px in size.

    Raises:
        OpticsError: a depth is not positive or is NaN.
    """
    import torch

    from pipeline.optics.coc import defocus_px

    signed = defocus_px(depth_m, lens, px_per_mm)
    limit = torch.as_tensor(max_radius_px, dtype=signed.dtype, device=signed.device)
    return torch.minimum(torch.maximum(signed, -limit), limit)


def focus_from_radius(radius_px: "Tensor", max_coc_m: float, px_per_mm: float) -> "Tensor":
    """The focus map of radii: 1 - clamp(radius / the radius of max_coc, 0, 1), the label's formula in pixels.

    Args:
        radius_px: any shape, pixels of the full frame; the sign does not matter.
        max_coc_m: the saturation diameter, metres, > 0.
        px_per_mm: of the full frame, > 0.

    Returns:
        The same shape, in [0, 1].

    Raises:
        OpticsError: max_coc_m or px_per_mm is not finite and > 0.
    """
    for name, value in (("max_coc_m", max_coc_m), ("px_per_mm", px_per_mm)):
        if not (math.isfinite(value) and value > 0):
            raise OpticsError(f"{name} must be finite and > 0, got {value}")
    return 1 - (radius_px.abs() / coc_to_radius_px(max_coc_m, px_per_mm)).clamp(0, 1)
