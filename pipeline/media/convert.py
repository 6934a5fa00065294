"""Between images and tensors of numbers: the one place that divides by 255, or 65535, and rounds back."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.media.arrays import AnyPicture, DeepPicture, Picture


def image_to_tensor(image: AnyPicture, device: torch.device | str = "cpu") -> Tensor:
    """(H, W, 3) uint8 or uint16 -> (3, H, W) float32 in [0, 1]; bytes travel to the device as bytes.

    To a GPU through pinned memory, which it reads by itself: the host does not wait.
    """
    values = torch.from_numpy(image.astype(np.float32) if image.dtype == np.uint16 else image)
    if torch.device(device).type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True).permute(2, 0, 1).float() / float(np.iinfo(image.dtype).max)


def levels_of(image: Tensor, dtype: np.dtype) -> Tensor:
    """(3, H, W) in [0, 1] -> (H, W, 3) levels on the same device: uint8, or float32 that uint16 holds; rounded, clipped."""
    most = float(np.iinfo(dtype).max)
    levels = (image.detach().float().clamp(0, 1).permute(1, 2, 0) * most).round().contiguous()
    return levels.byte() if dtype == np.uint8 else levels


def tensor_to_image(image: Tensor) -> Picture:
    """(3, H, W) in [0, 1], on any device -> (H, W, 3) uint8, rounded; what lies outside is clipped."""
    return levels_of(image, np.dtype(np.uint8)).cpu().numpy()


def tensor_to_deep(image: Tensor) -> DeepPicture:
    """The same over the whole range of 16 bits."""
    return levels_of(image, np.dtype(np.uint16)).cpu().numpy().astype(np.uint16)


def image_to_unit(image: AnyPicture) -> npt.NDArray[np.float32]:
    """(H, W, 3) uint8 or uint16 -> the same in [0, 1], float32, without PyTorch."""
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def unit_to_image(values: npt.NDArray[np.float32], like: AnyPicture) -> AnyPicture:
    """(H, W, 3) in [0, 1] -> levels of the depth that `like` has, rounded; what lies outside is clipped."""
    levels: AnyPicture = np.rint(np.clip(values, 0, 1) * np.float32(np.iinfo(like.dtype).max)).astype(like.dtype)
    return levels
