"""One training sample and a batch of them: frames, photographs, depth where known, and the lens that took them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.optics import Lens

# Shape letters: B samples, T frames of a clip, H, W crop.


@dataclass(frozen=True, kw_only=True)
class Clip:
    """T consecutive frames of one scene through one lens.

    Args:
        name: scene, set, frames and crop, for people who look for a bad sample.
        frames, bokeh: (T, 3, H, W) sRGB in [0, 1]: all in focus, and as the lens took it.
        depth_m: (T, 1, H, W) metres, > 0; None where nobody measured it.
        lens: the lens of the photographs, of the first where the focus travels.
        px_per_mm: of the full frame, whatever the crop.
        max_radius_px: blur radius at which the photographs saturate; infinity for a camera's.
        pull_m: focus distance of every frame, metres, where it travels; else empty.
    """

    name: str
    frames: Tensor
    bokeh: Tensor
    depth_m: Tensor | None
    lens: Lens
    px_per_mm: float
    max_radius_px: float
    pull_m: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """B clips of one size. Lens values are (B,) float32 tensors in the units of their names, the focus one of every frame."""

    names: tuple[str, ...]
    frames: Tensor  # (B, T, 3, H, W)
    bokeh: Tensor  # (B, T, 3, H, W)
    depth_m: Tensor | None  # (B, T, 1, H, W)
    f_m: Tensor
    f_number: Tensor
    focus_m: Tensor  # (B, T)
    px_per_mm: Tensor
    max_radius_px: Tensor

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_frames(self) -> int:
        return self.frames.shape[1]

    def to(self, device: torch.device | str) -> "ClipBatch":
        moved: dict[str, Any] = {
            key: value.to(device, non_blocking=True) for key, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def collate(clips: Sequence[Clip]) -> ClipBatch:
    """Stack clips.

    Raises:
        InputError: they differ in size, or only some have depth; the message names two that do not go together.
    """
    first = clips[0]
    for clip in clips[1:]:
        if clip.frames.shape != first.frames.shape or (clip.depth_m is None) != (first.depth_m is None):
            raise InputError(
                f"clips of one batch must agree in size and depth: {first.name} is {tuple(first.frames.shape)} with "
                f"{'no ' if first.depth_m is None else ''}depth, {clip.name} {tuple(clip.frames.shape)} with "
                f"{'no ' if clip.depth_m is None else ''}depth; set a crop that all frames hold"
            )
    depths = [clip.depth_m for clip in clips if clip.depth_m is not None]
    return ClipBatch(
        names=tuple(clip.name for clip in clips),
        frames=torch.stack([clip.frames for clip in clips]),
        bokeh=torch.stack([clip.bokeh for clip in clips]),
        depth_m=torch.stack(depths) if depths else None,
        f_m=torch.tensor([clip.lens.f_m for clip in clips]),
        f_number=torch.tensor([clip.lens.f_number for clip in clips]),
        focus_m=torch.tensor([clip.pull_m or (clip.lens.focus_m,) * len(clip.frames) for clip in clips]),
        px_per_mm=torch.tensor([clip.px_per_mm for clip in clips]),
        max_radius_px=torch.tensor([clip.max_radius_px for clip in clips]),
    )
