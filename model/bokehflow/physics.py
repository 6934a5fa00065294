"""PG-CoC: the photograph that the predicted depth implies, through the shared lens renderer, and a small correction.

Special: the same renderer and the same formulas that made the training data, differentiable from the image back to depth
and lens. Per sample and per pixel: no lens of a batch reaches another sample's image.

Shape letters: B = samples; H, W = image.
"""

import torch
from torch import Tensor, nn

from model.bokehflow.config import BokehFlowConfig
from model.bokehflow.lens import LensBatch, blur_radius_px, radius_limit_px
from pipeline.optics import FixedShapes, render_lens_blur

REFINE_CHANNELS = 16
REFINE_SCALE = 0.1


class PhysicsBlur(nn.Module):
    """Depth and lens to a photograph."""

    def __init__(self, config: BokehFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.fixed: FixedShapes | None = None  # see `BokehFlow.fix_shapes`
        self.refine = nn.Sequential(
            nn.Conv2d(7, REFINE_CHANNELS, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(REFINE_CHANNELS, REFINE_CHANNELS, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(REFINE_CHANNELS, 3, 3, padding=1),
        )

    def forward(self, frame: Tensor, depth_m: Tensor, lens: LensBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Render.

        Args:
            frame: (B, 3, H, W) sRGB in [0, 1], float32 or float64.
            depth_m: (B, 1, H, W) metres, > 0.
            lens: B lenses.

        Returns:
            (B, 3, H, W) sRGB, not clamped; (B, 1, H, W) signed radius, px of the full frame; (B,) share of clipped radii.
        """
        with torch.autocast(frame.device.type, enabled=False):
            radius, clipped = blur_radius_px(depth_m, lens, self.config)
            # A clipped radius ties far surfaces, which never changes what hides what: no separate order is needed.
            rendered = render_lens_blur(frame, radius, fixed=self.fixed)
        share = radius / radius_limit_px(lens, self.config).reshape(-1, 1, 1, 1)
        return rendered + REFINE_SCALE * self.correction(rendered, frame, share), radius, clipped

    def correction(self, rendered: Tensor, frame: Tensor, share: Tensor) -> Tensor:
        """(B, 3, H, W) from the render, the frame and the signed radius over the largest."""
        seen = torch.cat([rendered * 2 - 1, frame * 2 - 1, share.to(frame.dtype)], dim=1)
        planes: Tensor = self.refine(seen.to(next(self.parameters()).dtype))
        return planes.to(frame.dtype)
