"""BokehFlow's side of a checkpoint: what its numbers mean, and a way to load one that gives the type back."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.bokehflow.config import BokehFlowConfig
from model.bokehflow.network import BokehFlow
from model.errors import CheckpointError
from model.training.network_file import Loaded, load_kind, network_bytes

FAMILY = "bokehflow"
# What the numbers mean, for whoever opens a file years later.
CONVENTIONS = {
    "frame": "sRGB in [0, 1], all in focus",
    "depth": "z-depth along the optical axis, metres",
    "lens": "f_m and focus_m in metres, f_number; coc_model as in the config",
    "px_per_mm": "pixels per millimetre of sensor of the FULL frame; a crop keeps it",
    "radius": "pixels of the full frame, half the circle of confusion",
}


def model_bytes(config: BokehFlowConfig, weights: Mapping[str, Tensor], step: int, training: dict[str, Any]) -> bytes:
    """model.safetensors of a BokehFlow: float32 weights with everything needed to use them."""
    return network_bytes(FAMILY, config.to_dict(), CONVENTIONS, weights, step, training)


def network_from(config: Mapping[str, Any], weights: dict[str, Tensor]) -> BokehFlow:
    """The network of a checkpoint's config and weights.

    Raises:
        BokehFlowError: no such config.
        CheckpointError: weights of the architecture before this one.
        RuntimeError: the weights are not the config's.
    """
    if "mix_logit" in weights:
        raise CheckpointError(
            "these weights are of a BokehFlow of version 0.1.0, which mixed its image by one number; this version mixes "
            "per pixel: train again, or use the version that wrote them"
        )
    net = BokehFlow(BokehFlowConfig.from_dict(config))
    net.load_state_dict(weights)
    return net


def load_bokehflow(path: Path, device: torch.device | str = "cpu") -> Loaded[BokehFlow]:
    """A BokehFlow from a file, a checkpoint folder or a run's folder, in evaluation mode.

    Raises:
        UsageError: there is no such checkpoint.
        CheckpointError: it cannot be used, or is a network of another family.
    """
    return load_kind(path, FAMILY, BokehFlow, device)


def same_network(first: BokehFlowConfig, second: BokehFlowConfig) -> bool:
    """Whether weights of one fit the other; the backend of the recurrence makes no difference to them."""
    return replace(first, backend=second.backend) == second
