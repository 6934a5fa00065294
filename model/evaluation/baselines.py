"""What a network has to beat: the unchanged frame, and the lens renderer, which needs depth that is given to it."""

import torch
from torch import Tensor

from pipeline.optics import Lens, defocus_px, render_lens_blur


def unchanged(frame: Tensor) -> Tensor:
    """The all-in-focus frame as the answer."""
    return frame


@torch.no_grad()
def lens_render(frame: Tensor, depth_m: Tensor, lens: Lens, px_per_mm: float, max_radius_px: float) -> Tensor:
    """The project's lens renderer with the depth at hand.

    Args:
        frame: (B, 3, H, W) sRGB in [0, 1].
        depth_m: (B, 1, H, W) metres; the truth, or a network's.
        lens: the lens of the photograph.
        px_per_mm: of the full frame.
        max_radius_px: where the truth saturates.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    radius = defocus_px(depth_m.float(), lens, px_per_mm).clamp(-max_radius_px, max_radius_px)
    return render_lens_blur(frame.float(), radius, order=depth_m.float()).clamp(0, 1)
