"""Learned distances between pictures, each where its weights are: LPIPS of VGG-16, and ST-LPIPS.

Both call equal pictures 0; their figures cannot be compared with each other.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.evaluation.perceptual import load_lpips
from model.evaluation.st_lpips import SMALLEST_PX, load_st_lpips

Distance = Callable[
    [Tensor, Tensor], float
]  # of two (1, 3, H, W) pictures in [0, 1], on any device; NaN where it does not exist


@dataclass(frozen=True, kw_only=True)
class Distances:
    """What can be measured here, by the name of its figure, and why the others are left out."""

    known: Mapping[str, Distance]
    notes: tuple[str, ...]


def load_distances(vgg_weights: Path | None, device: torch.device | str) -> Distances:
    """All distances whose weights are there.

    Args:
        vgg_weights: VGG-16 for LPIPS; None looks into PyTorch's cache.
        device: where to compute.

    Raises:
        UsageError: a weights file is damaged, another network's, or named and not there.
    """
    known: dict[str, Distance] = {}
    notes = []
    lpips, shifted = load_lpips(vgg_weights), load_st_lpips()
    if isinstance(lpips, str):
        notes.append(lpips)
    else:
        vgg = lpips.to(device)
        known["lpips"] = lambda image, truth: float(vgg(image.to(device), truth.to(device)))
    if isinstance(shifted, str):
        notes.append(shifted)
    else:
        alex = shifted.to(device)
        known["st_lpips"] = lambda image, truth: (
            float(alex(*(2 * picture.to(device) - 1 for picture in (image, truth))))
            if min(image.shape[-2:]) >= SMALLEST_PX
            else math.nan
        )
    return Distances(known=known, notes=tuple(notes))
