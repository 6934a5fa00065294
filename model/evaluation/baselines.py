"""What a network has to beat: the unchanged frame, and the lens renderer, with depth that is given to it or blind.

Blind depth is the mean of training scenes: whoever is not clearly better has learned where the floor usually is, and no more.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from model.data.scene_manifest import SceneManifest
from model.data.scenes import read_depth
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


class BlindDepth:
    """Depth without a look at the picture: the geometric mean over training scenes, of all, by row, or by place.

    Args:
        depths_m: (1, H, W) metres each, of any sizes; at least one.
    """

    SIZE = (44, 80)  # of the map that means are taken on
    FAR_M = 100.0  # what is farther counts as this far

    def __init__(self, depths_m: Iterable[Tensor]) -> None:
        total, count = torch.zeros(1, 1, *self.SIZE), 0
        for depth in depths_m:
            small = torch.nn.functional.interpolate(depth[None].clamp(max=self.FAR_M).log(), self.SIZE, mode="area")
            total, count = total + small, count + 1
        assert count, "a training split has at least one scene"
        self._log_m = total / count

    @classmethod
    def of(cls, manifest: SceneManifest) -> "BlindDepth":
        """From the first frame of every scene."""
        return cls(read_depth(scene, 0) for scene in manifest.scenes)

    def depth_m(self, kind: str, like: Tensor) -> Tensor:
        """(B, 1, H, W) metres for a picture's size and device; kind "constant", "rows" or "map"."""
        mean = self._log_m
        if kind != "map":
            mean = mean.mean((-2, -1) if kind == "constant" else -1, keepdim=True).expand_as(mean)
        large = torch.nn.functional.interpolate(mean, like.shape[-2:], mode="bilinear", align_corners=False)
        return large.exp().to(like.device).expand(len(like), -1, -1, -1).contiguous()
