"""What the network is fed: the authors' choice of size, a cubic resize without clamping, ImageNet's mean and spread."""

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.engines.vda.architecture import PATCH_PX
from pipeline.frames import Picture

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
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


def prepare(frame: Picture, size: tuple[int, int]) -> Tensor:
    """(H, W, 3) uint8 RGB -> (3, h, w) float32, normalised; overshoot of the cubic resize is kept, as in training."""
    resized = cv2.resize(frame.astype(np.float32) / 255, size, interpolation=cv2.INTER_CUBIC)
    return torch.from_numpy(np.ascontiguousarray(((resized - _MEAN) / _STD).transpose(2, 0, 1)))
