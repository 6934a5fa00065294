"""PG-CoC: the photograph that a depth map implies, through the shared lens renderer.

Special: the same renderer and the same formulas that made the training data, differentiable from the image back to depth,
lens and light. Per sample and per pixel: no lens of a batch reaches another sample's image.

Shape letters: B = samples; H, W = image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.bokehflow.config import BokehFlowConfig
from model.bokehflow.lens import LensBatch, blur_radius_px
from pipeline.optics import FixedShapes, linear_to_srgb
from pipeline.optics.render import check_image_range, render_traced


@dataclass(frozen=True, kw_only=True)
class Blurred:
    """What rendering gave.

    Args:
        image: (B, 3, H, W) sRGB in [0, 1].
        invented: (B, 1, H, W) share of what covers a pixel that no pixel of the frame showed, detached.
        radius_px: (B, 1, H, W) signed radius, px of the full frame.
        clipped_share: (B,) share of clipped radii.
    """

    image: Tensor
    invented: Tensor
    radius_px: Tensor
    clipped_share: Tensor


class PhysicsBlur(nn.Module):
    """Depth and lens to a photograph; nothing here is learned.

    Args:
        config: for the lens model, the limit and whether there is a renderer at all.
    """

    def __init__(self, config: BokehFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.fixed: FixedShapes | None = None  # see `BokehFlow.fix_shapes`

    def forward(self, light: Tensor, depth_m: Tensor, lens: LensBatch, frame: Tensor | None = None) -> Blurred:
        """Render.

        Args:
            light: (B, 3, H, W) linear light >= 0, float32 or float64; may exceed white.
            depth_m: (B, 1, H, W) metres, > 0.
            lens: B lenses.
            frame: the sRGB picture that the light is of, to check: light has no upper bound that would show a wrong one.

        Raises:
            OpticsError: values that are no sRGB picture.
        """
        if frame is not None and self.fixed is None:
            check_image_range(frame, "srgb")
        with torch.autocast(light.device.type, enabled=False):
            radius, clipped = blur_radius_px(depth_m, lens, self.config)
            if self.config.enable_physics:
                # A clipped radius ties far surfaces, which never changes what hides what: no separate order is needed.
                rendered, invented = render_traced(light, radius, encoding="linear", fixed=self.fixed)
            else:
                rendered, invented = light, torch.zeros_like(radius)
            image = linear_to_srgb(rendered.clamp(max=1))
        return Blurred(image=image, invented=invented.detach(), radius_px=radius, clipped_share=clipped)
