"""The LoRA: which layers of SDXL it adapts, the ways in which files name them, and merging it into the weights.

Every expected layer must match. The authors' program with a newer diffusers loads nothing and says nothing; SDXL as it is then
draws over-smoothed pictures.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from pipeline.errors import UsageError
from pipeline.weights import safetensors_shapes

Pair = tuple[Tensor, Tensor]  # A (rank, in) or (rank, in, k, k), B (out, rank) or (out, rank, 1, 1)

TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)
_PREFIXES = ("base_model.model.", "unet.")
_KINDS = {"lora_A": "A", "lora_B": "B", "lora.down": "A", "lora.up": "B", "lora_A.default": "A", "lora_B.default": "B"}
_KEY = re.compile(r"(.+?)\.(lora_[AB](?:\.default)?|lora\.down|lora\.up)\.weight")


def adapted_layers(unet: nn.Module) -> dict[str, tuple[int, ...]]:
    """The layers that the LoRA adapts, by suffix, with the shape of their weights; 788 of SDXL's 794."""
    return {
        name: tuple(layer.weight.shape)
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and any(f".{name}".endswith(f".{target}") for target in TARGETS)
    }


def _other_layers(unet: nn.Module) -> dict[str, tuple[int, ...]]:
    """The linear and convolutional layers that are no target; a file that adapts all 794 has these too, or none of them."""
    targets = adapted_layers(unet)
    return {
        name: tuple(layer.weight.shape)
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and name not in targets
    }


def _parsed(key: str) -> tuple[str, str] | None:
    """(layer, "A" or "B") of a key in any of the layouts."""
    for prefix in _PREFIXES:  # both, where PEFT wrapped what diffusers had named
        key = key.removeprefix(prefix)
    found = _KEY.fullmatch(key)
    return (found[1], _KINDS[found[2]]) if found else None


def check_lora(path: Path, unet: nn.Module) -> dict[str, tuple[int, ...]]:
    """Compare a file's header with the network; reads no weights.

    Args:
        path: a safetensors file in any of the layouts.
        unet: the network, on any device, meta included.

    Returns:
        The layers that the file adapts, with the shape of their weights.

    Raises:
        UsageError: a layer is missing, unknown or of another shape; the message names the first, and matched of total.
    """
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    unknown = []
    for key, shape in safetensors_shapes(path).items():
        parsed = _parsed(key)
        if parsed is None:
            unknown.append(key)
        else:
            found.setdefault(parsed[0], {})[parsed[1]] = shape
    needed, others = adapted_layers(unet), _other_layers(unet)
    if set(found) & set(others):
        needed = needed | others
    unknown += sorted(set(found) - set(needed))
    missing = [name for name in needed if set(found.get(name, ())) != {"A", "B"}]
    _refuse(path, needed, missing, "missing")
    _refuse(path, needed, [name for name, shape in needed.items() if not _fits(found[name], shape)], "of another shape")
    if unknown:
        raise UsageError(
            f"{path} adapts what this SDXL does not have: the first of {len(unknown)} is {unknown[0]}; it must be BokehDiff's"
        )
    return needed


def _refuse(path: Path, needed: Mapping[str, Any], bad: list[str], what: str) -> None:
    if bad:
        matched = len(needed) - len(bad)
        raise UsageError(
            f"{path} is not BokehDiff's LoRA for this SDXL: {matched}/{len(needed)} layers matched, the first {what} is "
            f"{bad[0]}; fetch the file again, or give the base it was trained on"
        )


def _fits(pair: Mapping[str, tuple[int, ...]], weight: tuple[int, ...]) -> bool:
    rank = pair["A"][0] if pair["A"] else 0
    ones = (1,) * (len(weight) - 2)
    return pair["A"] == (rank, *weight[1:]) and pair["B"] == (weight[0], rank, *ones) and rank > 0


def _alpha(metadata: Mapping[str, str] | None, rank: int) -> float:
    """lora_alpha as diffusers writes it into a file's metadata; else the rank, as the published network has it (8 and 8)."""
    try:
        stored = json.loads((metadata or {}).get("lora_adapter_metadata", "{}"))
        known = {key.rpartition(".")[2]: value for key, value in stored.items()}
        return float(known.get("lora_alpha", rank))
    except (ValueError, TypeError, AttributeError):
        return float(rank)


def merge_lora(unet: nn.Module, path: Path) -> int:
    """Add alpha / rank * B A to every adapted layer, computed in float32.

    Args:
        unet: changed in place.
        path: of the LoRA.

    Returns:
        How many layers were adapted.

    Raises:
        UsageError: as `check_lora`.
    """
    layers = check_lora(path, unet)
    with safe_open(path, framework="pt") as file, torch.no_grad():
        keys = {_parsed(key): key for key in file.keys()}  # noqa: SIM118
        for name in layers:
            a, b = (file.get_tensor(keys[name, kind]).float() for kind in "AB")
            rank = a.shape[0]
            change = (b.flatten(1) @ a.flatten(1)) * (_alpha(file.metadata(), rank) / rank)
            weight = unet.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight.copy_(weight.float() + change.view(weight.shape).to(weight.device))
    return len(layers)
