"""The LoRA files of Genfocus: which layers of FLUX they adapt, read, checked, and kept apart from the base weights.

They are never merged. Only condition tokens see them, so every adapted layer is needed in both forms, and
base(x) + B(A(x)) is also what the published pictures were made with: a merged bf16 matrix rounds differently.
There is no alpha: the scale is exactly 1. The rank is read off the tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import UsageError
from pipeline.weights import Shapes, differences, safetensors_shapes

Pair = tuple[Tensor, Tensor]  # A (rank, in), B (out, rank)

_PREFIX = "transformer."


def adapted_layers(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """The layers that a Genfocus LoRA adapts, with their (in, out) sizes.

    Six per double and six per single block, and the image embedder; FLUX.1-dev (19 + 38 blocks) has 343. The text branch,
    the last projection and the first layer of the feed-forward networks have none.

    Args:
        config: of a FluxTransformer2DModel.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    layers = {"x_embedder": (config["in_channels"], width)}
    for number in range(config["num_layers"]):
        block = f"transformer_blocks.{number}"
        layers[f"{block}.norm1.linear"] = (width, 6 * width)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            layers[f"{block}.attn.{name}"] = (width, width)
        layers[f"{block}.ff.net.2"] = (4 * width, width)
    for number in range(config["num_single_layers"]):
        block = f"single_transformer_blocks.{number}"
        layers[f"{block}.norm.linear"] = (width, 3 * width)
        layers[f"{block}.proj_mlp"] = (width, 4 * width)
        layers[f"{block}.proj_out"] = (5 * width, width)
        for name in ("to_q", "to_k", "to_v"):
            layers[f"{block}.attn.{name}"] = (width, width)
    return layers


@dataclass(frozen=True)
class Lora:
    """A and B of every adapted layer, by the layer's name in the transformer."""

    pairs: dict[str, Pair]

    @cached_property
    def blocks(self) -> dict[str, dict[str, Pair]]:
        """The pairs by block ("single_transformer_blocks.7") and by the layers' names inside it ("attn.to_q")."""
        split: dict[str, dict[str, Pair]] = {}
        for name, pair in self.pairs.items():
            kind, _, rest = name.partition(".")
            number, _, layer = rest.partition(".")
            split.setdefault(f"{kind}.{number}" if layer else name, {})[layer] = pair
        return split

    def to(self, device: str | torch.device, dtype: torch.dtype) -> "Lora":
        """The same on another device and in another type."""
        return Lora({name: (a.to(device, dtype), b.to(device, dtype)) for name, (a, b) in self.pairs.items()})


def adapted(layer: nn.Module, x: Tensor, pair: Pair | None) -> Tensor:
    """layer(x), plus B(A(x)) where there is a pair."""
    if pair is None:
        return layer(x)
    a, b = pair
    return layer(x) + F.linear(F.linear(x, a), b)


def check_lora(path: Path, config: Mapping[str, Any]) -> None:
    """Compare a file's header with what a transformer of this config needs; reads no weights.

    Args:
        path: a safetensors file; keys with or without the prefix "transformer.".
        config: of the FluxTransformer2DModel it shall adapt.

    Raises:
        UsageError: the file is truncated or no safetensors file, or it adapts other layers or other sizes; the message
            names the differences.
    """
    shapes = {_plain(key): shape for key, shape in safetensors_shapes(path).items()}
    layers = adapted_layers(config)
    ranks = {name: (shapes.get(f"{name}.lora_A.weight") or (0,))[0] for name in layers}
    needed: Shapes = {}
    for name, (inputs, outputs) in layers.items():
        needed[f"{name}.lora_A.weight"] = (ranks[name], inputs)
        needed[f"{name}.lora_B.weight"] = (outputs, ranks[name])
    text = differences(needed, shapes)
    if text:
        raise UsageError(
            f"{path} is a LoRA for another model; of {len(needed)} tensors needed, {len(shapes)} found: {text}"
        )


def load_lora(path: Path, config: Mapping[str, Any]) -> Lora:
    """Check and read a LoRA file. Raises what `check_lora` raises."""
    check_lora(path, config)
    tensors = {_plain(key): value for key, value in load_file(path).items()}
    return Lora(
        {name: (tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]) for name in adapted_layers(config)}
    )


def _plain(key: str) -> str:
    return key.removeprefix(_PREFIX)
