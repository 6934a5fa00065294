"""Between images of bytes and tensors of numbers: the one place that divides by 255 and rounds back."""

import numpy as np
import torch
from torch import Tensor

from pipeline.media.images import Picture


def image_to_tensor(image: Picture, device: torch.device | str = "cpu") -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in [0, 1]; travels to the device as bytes."""
    return torch.from_numpy(image).to(device).permute(2, 0, 1).float() / 255


def tensor_to_image(image: Tensor) -> Picture:
    """(3, H, W) in [0, 1], on any device -> (H, W, 3) uint8, rounded; what lies outside is clipped."""
    levels = (image.detach().float().clamp(0, 1) * 255).round().byte()
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())
