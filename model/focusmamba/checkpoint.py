"""FocusMamba's side of a checkpoint: what its numbers mean, and a way to load one that gives the type back."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.focusmamba.config import FocusMambaConfig, OverTime
from model.focusmamba.network import FocusMamba
from model.training.network_file import Loaded, load_kind

FAMILY = "focusmamba"
CONVENTIONS = {
    "frame": "sRGB in [0, 1], a photograph with the blur of its lens",
    "magnitude": "radius of the circle of confusion in pixels of the frame that was given, log(1 + radius) in the head",
    "variance": "of the magnitude, log px^2",
    "side": "logit of the probability that the surface lies behind the focus plane",
    "focus_map": "1 - min(radius / radius of max_coc, 1), computed, never predicted",
}


def network_from(config: Mapping[str, Any], weights: dict[str, Tensor]) -> FocusMamba:
    """The network of a checkpoint's config and weights.

    Raises:
        FocusMambaError: no such config.
        RuntimeError: the weights are not the config's.
    """
    net = FocusMamba(FocusMambaConfig.from_dict(config))
    net.load_state_dict(weights)
    return net


def load_focusmamba(path: Path, device: torch.device | str = "cpu") -> Loaded[FocusMamba]:
    """A FocusMamba from a file, a checkpoint folder or a run's folder, in evaluation mode.

    Raises:
        UsageError: there is no such checkpoint.
        CheckpointError: it cannot be used, or is a network of another family.
    """
    return load_kind(path, FAMILY, FocusMamba, device)


def same_network(first: FocusMambaConfig, second: FocusMambaConfig) -> bool:
    """Whether weights of one fit the other; what is done with the past has none of its own."""
    return replace(first, over_time=second.over_time) == second


def with_over_time(net: FocusMamba, over_time: OverTime) -> FocusMamba:
    """The same weights that use a film's past in another way; the three ways have the same parameters."""
    device = net.bins.device
    other = FocusMamba(replace(net.config, over_time=over_time)).to(device).train(net.training)
    other.load_state_dict(net.state_dict())
    return other
