"""Between images and tensors of numbers: the one place that divides by 255, or 65535, and rounds back."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.media.arrays import AnyPicture, DeepPicture, Picture


def image_to_tensor(image: AnyPicture, device: torch.device | str = "cpu") -> Tensor:
    """(H, W, 3) uint8 or uint16 -> (3, H, W) float32 in [0, 1]; bytes travel to the device as bytes."""
    if image.dtype == np.uint16:
        return torch.from_numpy(image.astype(np.float32)).to(device).permute(2, 0, 1) / 65535
    return torch.from_numpy(image).to(device).permute(2, 0, 1).float() / 255


def tensor_to_image(image: Tensor) -> Picture:
    """(3, H, W) in [0, 1], on any device -> (H, W, 3) uint8, rounded; what lies outside is clipped."""
    levels = (image.detach().float().clamp(0, 1) * 255).round().byte()
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())


def tensor_to_deep(image: Tensor) -> DeepPicture:
    """The same over the whole range of 16 bits."""
    levels = image.detach().float().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return np.rint(np.ascontiguousarray(levels) * 65535).astype(np.uint16)


def image_to_unit(image: AnyPicture) -> npt.NDArray[np.float32]:
    """(H, W, 3) uint8 or uint16 -> the same in [0, 1], float32, without PyTorch."""
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def unit_to_image(values: npt.NDArray[np.float32], like: AnyPicture) -> AnyPicture:
    """(H, W, 3) in [0, 1] -> levels of the depth that `like` has, rounded; what lies outside is clipped."""
    levels: AnyPicture = np.rint(np.clip(values, 0, 1) * np.float32(np.iinfo(like.dtype).max)).astype(like.dtype)
    return levels
