"""What the network is fed: the authors' choice of size, a cubic resize without clamping, ImageNet's mean and spread."""

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.engines.vda.architecture import PATCH_PX
from pipeline.media.images import Picture

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_LONGEST_RATIO = 1.78  # pictures longer than 16:9 get a smaller short side, so that memory stays what it is at 16:9
_RATIO = 1.777


def network_size(width: int, height: int, input_size: int = 518) -> tuple[int, int]:
    """(width, height) in px at which the network sees a frame: multiples of 14, the short side near `input_size`.

    1920x1080 -> 924x518, 640x480 -> 686x518, 2048x858 -> 938x392.
    """
    ratio = max(width, height) / min(width, height)
    if ratio > _LONGEST_RATIO:
        input_size = round(int(input_size * _RATIO / ratio) / PATCH_PX) * PATCH_PX
    input_size = max(input_size, PATCH_PX)  # a strip of one patch is the least there is
    scale = max(input_size / width, input_size / height)

    def side(length: int) -> int:
        nearest = round(length * scale / PATCH_PX) * PATCH_PX
        return nearest if nearest >= input_size else int(np.ceil(length * scale / PATCH_PX)) * PATCH_PX

    return side(width), side(height)


def resize_frame(frame: Picture, size: tuple[int, int]) -> Tensor:
    """(H, W, 3) uint8 RGB -> (h, w, 3) float32, about 0 to 255: the overshoot of the cubics is kept, as in training."""
    return torch.from_numpy(cv2.resize(frame.astype(np.float32), size, interpolation=cv2.INTER_CUBIC))


def normalise(frames: Tensor) -> Tensor:
    """(B, h, w, 3) of `resize_frame` -> (B, 3, h, w) around zero. Done where the network runs: a CPU has enough to do."""
    mean, std = frames.new_tensor(_MEAN), frames.new_tensor(_STD)
    return ((frames / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
